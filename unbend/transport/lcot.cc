#include "unbend/transport/lcot.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/base/parallel.h"

namespace unbend::transport {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// M(t) = Q(t - alpha) for t in [0, 1).
CircularMap map_of(const CircularMeasure& nu, double alpha) {
  CircularMap map;
  map.shift = alpha;
  map.constant = nu.is_discrete();
  double end = 0;  // c_i: the level at which stretch i ends
  std::vector<double> ends;
  for (const double w : nu.weights) ends.push_back(end += w);
  ends.back() = 1;
  double turn = std::floor(-alpha);
  std::int64_t i = std::ranges::upper_bound(ends, -alpha - turn) - ends.begin();
  if (i == nu.size()) i = 0, turn += 1;
  for (double start = 0; start < 1;) {
    const double begin = (i > 0 ? ends[at(i - 1)] : 0) + turn + alpha, stop = ends[at(i)] + turn + alpha;
    const double next = std::min(stop, 1.0);
    if (next > start) {
      const double slope = (nu.right[at(i)] - nu.left[at(i)]) / nu.weights[at(i)];
      map.starts.push_back(start);
      map.stretch.push_back(i);
      map.left.push_back(turn + nu.left[at(i)] + (slope != 0 ? slope * (start - begin) : 0));
      map.right.push_back(turn + nu.left[at(i)] + (slope != 0 ? slope * (next - begin) : 0));
      start = next;
    }
    if (++i == nu.size()) i = 0, turn += 1;
  }
  map.starts.push_back(1);
  return map;
}

/// Integral of |wrap(z)|^p from 0 to z.
double wrapped_primitive(double z, double p) {
  const double turns = std::nearbyint(z), rest = z - turns;
  return turns * 2 * std::pow(.5, p + 1) / (p + 1) + std::copysign(std::pow(std::abs(rest), p + 1) / (p + 1), rest);
}

/// Mean of |wrap|^p over a piece on which the difference goes from a to b.
double wrapped_mean(double a, double b, double p) {
  const double turns = std::nearbyint(a);
  if (turns == std::nearbyint(b)) {
    a -= turns, b -= turns;
    if (p == 2) return (a * a + a * b + b * b) / 3;
    if (std::abs(b - a) < 1e-9) return std::pow(std::abs(a + b) / 2, p);
  }
  return (wrapped_primitive(b, p) - wrapped_primitive(a, p)) / (b - a);
}

/// Where a map's piece k is at t, from its ends.
double value(const CircularMap& m, std::int64_t k, double t) {
  if (m.constant) return m.left[at(k)];
  const double begin = m.starts[at(k)], end = m.starts[at(k + 1)];
  return m.left[at(k)] + (m.right[at(k)] - m.left[at(k)]) * ((t - begin) / (end - begin));
}

/// Calls body(begin, end, piece of a, piece of b) over the merged pieces.
template <class Body>
void merge(const CircularMap& a, const CircularMap& b, Body&& body) {
  double begin = 0;
  for (std::int64_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const double end_a = a.starts[at(i + 1)], end_b = b.starts[at(j + 1)], end = std::min(end_a, end_b);
    if (end > begin) body(begin, end, i, j);
    begin = end;
    i += end_a <= end;
    j += end_b <= end;
  }
}

/// LCOT_2^2 of atoms. A merge waits for its last comparison at each step, so [0, 1] is cut into as many sections as a
/// vector has lanes, and each lane merges one.
double squared_steps(const CircularMap& a, const CircularMap& b) {
  const hn::ScalableTag<double> d;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  double begins[kLanes + 1];
  std::int64_t pieces_a[kLanes + 1], pieces_b[kLanes + 1], steps = 0;
  for (std::int64_t k = 0; k <= kLanes; ++k) {
    begins[k] = static_cast<double>(k) / static_cast<double>(kLanes);
    const auto piece = [&](const CircularMap& m) {
      return std::min<std::int64_t>(std::ranges::upper_bound(m.starts, begins[k]) - m.starts.begin(), m.size()) - 1;
    };
    pieces_a[k] = piece(a), pieces_b[k] = piece(b);
    if (k > 0) steps = std::max(steps, pieces_a[k] - pieces_a[k - 1] + pieces_b[k] - pieces_b[k - 1] + 1);
  }
  auto begin = hn::LoadU(d, begins), sum = hn::Zero(d);
  const auto limit = hn::LoadU(d, begins + 1);
  auto i = hn::LoadU(di, pieces_a), j = hn::LoadU(di, pieces_b);
  for (std::int64_t step = 0; step < steps; ++step) {
    const auto end_a = hn::GatherIndex(d, a.starts.data() + 1, i), end_b = hn::GatherIndex(d, b.starts.data() + 1, j);
    const auto gap = hn::Sub(hn::GatherIndex(d, a.left.data(), i), hn::GatherIndex(d, b.left.data(), j));
    const auto rest = hn::Sub(gap, hn::Round(gap)), end = hn::Min(hn::Min(end_a, end_b), limit);
    sum = hn::MulAdd(hn::Mul(hn::Sub(end, begin), rest), rest, sum);
    begin = end;
    // Behind its limit a lane stands still, and adds nothing.
    const auto on = [&](auto ends) {
      return hn::BitCast(di, hn::VecFromMask(d, hn::And(hn::Le(ends, end), hn::Lt(ends, limit))));
    };
    i = hn::Sub(i, on(end_a)), j = hn::Sub(j, on(end_b));
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

void check_exponent(double p) { require(std::isfinite(p) && p >= 1, "exponent p is {}, expected at least 1", p); }

void check_nodes(std::int64_t nodes) { require(nodes >= 2, "{} nodes, expected at least 2", nodes); }

}  // namespace

double CircularMap::operator()(double t) const {
  require(t >= 0 && t < 1, "a map of the circle at {}, expected 0 to 1", t);
  return value(*this, std::ranges::upper_bound(starts, t) - starts.begin() - 1, t);
}

CircularMap lcot_embed(const CircularMeasure& nu) { return map_of(nu, nu.mean() - .5); }

CircularMap lcot_embed(const CircularMeasure& nu, const CircularMeasure& reference, double p) {
  return map_of(nu, circular_transport(reference, nu, p).shift);
}

double lcot(const CircularMap& a, const CircularMap& b, double p) {
  check_exponent(p);
  if (a.constant && b.constant && p == 2) return squared_steps(a, b);
  double sum = 0;
  merge(a, b, [&](double begin, double end, std::int64_t i, std::int64_t j) {
    sum +=
        (end - begin) * wrapped_mean(value(a, i, begin) - value(b, j, begin), value(a, i, end) - value(b, j, end), p);
  });
  return sum;
}

std::vector<double> lcot_matrix(std::span<const CircularMap> maps, double p, int threads) {
  check_exponent(p);
  const auto count = static_cast<std::int64_t>(maps.size());
  std::vector<double> matrix(at(count * count));
  parallel_for(count, threads, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < i; ++j)
      matrix[at(i * count + j)] = matrix[at(j * count + i)] = lcot(maps[at(i)], maps[at(j)], p);
  });
  return matrix;
}

