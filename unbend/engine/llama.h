// What every use of libllama in this folder shares; internal to the folder.
#pragma once

#include <llama.h>

#include <memory>
#include <string>

namespace unbend::engine {

/// From the first one on, libllama's and ggml's log stays off standard error in the whole process; each keeps the
/// errors that its thread causes during its life, for messages of our own.
class LlamaLog {
 public:
  LlamaLog();
  ~LlamaLog();
  LlamaLog(const LlamaLog&) = delete;
  LlamaLog& operator=(const LlamaLog&) = delete;
  /// The last error line, without its source location; "" if there was none.
  std::string last_error() const;

 private:
  std::string errors_;
  std::string* outer_;
};

struct LlamaDeleter {
  void operator()(llama_model* model) const { llama_model_free(model); }
  void operator()(llama_context* context) const { llama_free(context); }
};
using LlamaModel = std::unique_ptr<llama_model, LlamaDeleter>;
using LlamaContext = std::unique_ptr<llama_context, LlamaDeleter>;

}  // namespace unbend::engine
