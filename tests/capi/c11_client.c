/* A client in C11: that it compiles without warnings shows that unbend.h is C. */
#include "tests/capi/c11_client.h"

#include <string.h>

_Static_assert(UNBEND_OK == 0, "a status can be tested as a truth value");

struct buffer {
  char* text;
  size_t capacity, length;
};

static int append(const char* text, size_t length, void* user) {
  struct buffer* buffer = user;
  if (buffer->length + length >= buffer->capacity) return 1;
  memcpy(buffer->text + buffer->length, text, length + 1);
  buffer->length += length;
  return 0;
}

unbend_status answer_in_c(const char* model_path, const char* question, int64_t tokens, char* answer, size_t capacity,
                          unbend_generation* generation) {
  const unbend_message message = {.role = "user", .content = question};
  unbend_generate_options options = unbend_generate_defaults();
  unbend_model* model = NULL;
  unbend_engine* engine = NULL;
  char* chat = NULL;
  int32_t* ids = NULL;
  size_t length = 0, count = 0;
  struct buffer buffer = {answer, capacity, 0};
  options.max_tokens = tokens;
  options.temperature = 0;

  unbend_status status = unbend_model_open(model_path, &model);
  if (!status) status = unbend_engine_create(model, NULL, &engine);
  if (!status) status = unbend_chat(model, &message, 1, 1, &chat, &length);
  if (!status) status = unbend_encode(model, chat, length, UNBEND_BOS | UNBEND_SPECIAL, &ids, &count);
  if (!status) status = unbend_generate(engine, UNBEND_NEW_SEQUENCE, ids, count, &options, append, &buffer, generation);
  unbend_free(ids);
  unbend_free(chat);
  unbend_engine_destroy(engine);
  unbend_model_close(model);
  return status;
}
