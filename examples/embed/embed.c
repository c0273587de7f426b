/* Answers a question with a GGUF model, token by token. Usage: embed_c MODEL QUESTION */
#include <stdio.h>
#include <stdlib.h>

#include "unbend/capi/unbend.h"

static void check(unbend_status status) {
  if (status == UNBEND_OK) return;
  fprintf(stderr, "embed_c: %s\n", unbend_last_error());
  exit(status);
}

static int print(const char* text, size_t length, void* user) {
  (void)user;
  fwrite(text, 1, length, stdout);
  return fflush(stdout); /* not 0, and the generation ends, when nobody reads any more */
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "embed_c: give a model and a question\n"), UNBEND_USAGE;
  unbend_model* model;
  check(unbend_model_open(argv[1], &model));

  unbend_message question = {"user", argv[2]};
  char* text;
  int32_t* prompt;
  size_t length, count;
  check(unbend_chat(model, &question, 1, 1, &text, &length));
  check(unbend_encode(model, text, length, UNBEND_BOS | UNBEND_SPECIAL, &prompt, &count));

  unbend_engine_options settings = unbend_engine_defaults();
  settings.threads = 1;
  settings.context = 2048;
  unbend_engine* engine;
  check(unbend_engine_create(model, &settings, &engine));
  unbend_generate_options options = unbend_generate_defaults();
  options.max_tokens = 32;
  options.temperature = 0;
  check(unbend_generate(engine, UNBEND_NEW_SEQUENCE, prompt, count, &options, print, NULL, NULL));
  puts("");

  unbend_free(text);
  unbend_free(prompt);
  unbend_engine_destroy(engine);
  unbend_model_close(model);
  return 0;
}
