// The batches of a token file as a BatchSource of the trainer.
#pragma once

#include <memory>

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

}  // namespace unbend::lm
