#include "unbend/tangent/kernel_gan_batch.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/tangent/kernel_gan_radial.h"

namespace unbend::gan {
namespace {

constexpr auto kLanes = hn::MaxLanes(Doubles());
using Numbers = std::array<double, kLanes>;

/// `cells` are as many as there are lanes.
template <KernelKind kKind>
void run_lanes(const Kernel& kernel, Order order, std::span<const Cell> cells, const CellOptions& options,
               CellResult* results) {
  const Doubles d;
  alignas(64) Numbers inverse, keep, eta_d, p, q, move, start, e;
  for (std::size_t i = 0; i < kLanes; ++i) {
    const Cell& c = cells[i];
    inverse[i] = 1 / (c.sigma * c.sigma);
    keep[i] = c.steps.decay();
    eta_d[i] = c.steps.eta_d;
    p[i] = c.p;
    q[i] = c.q;
    move[i] = c.steps.eta_g * c.q;
    start[i] = e[i] = options.start * c.sigma;
    results[i] = {Fate::Converged, options.steps, 1};
  }
  const auto inverse_square = hn::Load(d, inverse.data()), decay = hn::Load(d, keep.data());
  const auto step = hn::Load(d, eta_d.data()), mass = hn::Load(d, q.data()), generator = hn::Load(d, move.data());
  std::vector<double> history;  // [steps, lanes], the positions so far
  history.reserve(static_cast<std::size_t>(options.steps) * kLanes);
  auto truth = hn::Zero(d), y = hn::Load(d, e.data());
  Numbers before = start, first_half{}, second_half{};
  std::array<bool, kLanes> done{};
  std::size_t open = kLanes;
  const auto remember = [&](Vector position) {
    truth = hn::MulAdd(truth, decay, hn::Mul(step, hn::Load(d, p.data())));
    history.resize(history.size() + kLanes);
    hn::StoreU(position, d, history.data() + history.size() - kLanes);
  };
  for (std::int64_t k = 1; k <= options.steps && open > 0; ++k) {
    const auto now = y;
    if (order == Order::Alternating) remember(now);
    // grad f(y), by Horner from the oldest position to the newest: weights are powers of the decay.
    auto sum = hn::Zero(d);
    for (std::size_t s = 0; s < history.size(); s += kLanes) {
      const auto difference = hn::Sub(now, hn::LoadU(d, history.data() + s));
      const auto phi = slope<kKind>(d, kernel, hn::Mul(difference, difference), inverse_square);
      sum = hn::MulAdd(sum, decay, hn::Mul(phi, difference));
    }
    const auto own = slope<kKind>(d, kernel, hn::Mul(now, now), inverse_square);
    const auto gradient = hn::Sub(hn::Mul(hn::Mul(step, mass), sum), hn::Mul(hn::Mul(truth, own), now));
    y = hn::MulAdd(generator, gradient, now);
    if (order == Order::Simultaneous) remember(now);
    hn::Store(y, d, e.data());
    for (std::size_t i = 0; i < kLanes; ++i) {
      if (done[i]) continue;
      const double size = std::abs(e[i]);
      auto& half = 2 * k <= options.steps ? first_half[i] : second_half[i];
      half = std::max(half, size);
      results[i].last = size / start[i];
      const bool grown = !(size <= options.grown * start[i]);
      if (grown || (size < options.vanished && before[i] < options.vanished)) {
        results[i].fate = grown ? Fate::Diverged : Fate::Converged;
        results[i].steps = k;
        done[i] = true;
        --open;
      }
      before[i] = size;
    }
  }
  for (std::size_t i = 0; i < kLanes; ++i)
    if (!done[i] && second_half[i] >= std::max(first_half[i], start[i])) results[i].fate = Fate::Diverged;
}

}  // namespace

std::vector<CellResult> run_cells(const Kernel& kernel, Order order, std::span<const Cell> cells,
                                  const CellOptions& options) {
  check_kernel(kernel);
  kernel.curvature();
  require(options.steps >= 1, "run_cells: {} steps", options.steps);
  for (const Cell& c : cells) {
    check_steps(c.steps);
    require(c.sigma > 0 && std::isfinite(c.sigma), "run_cells: sigma must be positive and finite, not {}", c.sigma);
    require(c.p >= 0 && c.q > 0 && std::isfinite(c.p + c.q), "run_cells: masses {} and {} are not positive", c.p, c.q);
  }
  // Whole vectors: the last cell is repeated.
  const std::size_t groups = (cells.size() + kLanes - 1) / kLanes;
  std::vector<Cell> padded(cells.begin(), cells.end());
  if (!cells.empty()) padded.resize(groups * kLanes, cells.back());
  std::vector<CellResult> results(padded.size());
  at::parallel_for(0, static_cast<std::int64_t>(groups), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t group = first; group < last; ++group) {
      const std::size_t at = static_cast<std::size_t>(group) * kLanes;
      const std::span<const Cell> some(padded.data() + at, kLanes);
      switch (kernel.kind) {
        case KernelKind::RationalQuadratic:
          run_lanes<KernelKind::RationalQuadratic>(kernel, order, some, options, results.data() + at);
          break;
        case KernelKind::MultiGaussian:
          run_lanes<KernelKind::MultiGaussian>(kernel, order, some, options, results.data() + at);
          break;
        default: run_lanes<KernelKind::Gaussian>(kernel, order, some, options, results.data() + at);
      }
    }
  });
  results.resize(cells.size());
  return results;
}

}  // namespace unbend::gan
