#include "unbend/attention/window.h"

#include "unbend/attention/window_checks.h"
#include "unbend/base/error.h"

namespace unbend {

Partial window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowOptions& options) {
  check_window_arguments(q, k, v, options);
  require(q.size(2) == k.size(2), "window_attention: q {} and k {} must have the same length", q.sizes(), k.sizes());
  const auto positions = at::arange(q.size(2), at::TensorOptions().dtype(at::kLong));
  return window_attention_at(q, k, v, positions, positions, options);
}

}  // namespace unbend
