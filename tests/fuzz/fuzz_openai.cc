// Whatever a client sends, the parsers of requests give an ApiError or a request within its limits, and a schema gives
// an ApiError or a grammar; the error can be told.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "unbend/serve/answers.h"
#include "unbend/serve/openai.h"
#include "unbend/serve/schema.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace unbend::serve;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (const auto& parse : {parse_completion, parse_chat}) {
    try {
      const TextRequest request = parse(body);
      if (request.n < 1 || request.n > 8 || request.temperature < 0 || request.top_p <= 0 || request.logprobs > 20)
        std::abort();
      if (request.prompts.empty() == request.messages.empty()) std::abort();
      if (request.schema && schema_grammar(*request.schema).find("root ::=") == std::string::npos) std::abort();
    } catch (const ApiError& error) {
      if (error.status != 400 || to_text(error_body(error)).empty()) std::abort();
    }
  }
  return 0;
}
