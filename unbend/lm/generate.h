// Text from a decoder, token by token.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/engine/generate.h"
#include "unbend/lm/decoder.h"

namespace unbend::lm {

using engine::GenerateOptions;
using engine::Generation;

/// Continues `prompt`. `stream` gets text as soon as it is certain (whole UTF-8 characters, never part of a stop text).
Generation generate(const Decoder& decoder, const engine::Tokenizer& tokenizer,
                    const std::vector<engine::TokenId>& prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& stream = {});

/// `count` texts of at most `length` tokens each from an empty prompt (BOS alone), `batch` at a time; every text has
/// its own random stream, so the result does not depend on `batch`. `done` gets the number of tokens so far.
std::vector<std::string> sample_texts(const Decoder& decoder, const engine::Tokenizer& tokenizer, std::int64_t count,
                                      std::int64_t length, std::int64_t batch, const engine::SamplerOptions& options,
                                      const std::function<void(std::int64_t)>& done = {});

/// Feeds `ids` to `state` in chunks; returns the hidden state [1, 1, hidden] of the last token.
at::Tensor prefill(const Decoder& decoder, DecoderState& state, const std::vector<engine::TokenId>& ids,
                   std::int64_t chunk);

}  // namespace unbend::lm
