// Memory in large pages, where the system has them to give: fewer faults when it is first touched, fewer walks through
// the page table after.
#pragma once

#include <cstddef>
#include <vector>

namespace unbend {

/// Asks for large pages for what lies whole in [begin, begin + bytes). To be called before the memory is touched.
void prefer_large_pages(void* begin, std::size_t bytes);

/// `count` zeros.
template <class T>
std::vector<T> zeros_in_large_pages(std::size_t count) {
  std::vector<T> zeros;
  zeros.reserve(count);
  prefer_large_pages(zeros.data(), count * sizeof(T));
  zeros.resize(count);
  return zeros;
}

}  // namespace unbend
