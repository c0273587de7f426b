#include "unbend/engine/reference.h"

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/engine/gguf.h"
#include "unbend/engine/llama.h"

namespace unbend::engine {
namespace {

/// `plain`: the plainest kernels in float32; otherwise what libllama takes by itself.
LlamaModel load_model(const std::filesystem::path& path, bool plain, const LlamaLog& log) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  params.use_extra_bufts = !plain;  // repacked weights
  LlamaModel model(llama_model_load_from_file(path.c_str(), params));
  require(model != nullptr, "{}: libllama cannot load the model: {}", path.string(), log.last_error());
  return model;
}

LlamaContext make_context(llama_model& model, std::size_t tokens, int threads, bool plain) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = static_cast<std::uint32_t>(tokens);
  params.n_ubatch = static_cast<std::uint32_t>(std::min<std::size_t>(tokens, 512));
  params.n_threads = params.n_threads_batch = threads;
  if (plain) params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = plain ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.no_perf = true;
  return LlamaContext(llama_init_from_model(&model, params));
}

/// A model and a context for `tokens` tokens, of which `ids` come first.
struct Run {
  LlamaLog log;
  LlamaModel model;
  LlamaContext context;
  int vocabulary = 0;
  std::string where;

  Run(const std::filesystem::path& path, std::span<const TokenId> ids, std::size_t tokens, int threads, bool plain)
      : where(path.string()) {
    Gguf::open(path);
    model = load_model(path, plain, log);
    vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
    const int context_length = llama_model_n_ctx_train(model.get());
    require(threads > 0, "threads is {}, it must be positive", threads);
    require(!ids.empty() && tokens <= static_cast<std::size_t>(context_length), "{}: got {} tokens, it takes 1 to {}",
            where, tokens, context_length);
    for (const TokenId id : ids) {
      require(id >= 0 && id < vocabulary, "token id {} is out of range, the vocabulary has {} tokens", id, vocabulary);
    }
    context = make_context(*model, tokens, threads, plain);
    if (!context)
      fail_computation("{}: libllama cannot make a context of {} tokens: {}", where, tokens, log.last_error());
  }

  void add(std::span<const TokenId> ids, std::size_t position, bool all_logits) {
    llama_batch batch = llama_batch_init(static_cast<int>(ids.size()), 0, 1);
    batch.n_tokens = static_cast<int>(ids.size());
    for (int i = 0; i < batch.n_tokens; ++i) {
      batch.token[i] = ids[i];
      batch.pos[i] = static_cast<llama_pos>(position) + i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = all_logits || i + 1 == batch.n_tokens;
    }
    const int status = llama_decode(context.get(), batch);
    llama_batch_free(batch);
    if (status != 0)
      fail_computation("{}: libllama's decoding failed with status {}: {}", where, status, log.last_error());
  }
};

}  // namespace

std::vector<float> llama_logits(const std::filesystem::path& path, std::span<const TokenId> ids, int threads) {
  Run run(path, ids, ids.size(), threads, true);
  run.add(ids, 0, true);
  const float* logits = llama_get_logits(run.context.get());
  return {logits, logits + ids.size() * static_cast<std::size_t>(run.vocabulary)};
}

std::vector<TokenId> llama_greedy(const std::filesystem::path& path, std::span<const TokenId> prompt, int count,
                                  int threads) {
  Run run(path, prompt, prompt.size() + static_cast<std::size_t>(std::max(0, count)), threads, false);
  run.add(prompt, 0, false);
  std::vector<TokenId> out;
  while (static_cast<int>(out.size()) < count) {
    const float* logits = llama_get_logits_ith(run.context.get(), -1);
    out.push_back(static_cast<TokenId>(std::max_element(logits, logits + run.vocabulary) - logits));
    if (static_cast<int>(out.size()) < count) run.add({&out.back(), 1}, prompt.size() + out.size() - 1, false);
  }
  return out;
}

}  // namespace unbend::engine
