// The gated scan's kernels for CUDA, where they are built in (CMake option UNBEND_CUDA): forward and pull.
#pragma once

#include <vector>

#include "unbend/attention/gated_scan_kernel.h"

namespace unbend::cuda {

#ifdef UNBEND_CUDA
constexpr bool kBuiltIn = true;
#else
constexpr bool kBuiltIn = false;
#endif

/// Widths of keys and values up to so many are served.
constexpr int64_t kWidest = 256;

/// As kernel::scan_forward, on a CUDA device: q, k and v all float32 or all bfloat16, log_decay and state float32. Its
/// products have float32's accuracy, or bfloat16's operands. `kept` gets what scan_pull can use.
///
/// Nothing here waits for the device. A log_decay that is positive or NaN therefore makes a later call throw, one that
/// begins after this one's kernel has run; the results of this one mean nothing then.
Scan scan_forward(const kernel::ScanArguments& at, DecayAxis axis, bool recurrent, std::vector<at::Tensor>* kept);

/// As kernel::scan_pull; `kept` of scan_forward on the same arguments, or empty. The gradient of log_decay is a
/// difference of sums: it is as accurate as those, also where decays are so strong that it is much smaller.
kernel::ScanArguments scan_pull(const kernel::ScanArguments& at, DecayAxis axis, const at::Tensor& d_out,
                                const at::Tensor& d_state, const std::vector<at::Tensor>& kept);

}  // namespace unbend::cuda
