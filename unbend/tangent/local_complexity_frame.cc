#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/tangent/local_complexity.h"

namespace unbend {
namespace {

constexpr int64_t kRows = 16, kColumns = 1 << 18;  // rows made orthogonal at once, columns in float64 at once

template <class Work>
void each_chunk(int64_t columns, const Work& work) {
  for (int64_t first = 0; first < columns; first += kColumns) work(first, std::min(kColumns, columns - first));
}

at::Tensor columns_of(const at::Tensor& rows, int64_t first, int64_t count) {
  return rows.narrow(1, first, count).to(at::kDouble);
}

// a b^T in float64.
at::Tensor products(const at::Tensor& a, const at::Tensor& b) {
  auto sum = at::zeros({a.size(0), b.size(0)}, at::kDouble);
  each_chunk(a.size(1), [&](int64_t first, int64_t count) {
    sum += at::mm(columns_of(a, first, count), columns_of(b, first, count).t());
  });
  return sum;
}

// Rows of `block` without their part in the span of `done`, then orthonormal among themselves by Cholesky's factor of
// their products: both keep the first rows' directions, as Gram and Schmidt do one by one.
void orthonormalise(at::Tensor block, const at::Tensor& done) {
  if (done.size(0) > 0) {
    const auto along = products(block, done);
    each_chunk(block.size(1), [&](int64_t first, int64_t count) {
      block.narrow(1, first, count)
          .copy_(columns_of(block, first, count) - at::mm(along, columns_of(done, first, count)));
    });
  }
  const auto factor = at::linalg_cholesky(products(block, block));
  each_chunk(block.size(1), [&](int64_t first, int64_t count) {
    block.narrow(1, first, count)
        .copy_(at::linalg_solve_triangular(factor, columns_of(block, first, count), /*upper=*/false));
  });
}

// Standard normal rows, in the order of the stream whatever the block.
void fill(at::Tensor block, Random& random) {
  AT_DISPATCH_FLOATING_TYPES(block.scalar_type(), "normal_rows", [&] {
    auto* data = block.mutable_data_ptr<scalar_t>();
    for (int64_t i = 0; i < block.numel(); ++i) data[i] = static_cast<scalar_t>(random.normal());
  });
}

void check(int64_t dimensions, int64_t directions, at::ScalarType type) {
  require(directions >= 1, "a frame needs at least one direction, not {}", directions);
  require(dimensions >= 1, "a frame needs at least one dimension, not {}", dimensions);
  require(type == at::kDouble || type == at::kFloat, "a frame is float64 or float32, not {}", at::toString(type));
}

}  // namespace

at::Tensor orthoplex_frame(int64_t dimensions, int64_t directions, uint64_t seed, at::ScalarType type) {
  check(dimensions, directions, type);
  require(directions <= dimensions, "{} directions cannot be orthogonal in {} dimensions", directions, dimensions);
  const at::NoGradGuard no_grad;
  Random random(seed);
  auto frame = at::empty({directions, dimensions}, type);
  for (int64_t first = 0; first < directions; first += kRows) {
    const auto block = frame.narrow(0, first, std::min(kRows, directions - first)), done = frame.narrow(0, 0, first);
    fill(block, random);
    for (int pass = 0; pass < 2; ++pass) orthonormalise(block, done);  // twice is enough
  }
  return frame;
}

at::Tensor random_directions(int64_t dimensions, int64_t directions, uint64_t seed, at::ScalarType type) {
  check(dimensions, directions, type);
  Random random(seed);
  auto frame = at::empty({directions, dimensions}, type);
  fill(frame, random);
  return frame.div_(frame.norm(2, {1}, true));
}

}  // namespace unbend
