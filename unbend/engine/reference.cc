#include "unbend/engine/reference.h"

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/engine/gguf.h"
#include "unbend/engine/llama.h"

namespace unbend::engine {
namespace {

LlamaModel load_model(const std::filesystem::path& path, const LlamaLog& log) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  params.use_extra_bufts = false;  // no repacked weights: the plainest kernels
  LlamaModel model(llama_model_load_from_file(path.c_str(), params));
  require(model != nullptr, "{}: libllama cannot load the model: {}", path.string(), log.last_error());
  return model;
}

LlamaContext make_context(llama_model& model, std::size_t tokens, int threads) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = static_cast<std::uint32_t>(tokens);
  params.n_ubatch = static_cast<std::uint32_t>(std::min<std::size_t>(tokens, 512));
  params.n_threads = params.n_threads_batch = threads;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.no_perf = true;
  return LlamaContext(llama_init_from_model(&model, params));
}

}  // namespace

std::vector<float> llama_logits(const std::filesystem::path& path, std::span<const TokenId> ids, int threads) {
  Gguf::open(path);
  const LlamaLog log;
  const LlamaModel model = load_model(path, log);
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
  const int context_length = llama_model_n_ctx_train(model.get());
  require(threads > 0, "threads is {}, it must be positive", threads);
  require(!ids.empty() && ids.size() <= static_cast<std::size_t>(context_length), "{}: got {} tokens, it takes 1 to {}",
          path.string(), ids.size(), context_length);
  for (const TokenId id : ids) {
    require(id >= 0 && id < vocabulary, "token id {} is out of range, the vocabulary has {} tokens", id, vocabulary);
  }

  const LlamaContext context = make_context(*model, ids.size(), threads);
  if (!context)
    fail_computation("{}: libllama cannot make a context of {} tokens: {}", path.string(), ids.size(),
                     log.last_error());
  llama_batch batch = llama_batch_init(static_cast<int>(ids.size()), 0, 1);
  batch.n_tokens = static_cast<int>(ids.size());
  for (int i = 0; i < batch.n_tokens; ++i) {
    batch.token[i] = ids[i];
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = true;
  }
  const int status = llama_decode(context.get(), batch);
  llama_batch_free(batch);
  if (status != 0)
    fail_computation("{}: libllama's decoding failed with status {}: {}", path.string(), status, log.last_error());
  const float* logits = llama_get_logits(context.get());
  return {logits, logits + ids.size() * static_cast<std::size_t>(vocabulary)};
}

}  // namespace unbend::engine
