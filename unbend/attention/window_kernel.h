// The fused kernels of window attention on contiguous memory; window.cc gives them gradients.
#pragma once

#include "unbend/attention/window.h"

namespace unbend {

struct WindowForward {
  at::Tensor out;      ///< [B, H, T, dv], float64 or float32; memory order [B, T, H, dv]
  at::Tensor max;      ///< [B, H, T]
  at::Tensor lse;      ///< [B, H, T]
  at::Tensor largest;  ///< [B, H, T], int64: the key whose score is `max`
};

/// Arguments already checked (window_checks.h); strides arbitrary.
WindowForward window_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const WindowOptions& options);

struct WindowPull {
  at::Tensor q, k, v;  ///< gradients, of the dtypes of q, k, v
};

/// Cotangents d_out, d_max, d_lse have the shapes and dtypes of the forward's results; an undefined one is zero.
WindowPull window_pull(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowForward& forward,
                       const at::Tensor& d_out, const at::Tensor& d_max, const at::Tensor& d_lse,
                       const WindowOptions& options);

}  // namespace unbend
