// Gated linear attention in plain ATen operations, differentiable by autograd: the definition of `gated_scan`, its
// matrix form, and the plain chunked form that the kernel is measured against. Arguments as in gated_scan.h, checked
// by the caller; all of one dtype, initial_state defined.
#pragma once

#include "unbend/attention/gated_scan.h"

namespace unbend::naive {

/// The definition: one token after the other.
Scan recurrent_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                    const at::Tensor& initial_state, DecayAxis axis);

/// Matrix form in chunks of `chunk` tokens with the recurrence between them; chunk >= T is the parallel form. A vector
/// decay makes a table of chunk * chunk * dk (or dv) numbers per kv head.
Scan chunked_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                  const at::Tensor& initial_state, DecayAxis axis, int64_t chunk);

}  // namespace unbend::naive
