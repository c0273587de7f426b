// Ends of rows on processors without masked loads and stores: compiled for an old one (see tests/CMakeLists.txt).
// Other tests run what this machine has.
#include "unbend/base/simd_tile.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <vector>

namespace unbend::kernel {
namespace {

/// A page that can be used, and behind it one that cannot.
class Page {
 public:
  Page()
      : bytes_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))),
        data_(mmap(nullptr, 2 * bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (data_ == MAP_FAILED || mprotect(static_cast<char*>(data_) + bytes_, bytes_, PROT_NONE) != 0)
      throw std::bad_alloc();
  }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
  ~Page() { munmap(data_, 2 * bytes_); }
  template <class T>
  T* end() const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + bytes_);
  }

 private:
  std::size_t bytes_;
  void* data_;
};

template <class T>
class EndsOfRows : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(EndsOfRows, Types);

TYPED_TEST(EndsOfRows, AreReadAndWrittenWithoutWhatLiesBehind) {
  using T = TypeParam;
  const Lanes<T> d;
  const Page page;
  for (std::int64_t n = 0; n < kLanes<T>; ++n) {
    for (std::int64_t behind = 0; behind <= kLanes<T>; ++behind) {  // every alignment, and the last of the page
      T* const at = page.end<T>() - n - behind;
      for (std::int64_t i = 0; i < n + behind; ++i) at[i] = static_cast<T>(i + 1);
      std::vector<T> read(static_cast<std::size_t>(kLanes<T>)), expected(read.size());
      hn::StoreU(load_first(at, n), d, read.data());
      std::copy_n(at, n, expected.data());
      EXPECT_EQ(read, expected) << n << " " << behind;
      store_first(hn::Set(d, T(-1)), at, n);
      for (std::int64_t i = 0; i < n + behind; ++i) EXPECT_EQ(at[i], i < n ? T(-1) : static_cast<T>(i + 1)) << i;
    }
  }
}

}  // namespace
}  // namespace unbend::kernel
