// Shape and dtype checks shared by the gated recurrences.
#pragma once

#include "unbend/attention/gated_scan.h"

namespace unbend {

/// Throws Error (Input) that starts with the function's name and names the argument and the shapes, unless the
/// arguments fit together as `gated_scan` says.
void check_scan(const char* function, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& log_decay, const at::Tensor& initial_state, DecayAxis axis);

}  // namespace unbend