std::vector<double> lcot_grid(const CircularMap& map, std::int64_t nodes) {
  check_nodes(nodes);
  std::vector<double> e;
  for (std::int64_t k = 0, piece = 0; k < nodes; ++k) {
    const double t = (static_cast<double>(k) + .5) / static_cast<double>(nodes);
    while (map.starts[at(piece + 1)] <= t) ++piece;
    e.push_back(value(map, piece, t) - t);
  }
  return e;
}

std::vector<double> chordal_features(const CircularMap& map, std::int64_t nodes) {
  const auto e = lcot_grid(map, nodes);
  std::vector<double> out(e.size() * 2);
  const double scale = 1 / (2 * std::numbers::pi * std::sqrt(static_cast<double>(nodes)));
  for (std::size_t k = 0; k < e.size(); ++k) {
    const double angle = 2 * std::numbers::pi * (e[k] + (static_cast<double>(k) + .5) / static_cast<double>(nodes));
    out[k] = scale * std::cos(angle), out[e.size() + k] = scale * std::sin(angle);
  }
  return out;
}

std::vector<double> grid_matrix(std::span<const double> rows, std::int64_t nodes, int threads) {
  check_nodes(nodes);
  const auto count = static_cast<std::int64_t>(rows.size()) / nodes;
  require(count * nodes == static_cast<std::int64_t>(rows.size()), "{} numbers in rows of {}", rows.size(), nodes);
  const hn::ScalableTag<double> d;
  const auto lanes = static_cast<std::int64_t>(hn::MaxLanes(d)), padded = (nodes + lanes - 1) / lanes * lanes;
  std::vector<double> e(at(count * padded), 0.0);
  for (std::int64_t i = 0; i < count; ++i) std::copy_n(rows.begin() + i * nodes, nodes, e.begin() + i * padded);
  std::vector<double> matrix(at(count * count));
  constexpr std::int64_t kBlock = 32;  // rows that stay in the caches
  parallel_for((count + kBlock - 1) / kBlock, threads, [&](std::int64_t block) {
    const std::int64_t first = block * kBlock, end = std::min(first + kBlock, count);
    for (std::int64_t i = 0; i < end; ++i) {
      for (std::int64_t j = std::max(first, i + 1); j < end; ++j) {
        const double *a = &e[at(i * padded)], *b = &e[at(j * padded)];
        auto sum = hn::Zero(d);
        for (std::int64_t k = 0; k < padded; k += lanes) {
          const auto gap = hn::Sub(hn::LoadU(d, a + k), hn::LoadU(d, b + k)), rest = hn::Sub(gap, hn::Round(gap));
          sum = hn::MulAdd(rest, rest, sum);
        }
        const double mean = hn::GetLane(hn::SumOfLanes(d, sum)) / static_cast<double>(nodes);
        matrix[at(i * count + j)] = matrix[at(j * count + i)] = mean;
      }
    }
  });
  return matrix;
}

