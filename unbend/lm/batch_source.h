// The batches of a token file as a BatchSource of the trainer.
#pragma once

#include <memory>

#include "unbend/engine/tokenizer.h"
#include "unbend/lm/corpus.h"
#include "unbend/lm/distill.h"

namespace unbend::lm {

/// TokenBatches as tensors; its state is {"epoch", "batch"}. Rows and lengths may be smaller than the options say.
std::unique_ptr<BatchSource> batch_source(std::shared_ptr<const TokenFile> file, const BatchOptions& options);

/// [rows, length] int64.
at::Tensor window_tensor(const TokenFile& file, const std::vector<Window>& windows);
at::Tensor window_tensor(const std::vector<std::vector<TokenId>>& rows);

/// At most `count` full windows of `length` tokens, spread evenly over the file. Input error if there is none.
at::Tensor spread_windows(const TokenFile& file, std::int64_t length, std::int64_t count);
/// At most `count` of the rows [N, T], spread evenly: neighbours are often of one document.
at::Tensor spread_rows(const at::Tensor& windows, std::int64_t count);

/// Windows [N, T] as the tokenizer's model knows texts: BOS in place of the first token, where it wants one.
at::Tensor behind_bos(const at::Tensor& windows, const engine::Tokenizer& tokenizer);

}  // namespace unbend::lm
