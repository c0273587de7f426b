#include "unbend/transport/hellinger_kantorovich.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"

namespace unbend::transport {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// One scaling step: out_i = -blur / (1 + blur) log sum_j exp((other_j - cost_ij) / blur) mass_j; +infinity for atoms
/// in reach of nothing.
void scale(std::vector<double>& out, const std::vector<double>& other, std::span<const double> masses,
           std::span<const double> costs, bool transposed, double blur) {
  const std::size_t n = out.size(), m = other.size();
  std::vector<double> terms(m);
  for (std::size_t i = 0; i < n; ++i) {
    double most = -INFINITY;
    for (std::size_t j = 0; j < m; ++j) {
      const double cost = transposed ? costs[j * n + i] : costs[i * m + j];
      const bool reached = masses[j] > 0 && std::isfinite(cost) && std::isfinite(other[j]);
      terms[j] = reached ? (other[j] - cost) / blur : -INFINITY;
      most = std::max(most, terms[j]);
    }
    double sum = 0;
    for (std::size_t j = 0; j < m; ++j)
      if (terms[j] > most - 60) sum += masses[j] * std::exp(terms[j] - most);
    out[i] = sum > 0 ? -blur / (1 + blur) * (most + std::log(sum)) : INFINITY;
  }
}

/// Which atoms hang together by pairs in reach: numbers of components, rows [n] then columns [m].
std::vector<std::size_t> components(std::span<const double> costs, std::size_t n, std::size_t m, std::size_t& count) {
  constexpr std::size_t kNew = static_cast<std::size_t>(-1);
  std::vector<std::size_t> of(n + m, kNew), waiting;
  count = 0;
  for (std::size_t start = 0; start < n + m; ++start) {
    if (of[start] != kNew) continue;
    of[start] = count;
    waiting.push_back(start);
    while (!waiting.empty()) {
      const std::size_t v = waiting.back();
      waiting.pop_back();
      for (std::size_t w = v < n ? n : 0; w < (v < n ? n + m : n); ++w) {
        const double cost = v < n ? costs[v * m + (w - n)] : costs[w * m + (v - n)];
        if (of[w] != kNew || !std::isfinite(cost)) continue;
        of[w] = count;
        waiting.push_back(w);
      }
    }
    ++count;
  }
  return of;
}

/// The best shift (f + t, g - t) of each component, exp(2 t) = sum p exp(-f) / sum q exp(-g): without it scaling creeps
/// along this direction at a rate of blur per round (Sejourne, Vialard and Peyre 2022).
void translate(std::vector<double>& f, std::vector<double>& g, std::span<const double> p, std::span<const double> q,
               const std::vector<std::size_t>& component, std::size_t count) {
  std::vector<double> rows(count, 0.0), columns(count, 0.0);
  for (std::size_t i = 0; i < f.size(); ++i)
    if (std::isfinite(f[i])) rows[component[i]] += p[i] * std::exp(-f[i]);
  for (std::size_t j = 0; j < g.size(); ++j)
    if (std::isfinite(g[j])) columns[component[f.size() + j]] += q[j] * std::exp(-g[j]);
  const auto shift = [&](std::size_t c) {
    return rows[c] > 0 && columns[c] > 0 ? std::log(rows[c] / columns[c]) / 2 : 0;
  };
  for (std::size_t i = 0; i < f.size(); ++i) f[i] += shift(component[i]);
  for (std::size_t j = 0; j < g.size(); ++j) g[j] -= shift(component[f.size() + j]);
}

}  // namespace

