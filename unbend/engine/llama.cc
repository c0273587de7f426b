#include "unbend/engine/llama.h"

#include <algorithm>
#include <mutex>

namespace unbend::engine {
namespace {

thread_local std::string* error_sink = nullptr;

void keep_errors(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR && error_sink) *error_sink += text;
}

}  // namespace

LlamaLog::LlamaLog() : outer_(error_sink) {
  static std::once_flag once;
  std::call_once(once, [] { llama_log_set(keep_errors, nullptr); });
  error_sink = &errors_;
}

LlamaLog::~LlamaLog() { error_sink = outer_; }

std::string LlamaLog::last_error() const {
  // "function: error loading model: error loading model vocabulary: reason", then a line of the caller that says less.
  std::string best;
  for (std::size_t start = 0; start < errors_.size();) {
    const std::size_t end = std::min(errors_.find('\n', start), errors_.size());
    const std::string line = errors_.substr(start, end - start);
    if (best.empty() || line.find("error loading") != std::string::npos) best = line;
    start = end + 1;
  }
  for (const std::string prefix : {"error loading model vocabulary: ", "error loading model: ", ": "}) {
    if (const std::size_t found = best.find(prefix); found != std::string::npos)
      return best.substr(found + prefix.size());
  }
  return best;
}

}  // namespace unbend::engine
