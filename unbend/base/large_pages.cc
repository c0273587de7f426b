#include "unbend/base/large_pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace unbend {

void prefer_large_pages(void* begin, std::size_t bytes) {
  constexpr std::uintptr_t kPage = 2 << 20;
  const auto from = (reinterpret_cast<std::uintptr_t>(begin) + kPage - 1) / kPage * kPage;
  const auto to = (reinterpret_cast<std::uintptr_t>(begin) + bytes) / kPage * kPage;
  if (from < to) ::madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
}

}  // namespace unbend