HkEmbedding hk_embed(const Measure& reference, const Measure& target, const HkOptions& options) {
  check(reference, "reference");
  check(target, "measure");
  require(reference.total() > 0, "reference: its total mass is 0");
  require(target.dim == reference.dim || target.size() == 0,
          "points of {} dimensions in the reference, of {} in the measure", reference.dim, target.dim);
  require(std::isfinite(options.length) && options.length > 0, "length is {}, expected a positive number",
          options.length);
  require(options.blur > 0 && options.tolerance > 0, "blur is {}, tolerance {}, expected positive numbers",
          options.blur, options.tolerance);
  const std::int64_t n = reference.size(), m = target.size(), dim = reference.dim;
  std::vector<double> angles(at(n * m)), costs(at(n * m));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < m; ++j) {
      const double angle = std::sqrt(squared_distance(reference.point(i), target.point(j))) / options.length;
      angles[at(i * m + j)] = angle;
      costs[at(i * m + j)] = angle < .999 * std::numbers::pi / 2 ? -2 * std::log(std::cos(angle)) : INFINITY;
    }
  }
  std::vector<double> f(at(n), 0.0), g(at(m), 0.0);
  HkEmbedding e{std::vector<double>(at(n * dim), 0.0), std::vector<double>(at(n), -2.0), {dim, {}, {}}, 0, INFINITY};
  std::size_t count = 0;
  const auto component = components(costs, f.size(), g.size(), count);
  int rounds = 0;
  for (double blur = std::max(1.0, options.blur);; blur = std::max(options.blur, blur / 4)) {
    const bool last = blur <= options.blur;
    for (int k = 0; k < (last ? options.most_rounds : 50); ++k, ++rounds) {
      const std::vector<double> before = f;
      scale(f, g, target.masses, costs, false, blur);
      scale(g, f, reference.masses, costs, true, blur);
      translate(f, g, reference.masses, target.masses, component, count);
      e.left = 0;
      for (std::size_t i = 0; i < f.size(); ++i)
        if (std::isfinite(f[i])) e.left = std::max(e.left, std::abs(f[i] - before[i]));
      if (rounds % 64 == 0 && interrupted()) fail_computation("Hellinger-Kantorovich: interrupted");
      if (e.left < options.tolerance) break;
    }
    if (last) break;
  }
  if (e.left > 1e-3)
    fail_computation(
        "Hellinger-Kantorovich: potentials still change by {:.2g} after {} rounds: allow more, or more blur", e.left,
        rounds);
  // The plan's marginals are exp(-f) and exp(-g) times the measures, so a pair's mass ratio is exp(g - f).
  for (std::int64_t i = 0; i < n; ++i) {
    const double mass = reference.masses[at(i)];
    e.value += mass * (std::isfinite(f[at(i)]) ? 1 - std::exp(-f[at(i)]) : 1);
    double weight = 0, radial = 0;
    std::vector<double> tangential(at(dim), 0.0);
    for (std::int64_t j = 0; j < m; ++j) {
      const double cost = costs[at(i * m + j)];
      if (!std::isfinite(cost) || !std::isfinite(f[at(i)]) || !std::isfinite(g[at(j)])) continue;
      const double w = target.masses[at(j)] * std::exp((f[at(i)] + g[at(j)] - cost) / options.blur);
      if (w <= 0) continue;
      const double ratio = std::exp((g[at(j)] - f[at(i)]) / 2), angle = angles[at(i * m + j)];
      weight += w;
      radial += w * ratio * std::cos(angle);
      for (std::int64_t k = 0; k < dim && angle > 0; ++k)
        tangential[at(k)] += w * ratio * std::sin(angle) / (angle * options.length) *
                             (target.point(j)[at(k)] - reference.point(i)[at(k)]);
    }
    if (weight <= 0) continue;
    e.growth[at(i)] = 2 * (radial / weight - 1);
    for (std::int64_t k = 0; k < dim; ++k) e.velocity[at(i * dim + k)] = tangential[at(k)] / weight;
  }
  for (std::int64_t j = 0; j < m; ++j) {
    const double mass = target.masses[at(j)];
    const bool reached = std::isfinite(g[at(j)]);
    e.value += mass * (reached ? 1 - std::exp(-g[at(j)]) : 1);
    if (!reached && mass > 0) e.rest.add(target.point(j), mass);
  }
  e.value *= options.length * options.length;
  return e;
}

std::vector<double> hk_features(const Measure& reference, std::span<const HkEmbedding> embeddings, double length) {
  std::vector<double> rows;
  for (const HkEmbedding& e : embeddings) {
    require(e.growth.size() == reference.masses.size(), "an embedding of {} atoms for a reference of {}",
            e.growth.size(), reference.size());
    for (std::int64_t i = 0; i < reference.size(); ++i) {
      const double scale = length * std::sqrt(reference.masses[at(i)]);
      for (std::int64_t k = 0; k < reference.dim; ++k) rows.push_back(scale * e.velocity[at(i * reference.dim + k)]);
      rows.push_back(scale * e.growth[at(i)] / 2);
    }
  }
  return rows;
}

}  // namespace unbend::transport
