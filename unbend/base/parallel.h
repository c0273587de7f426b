// Independent work shared by threads, for code without LibTorch (code with it uses at::parallel_for).
#pragma once

#include <cstdint>
#include <functional>

namespace unbend {

/// Calls `work(i)` for i in [0, count), each once, in any order, on up to `threads` threads (0: one per core). The
/// first exception ends the loop and is thrown to the caller.
void parallel_for(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work);

}  // namespace unbend
