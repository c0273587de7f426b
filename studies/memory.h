// Memory of tensors during a computation.
#pragma once

#include <cstdint>
#include <functional>

namespace unbend {

/// Largest sum of bytes that tensors on the CPU, made by `work` on the calling thread or threads it hands work to, hold
/// at one time. What existed before does not count; what `work` frees of it counts for nothing either.
std::int64_t peak_tensor_bytes(const std::function<void()>& work);

}  // namespace unbend