CircleAtoms inverse_atoms(const CircularMap& map) {
  require(map.constant, "atoms of a map with sloped pieces: it is a density, take a histogram");
  std::vector<std::pair<double, double>> found;
  for (std::int64_t k = 0; k < map.size(); ++k)
    found.emplace_back(reduced(map.left[at(k)]), map.starts[at(k + 1)] - map.starts[at(k)]);
  std::ranges::sort(found);
  CircleAtoms atoms;
  for (const auto& [position, mass] : found) {
    if (!atoms.positions.empty() && position - atoms.positions.back() < 1e-14) {
      atoms.masses.back() += mass;
    } else {
      atoms.positions.push_back(position), atoms.masses.push_back(mass);
    }
  }
  return atoms;
}

std::vector<double> inverse_histogram(const CircularMap& map, std::int64_t bins) {
  check_nodes(bins);
  std::vector<double> histogram(at(bins), 0.0);
  const auto width = static_cast<double>(bins);
  const auto bin = [&](std::int64_t k) -> double& { return histogram[at((k % bins + bins) % bins)]; };
  for (std::int64_t k = 0; k < map.size(); ++k) {
    const double mass = map.starts[at(k + 1)] - map.starts[at(k)];
    const double low = width * std::min(map.left[at(k)], map.right[at(k)]);
    const double high = width * std::max(map.left[at(k)], map.right[at(k)]);
    const auto first = static_cast<std::int64_t>(std::floor(low)), last = static_cast<std::int64_t>(std::floor(high));
    if (first == last || high - low < 1e-12) {
      bin(first) += mass;
      continue;
    }
    for (std::int64_t b = first; b <= last; ++b) {
      const double covered = std::min(high, static_cast<double>(b + 1)) - std::max(low, static_cast<double>(b));
      bin(b) += mass * covered / (high - low);
    }
  }
  return histogram;
}

std::vector<double> smoothed(std::span<const double> histogram, double kappa) {
  require(std::isfinite(kappa) && kappa > 0, "kappa is {}, expected a positive number", kappa);
  const std::size_t bins = histogram.size();
  std::vector<double> kernel(bins), out(bins, 0.0);
  for (std::size_t k = 0; k < bins; ++k)
    kernel[k] =
        std::exp(kappa * (std::cos(2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(bins)) - 1));
  const double total = std::accumulate(kernel.begin(), kernel.end(), 0.0);
  for (std::size_t i = 0; i < bins; ++i)
    for (std::size_t k = 0; k < bins; ++k) out[(i + k) % bins] += histogram[i] * kernel[k] / total;
  return out;
}

CircularMap interpolate(const CircularMap& from, const CircularMap& to, double tau, bool wrapped) {
  require(tau >= 0 && tau <= 1, "interpolation at tau = {}, expected 0 to 1", tau);
  CircularMap out;
  out.constant = from.constant && to.constant;
  const auto add = [&](double begin, double left, double right) {
    out.starts.push_back(begin), out.left.push_back(left), out.right.push_back(right);
  };
  merge(from, to, [&](double begin, double end, std::int64_t i, std::int64_t j) {
    const double a0 = value(from, i, begin), a1 = value(from, i, end);
    const double d0 = value(to, j, begin) - a0, d1 = value(to, j, end) - a1;
    double turns = wrapped ? std::nearbyint(d0) : 0;
    // Cut where the difference passes half a turn: there the shorter way changes.
    double done = 0;
    while (wrapped && std::nearbyint(d1) != turns) {
      const double edge = turns + (d1 > d0 ? .5 : -.5), share = std::clamp((edge - d0) / (d1 - d0), done, 1.0);
      if (share > done && begin + share * (end - begin) > begin + done * (end - begin))
        add(begin + done * (end - begin), a0 + done * (a1 - a0) + tau * (d0 + done * (d1 - d0) - turns),
            a0 + share * (a1 - a0) + tau * (edge - turns));
      done = share;
      turns += d1 > d0 ? 1 : -1;
    }
    if (begin + done * (end - begin) < end)
      add(begin + done * (end - begin), a0 + done * (a1 - a0) + tau * (d0 + done * (d1 - d0) - turns),
          a1 + tau * (d1 - turns));
  });
  out.starts.push_back(1);
  return out;
}

