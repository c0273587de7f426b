// Argument checks shared by the fused kernel and the definition of window attention.
#pragma once

#include "unbend/attention/window.h"

namespace unbend {

/// Throws Error (Input) unless q, k, v and the options fit each other (window.h says how).
void check_window_arguments(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const WindowOptions& options);

}  // namespace unbend
