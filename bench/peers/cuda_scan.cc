// The gated scan as an operator that Python can load beside flash-linear-attention: torch.ops.unbend_bench.gated_scan.
#include <torch/library.h>

#include "unbend/attention/gated_scan.h"

TORCH_LIBRARY(unbend_bench, library) {
  library.def(
      "gated_scan(Tensor q, Tensor k, Tensor v, Tensor? log_decay, Tensor? state, bool recurrent) -> (Tensor, Tensor)",
      [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& log_decay,
         const std::optional<at::Tensor>& state, bool recurrent) {
        const auto form = recurrent ? unbend::Form::Recurrent : unbend::Form::Chunked;
        const auto scan =
            unbend::gated_scan(q, k, v, log_decay.value_or(at::Tensor()), state.value_or(at::Tensor()), {.form = form});
        return std::make_tuple(scan.out, scan.state);
      });
}
