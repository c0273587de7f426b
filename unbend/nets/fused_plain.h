// What fused.h computes, in plain tensor operations: for devices without kernels of ours and for second derivatives.
// Arguments as there, checked.
#pragma once

#include "unbend/nets/fused.h"

namespace unbend::plain {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType out);
at::Tensor swiglu(const at::Tensor& gate_up);
/// `rotary` as in fused.h; its tables may be undefined where nothing rotates.
std::vector<at::Tensor> split_heads(const at::Tensor& packed, int64_t width, const std::vector<HeadRange>& ranges,
                                    const Rotary& rotary, at::ScalarType out);

}  // namespace unbend::plain
