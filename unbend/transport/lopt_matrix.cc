// The K x K matrix of LOPT discrepancies. With |p| + M the mass of the whole measure,
//   LOPT_ij = lambda (|mu_i| + |mu_j|) - sum_n min(p_n^i, p_n^j) max(2 lambda - |u_n^i - u_n^j|^2, 0),
// so that a pair costs 3 dim + 3 operations per atom and needs no reduction over n: vectors run over j, tiles of rows
// and two vectors of columns stay in registers as in a matrix product.
#include <hwy/highway.h>

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/base/large_pages.h"
#include "unbend/base/parallel.h"
#include "unbend/transport/lopt.h"

namespace unbend::transport {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Lanes = hn::ScalableTag<double>;
constexpr std::int64_t kLanes = hn::MaxLanes(Lanes());
constexpr std::int64_t kWide = 2 * kLanes;  // columns of a panel
constexpr int kTall = 4;                    // rows of a tile

/// Embeddings as rows [K, N, dim + 1] (displacement, mass) and as panels [K / wide, N, dim + 1, wide].
struct Packed {
  std::int64_t count, atoms, width;  // width: dim + 1
  std::vector<double> rows, panels;
};

Packed pack(std::span<const Embedding> embeddings) {
  const auto count = static_cast<std::int64_t>(embeddings.size());
  const auto atoms = static_cast<std::int64_t>(embeddings[0].mass.size());
  const auto dim = atoms ? static_cast<std::int64_t>(embeddings[0].displacement.size()) / atoms : 0;
  const std::int64_t width = dim + 1, panels = (count + kWide - 1) / kWide, size = atoms * width;
  Packed packed{count, atoms, width, zeros_in_large_pages<double>(static_cast<std::size_t>((count + kTall) * size)),
                zeros_in_large_pages<double>(static_cast<std::size_t>(panels * kWide * size))};
  for (std::int64_t i = 0; i < count; ++i) {
    const Embedding& e = embeddings[static_cast<std::size_t>(i)];
    for (std::int64_t n = 0; n < atoms; ++n) {
      for (std::int64_t k = 0; k < width; ++k) {
        const double value =
            k < dim ? e.displacement[static_cast<std::size_t>(n * dim + k)] : e.mass[static_cast<std::size_t>(n)];
        packed.rows[static_cast<std::size_t>(i * size + n * width + k)] = value;
        packed.panels[static_cast<std::size_t>(i / kWide * kWide * size + (n * width + k) * kWide + i % kWide)] = value;
      }
    }
  }
  return packed;
}

/// out[r][j] = sum_n min(p) max(2 lambda - |du|^2, 0) for kTall rows and one panel. kDim 0: any dimension.
template <int kDim>
HWY_NOINLINE void tile(const double* HWY_RESTRICT rows, const double* HWY_RESTRICT panel, std::int64_t atoms,
                       std::int64_t width, double gain, double* HWY_RESTRICT out) {
  const Lanes d;
  const std::int64_t dim = kDim ? kDim : width - 1, stride = kDim ? kDim + 1 : width, size = atoms * stride;
  const auto most = hn::Set(d, gain), none = hn::Zero(d);
  hn::Vec<Lanes> sum[kTall][2];
#pragma GCC unroll 4
  for (int r = 0; r < kTall; ++r) sum[r][0] = sum[r][1] = none;
  for (std::int64_t n = 0; n < atoms; ++n, panel += stride * kWide) {
    const double* x = rows + n * stride;
    hn::Vec<Lanes> left[kTall][2];
#pragma GCC unroll 4
    for (int r = 0; r < kTall; ++r) left[r][0] = left[r][1] = most;
#pragma GCC unroll 3
    for (std::int64_t k = 0; k < dim; ++k) {
      const auto y0 = hn::LoadU(d, panel + k * kWide), y1 = hn::LoadU(d, panel + k * kWide + kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kTall; ++r) {
        const auto u = hn::Set(d, x[r * size + k]);
        const auto gap0 = hn::Sub(u, y0), gap1 = hn::Sub(u, y1);
        left[r][0] = hn::NegMulAdd(gap0, gap0, left[r][0]);
        left[r][1] = hn::NegMulAdd(gap1, gap1, left[r][1]);
      }
    }
    const auto q0 = hn::LoadU(d, panel + dim * kWide), q1 = hn::LoadU(d, panel + dim * kWide + kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kTall; ++r) {
      const auto p = hn::Set(d, x[r * size + dim]);
      sum[r][0] = hn::MulAdd(hn::Min(p, q0), hn::Max(left[r][0], none), sum[r][0]);
      sum[r][1] = hn::MulAdd(hn::Min(p, q1), hn::Max(left[r][1], none), sum[r][1]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kTall; ++r) {
    hn::StoreU(sum[r][0], d, out + r * kWide);
    hn::StoreU(sum[r][1], d, out + r * kWide + kLanes);
  }
}

}  // namespace

std::vector<double> lopt_matrix(std::span<const Embedding> embeddings, double lambda, int threads) {
  if (embeddings.empty()) return {};
  std::vector<double> total;
  for (const Embedding& e : embeddings) {
    require(e.mass.size() == embeddings[0].mass.size() && e.displacement.size() == embeddings[0].displacement.size(),
            "embeddings of {} and of {} atoms", embeddings[0].mass.size(), e.mass.size());
    double mass = e.rest.total();
    for (const double p : e.mass) mass += p;
    total.push_back(mass);
  }
  const Packed packed = pack(embeddings);
  const std::int64_t count = packed.count, size = packed.atoms * packed.width;
  auto matrix = zeros_in_large_pages<double>(static_cast<std::size_t>(count * count));
  const auto run = packed.width == 3 ? tile<2> : packed.width == 4 ? tile<3> : tile<0>;
  // One panel of columns against the rows up to it; the panel stays in the first caches.
  parallel_for((count + kWide - 1) / kWide, threads, [&](std::int64_t panel) {
    double gained[kTall * kWide];
    const std::int64_t first = panel * kWide, end = std::min(first + kWide, count);
    for (std::int64_t i = 0; i < end; i += kTall) {
      run(packed.rows.data() + i * size, packed.panels.data() + panel * kWide * size, packed.atoms, packed.width,
          2 * lambda, gained);
      const std::int64_t last = std::min(i + kTall, end);
      for (std::int64_t r = i; r < last; ++r) {
        double* values = gained + (r - i) * kWide;
        double* row = matrix.data() + r * count;
        const double mass = total[static_cast<std::size_t>(r)];
        for (std::int64_t j = first; j < end; ++j)
          values[j - first] = std::max(0.0, lambda * (mass + total[static_cast<std::size_t>(j)]) - values[j - first]);
        for (std::int64_t j = first; j < r; ++j)  // on the diagonal's tiles the lower half is known
          values[j - first] = matrix[static_cast<std::size_t>(j * count + r)];
        if (r >= first) values[r - first] = 0;
        std::copy_n(values, end - first, row + first);
      }
      for (std::int64_t j = first; j < end; ++j)  // the other half, where rows of the tile are neighbours
        for (std::int64_t r = i; r < last; ++r)
          if (r < j) matrix[static_cast<std::size_t>(j * count + r)] = gained[(r - i) * kWide + (j - first)];
    }
  });
  return matrix;
}

}  // namespace unbend::transport
