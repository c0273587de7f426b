// The element-wise parts of a decoder layer, each in one pass over memory, with gradients: what lies between the matrix
// products. All compute in float32 (float64 for float64 inputs), are threaded and vectorised, and are differentiable
// once through kernels and once more through plain tensor operations (so forward mode works by double backward). The
// kernels are for CPUs; elsewhere plain tensor operations do all.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace unbend {

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467).
/// x [.., M] float32, float64 or bfloat16; weight [M] of any of these. The result has dtype `out`: float64 for float64
/// inputs, float32 or bfloat16 (for the next product) otherwise. Throws Error (Input) on shapes or dtypes that do not
/// fit.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType out);

/// silu(gate) * up (Shazeer 2020, arXiv 2002.05202), gate = first half and up = second half of the last dimension.
/// gate_up [.., 2F] float32, float64 or bfloat16 -> [.., F] of the same dtype. Saves nothing but its input.
at::Tensor swiglu(const at::Tensor& gate_up);

/// Which entries of a head rotate together (Su et al. 2021, arXiv 2104.09864).
enum class RotaryPairs {
  Halves,    ///< (i, i + d/2): Hugging Face's order
  Adjacent,  ///< (2i, 2i + 1): the paper's order, and that of Llama tensors in GGUF files
};

/// Rotation of token t's pair i by an angle whose cosine and sine are given: both [T, d/2], any floating dtype.
struct Rotary {
  at::Tensor cos, sin;
  RotaryPairs pairs = RotaryPairs::Halves;
};

/// Tables for `positions` [T] (any integers) and `frequencies` [d/2] (radians per position): angles in float64, stored
/// in `dtype`.
Rotary rotary_tables(const at::Tensor& positions, const at::Tensor& frequencies, RotaryPairs pairs,
                     at::ScalarType dtype = at::kFloat);

/// `count` consecutive heads of a packed projection, rotated or not.
struct HeadRange {
  int64_t first, count;
  bool rotate = false;
};

/// Cuts packed [B, T, heads * width] (last dimension contiguous) into one contiguous [B, count, T, width] of dtype
/// `out` per range. For the output of a fused q, k, v projection: ranges {0, H, true}, {H, Hkv, true}, {H + Hkv, Hkv}.
/// Ranges may overlap (keys with and without rotation). Throws Error (Input) if a range leaves the tensor, if the
/// tables are not [T, width / 2] or missing where a range rotates.
std::vector<at::Tensor> split_heads(const at::Tensor& packed, int64_t width, const std::vector<HeadRange>& ranges,
                                    const std::optional<Rotary>& rotary, at::ScalarType out);

}  // namespace unbend
