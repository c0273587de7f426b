// The fused kernel of `gated_scan` for CPUs: forward, pull (vector-Jacobian product) and push (Jacobian-vector
// product), without autograd. float32 and float64, parallel over batch rows and kv heads.
#pragma once

#include <ATen/ATen.h>

#include <array>

#include "unbend/attention/gated_scan.h"

namespace unbend::kernel {

/// The five arguments of a gated scan, their gradients, or their tangents: q, k, v, log_decay, state. As arguments:
/// checked, of one dtype (float or double), on the CPU; log_decay may be undefined. As tangents: undefined means zero.
struct ScanArguments {
  at::Tensor q, k, v, log_decay, state;
};

/// Throws Error (Input) if log_decay is positive or NaN anywhere. `segment_states` gets the states between segments,
/// which a later scan_pull would otherwise have to compute: a few percent of the memory of the arguments.
Scan scan_forward(const ScanArguments& at, DecayAxis axis, int64_t chunk, at::Tensor* segment_states = nullptr);

/// Gradients of <out, d_out> + <state, d_state> with respect to the arguments. `segment_states`: those of scan_forward
/// on the same arguments (with any chunk), or undefined.
ScanArguments scan_pull(const ScanArguments& at, DecayAxis axis, int64_t chunk, const at::Tensor& d_out,
                        const at::Tensor& d_state, const at::Tensor& segment_states = {});

/// Derivative of both results along `tangent`.
Scan scan_push(const ScanArguments& at, DecayAxis axis, int64_t chunk, const ScanArguments& tangent);

}  // namespace unbend::kernel
