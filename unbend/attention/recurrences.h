// Gated recurrences beside gated linear attention (methods/liger.md, "Gated recurrent variants"). Shapes, forms,
// grouping of query heads, dtypes and errors as in `gated_scan`; differentiable in every tensor.
#pragma once

#include "unbend/attention/gated_scan.h"

namespace unbend {

/// HGRN2 (Qin et al. 2024, arXiv 2404.07904): S_t = diag(alpha_t) S_{t-1} + (1 - alpha_t)^T v_t, o_t = q_t S_t.
/// @param log_decay  log alpha, [B, Hkv, T, dk]; its complement takes the place of the keys
Scan hgrn2(const at::Tensor& q, const at::Tensor& v, const at::Tensor& log_decay, const at::Tensor& initial_state = {},
           const ScanOptions& options = {});

/// Both axes decay: S_t = diag(alpha_t) S_{t-1} diag(beta_t) + k_t^T v_t, o_t = q_t S_t (Mao 2022, arXiv 2210.04243).
/// @param log_key_decay    log alpha, [B, Hkv, T, dk]
/// @param log_value_decay  log beta, [B, Hkv, T, dv]
Scan doubly_gated_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_key_decay,
                       const at::Tensor& log_value_decay, const at::Tensor& initial_state = {},
                       const ScanOptions& options = {});

struct SlotScan {
  at::Tensor out;          ///< [B, H, T, dv]
  at::Tensor key_state;    ///< [B, Hkv, dk, M]: the slots' keys as columns
  at::Tensor value_state;  ///< [B, Hkv, M, dv]
};

/// Gated slot attention (Zhang et al. 2024, arXiv 2409.07146) with M slots, in two passes of the gated scan:
///
///     K_t = diag(alpha_t) K_{t-1} + (1 - alpha_t)^T k_t,  V_t likewise with v_t,  o_t = softmax(q_t K_t^T) V_t.
///
/// No scale inside the softmax: scale q. The state's memory is M (dk + dv) numbers per kv head.
/// @param log_decay  log alpha, [B, Hkv, T, M]
SlotScan gated_slot_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& log_decay, const at::Tensor& initial_key_state = {},
                              const at::Tensor& initial_value_state = {}, const ScanOptions& options = {});

/// Gated delta rule (Yang et al. 2024, "Gated Delta Networks", arXiv 2412.06464):
///
///     S' = alpha_t S_{t-1},  S_t = S' + beta_t k_t^T (v_t - k_t S'),  o_t = q_t S_t.
///
/// Keys are used as they come: give unit keys, and beta in [0, 1], for a stable recurrence.
/// @param log_decay  log alpha, [B, Hkv, T], or undefined for alpha = 1 (the delta rule)
/// @param beta       [B, Hkv, T]
Scan gated_delta_rule(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                      const at::Tensor& beta, const at::Tensor& initial_state = {}, const ScanOptions& options = {});

}  // namespace unbend
