// Answers a question with a GGUF model, token by token. Usage: embed MODEL QUESTION
#include <cstdio>
#include <string_view>

#include "unbend/base/error.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/generate.h"

using namespace unbend::engine;

int main(int argc, char** argv) try {
  if (argc != 3) unbend::fail_usage("give a model and a question");
  const auto tokenizer = Tokenizer::load(argv[1]);
  auto prompt = tokenizer.encode(tokenizer.chat({{"user", argv[2]}}), true);
  if (tokenizer.adds_bos()) prompt.insert(prompt.begin(), tokenizer.bos());

  Engine engine(Model::open(argv[1]), {.threads = 1, .context = 2048});
  GenerateOptions options;
  options.max_tokens = 32;
  options.sampler.temperature = 0;
  generate(engine, tokenizer, prompt, options, [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  });
  std::puts("");
} catch (const unbend::Error& error) {
  std::fprintf(stderr, "embed: %s\n", error.what());
  return error.exit_code();
}