CircularMap barycenter(std::span<const CircularMap> maps, std::span<const double> weights, bool wrapped,
                       std::int64_t cuts) {
  require(!maps.empty(), "barycentre: no measures");
  require(weights.empty() || weights.size() == maps.size(), "barycentre: {} weights for {} measures", weights.size(),
          maps.size());
  double total = 0;
  for (std::size_t i = 0; i < maps.size(); ++i) {
    const double w = weights.empty() ? 1 : weights[i];
    require(std::isfinite(w) && w > 0, "barycentre: weight {} is {}, expected a positive number", i, w);
    total += w;
  }
  CircularMap out;
  std::vector<double> nodes;
  for (const CircularMap& m : maps) {
    nodes.insert(nodes.end(), m.starts.begin(), m.starts.end());
    out.constant = out.constant && m.constant;
  }
  for (std::int64_t k = 0; !out.constant && k < cuts; ++k)
    nodes.push_back(static_cast<double>(k) / static_cast<double>(cuts));
  std::ranges::sort(nodes);
  nodes.erase(std::ranges::unique(nodes).begin(), nodes.end());
  std::vector<std::int64_t> piece(maps.size(), 0);
  std::vector<double> middle(maps.size());
  for (std::size_t n = 0; n + 1 < nodes.size(); ++n) {
    const double begin = nodes[n], end = nodes[n + 1];
    for (std::size_t i = 0; i < maps.size(); ++i) {
      while (maps[i].starts[at(piece[i] + 1)] <= begin) ++piece[i];
      middle[i] = value(maps[i], piece[i], (begin + end) / 2);
    }
    double mean = middle[0];
    for (int round = 0; wrapped && round < 1000; ++round) {
      double change = 0;
      for (std::size_t i = 0; i < maps.size(); ++i)
        change += (weights.empty() ? 1 : weights[i]) / total * wrap(middle[i] - mean);
      mean += change;
      if (std::abs(change) < 1e-13) break;
    }
    double left = 0, right = 0;
    for (std::size_t i = 0; i < maps.size(); ++i) {
      const double turns = wrapped ? std::nearbyint(middle[i] - mean) : 0,
                   w = (weights.empty() ? 1 : weights[i]) / total;
      left += w * (value(maps[i], piece[i], begin) - turns);
      right += w * (value(maps[i], piece[i], end) - turns);
    }
    out.starts.push_back(begin), out.left.push_back(left), out.right.push_back(out.constant ? left : right);
  }
  out.starts.push_back(1);
  return out;
}

CircularGradient lcot_gradient(const CircularMeasure& nu1, const CircularMap& map1, const CircularMap& map2,
                               std::int64_t given) {
  require(map1.constant && map2.constant, "the gradient is that of atoms, not of histograms");
  const std::int64_t n = nu1.size();
  std::vector<double> slope(at(n), 0.0),
      jump(at(n), 0.0);  // per stretch: integral of 2 D; D_left^2 - D_right^2 at its end
  CircularGradient gradient{0, std::vector<double>(at(given), 0.0), std::vector<double>(at(given), 0.0)};
  double last = 0;
  std::int64_t before = -1;
  merge(map1, map2, [&](double begin, double end, std::int64_t i, std::int64_t j) {
    const double d = wrap(map1.left[at(i)] - map2.left[at(j)]);
    const std::int64_t stretch = map1.stretch[at(i)];
    gradient.value += (end - begin) * d * d;
    slope[at(stretch)] += 2 * d * (end - begin);
    if (before >= 0 && before != i) {  // a break of map1: everything that ends here moves with it
      const double left = last * last, right = d * d;
      for (std::int64_t k = map1.stretch[at(before)]; k != stretch; k = (k + 1) % n) jump[at(k)] += left - right;
    }
    before = i, last = d;
  });
  const double all = std::accumulate(jump.begin(), jump.end(), 0.0);
  std::vector<double> by_weight(at(n));
  double after = all, mean = 0;  // jumps at and behind stretch k
  for (std::int64_t k = 0; k < n; ++k) {
    by_weight[at(k)] = after + nu1.left[at(k)] * all;
    after -= jump[at(k)];
    mean += nu1.weights[at(k)] * by_weight[at(k)];
  }
  for (std::int64_t k = 0; k < n; ++k) {
    gradient.values[at(nu1.atoms[at(k)])] = slope[at(k)] + nu1.weights[at(k)] * all;
    gradient.masses[at(nu1.atoms[at(k)])] = (by_weight[at(k)] - mean) / nu1.given;
  }
  return gradient;
}

}  // namespace unbend::transport
