// The independent oracle of the decoders: the whole model by libllama.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "unbend/engine/tokenizer.h"

namespace unbend::engine {

/// Logits [tokens, vocabulary], row-major, of a GGUF model on the CPU, with a float32 KV cache and plain attention (no
/// flash attention). With F32 weights the whole computation is float32. Input error if the file, an id or the number of
/// tokens (at most the model's context length) cannot be used, Computation error if libllama fails.
std::vector<float> llama_logits(const std::filesystem::path& gguf, std::span<const TokenId> ids, int threads);

/// The likeliest `count` tokens that libllama continues `prompt` with, one after the other, as it usually runs: flash
/// attention, float16 KV cache, repacked weights. Errors as above.
std::vector<TokenId> llama_greedy(const std::filesystem::path& gguf, std::span<const TokenId> prompt, int count,
                                  int threads);

}  // namespace unbend::engine
