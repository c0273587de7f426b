// Gated linear attention: the one recurrence behind the linear-time mixers (methods/liger.md; Yang et al. 2024,
// "Gated Linear Attention Transformers", arXiv 2312.06635).
#pragma once

#include <ATen/ATen.h>

#include "unbend/attention/form.h"

namespace unbend {

/// Result of a recurrence over time.
struct Scan {
  at::Tensor out;    ///< [B, H, T, dv], dtype of q
  at::Tensor state;  ///< state after the last token, [B, Hkv, dk, dv], float32 (float64 if q is)
};

/// Which axis of the state [dk, dv] a vector of decays multiplies.
enum class DecayAxis { Key, Value };

struct ScanOptions {
  Form form = Form::Chunked;
  /// Tokens per chunk of Form::Chunked; any value gives the same numbers up to rounding. The work per token grows with
  /// the chunk, so a processor wants the smallest that still fills its registers (GPUs need 64 or more).
  int64_t chunk = 16;
  DecayAxis axis = DecayAxis::Key;
};

/// Runs, per batch row and kv head, over the tokens t (row vectors):
///
///     S_t = decay_t * S_{t-1} + k_t^T v_t,    o_t = q_t S_t,    decay_t = exp(log_decay_t).
///
/// No scale and no denominator: append a column of ones to v to get one. Query head h reads kv head h / (H / Hkv), so
/// all query heads of a group share one state.
///
/// @param q              [B, H, T, dk], H a multiple of Hkv
/// @param k              [B, Hkv, T, dk]
/// @param v              [B, Hkv, T, dv]
/// @param log_decay      undefined (no decay), [B, Hkv, T, 1] (scalar), [B, Hkv, T, dk] (DecayAxis::Key) or
///                       [B, Hkv, T, dv] (DecayAxis::Value). Natural logarithms, <= 0; -inf forgets everything.
/// @param initial_state  undefined (zero) or [B, Hkv, dk, dv]
///
/// Differentiable in all five tensors, from both results, any number of times (double backward is the push-forward).
/// Computes in float64 when q is float64 and in float32 otherwise (also for bfloat16 and half). T = 0 is fine. Throws
/// Error (Input) for shapes that do not fit, and for a log_decay that is positive or NaN.
///
/// Fused on CPUs, and in builds with CUDA on its devices for all but float64, for widths up to 256: there bfloat16 is
/// multiplied as it is, a log_decay that is positive or NaN makes a later call throw (nothing waits for the device),
/// and derivatives of gradients take plain operations. So do Form::Recurrent under autograd, other devices, and
/// transforms of torch.func, which do not look at the values of log_decay.
Scan gated_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay = {},
                const at::Tensor& initial_state = {}, const ScanOptions& options = {});

}  // namespace unbend
