#include "unbend/transport/lopt.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "unbend/base/error.h"
#include "unbend/base/parallel.h"

namespace unbend::transport {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

void check_time(double t) { require(t >= 0 && t <= 1, "interpolation at t = {}, expected 0 to 1", t); }

void check_fits(const Measure& reference, const Embedding& e) {
  require(e.mass.size() == reference.masses.size() && e.displacement.size() == reference.points.size(),
          "an embedding of {} atoms for a reference of {}", e.mass.size(), reference.size());
}

void add_moved(Measure& to, std::span<const double> x, std::span<const double> u, double step, double mass) {
  if (mass <= 0) return;
  std::vector<double> moved(x.begin(), x.end());
  for (std::size_t k = 0; k < moved.size(); ++k) moved[k] += step * u[k];
  to.add(moved, mass);
}

void add_all(Measure& to, const Measure& from, double share) {
  if (share <= 0) return;
  for (std::int64_t i = 0; i < from.size(); ++i) to.add(from.point(i), share * from.masses[at(i)]);
}

std::span<const double> displacement(const Embedding& e, std::int64_t n, std::int64_t dim) {
  return std::span(e.displacement).subspan(at(n * dim), at(dim));
}

}  // namespace

Embedding embed_plan(const Measure& reference, const Measure& target, const PartialPlan& plan) {
  const std::int64_t dim = reference.dim;
  Embedding e{std::vector<double>(reference.points.size(), 0.0),
              std::vector<double>(reference.masses.size(), 0.0),
              {dim, {}, {}},
              plan.value};
  std::vector<double> left = target.masses;
  for (const auto& [n, m, mass] : plan.entries) {
    e.mass[at(n)] += mass;
    left[at(m)] -= mass;
    for (std::int64_t k = 0; k < dim; ++k)
      e.displacement[at(n * dim + k)] += mass * (target.point(m)[at(k)] - reference.point(n)[at(k)]);
  }
  const double heaviest = reference.masses.empty() ? 0 : std::ranges::max(reference.masses);
  for (std::int64_t n = 0; n < reference.size(); ++n) {
    const bool transported = e.mass[at(n)] > 1e-10 * heaviest;
    if (!transported) e.mass[at(n)] = 0;
    e.mass[at(n)] = std::min(e.mass[at(n)], reference.masses[at(n)]);
    for (std::int64_t k = 0; k < dim; ++k) {
      double& u = e.displacement[at(n * dim + k)];
      u = transported ? u / e.mass[at(n)] : 0;
    }
  }
  for (std::int64_t m = 0; m < target.size(); ++m)
    if (left[at(m)] > 1e-12 * target.masses[at(m)]) e.rest.add(target.point(m), left[at(m)]);
  return e;
}

Embedding lopt_embed(const Measure& reference, const Measure& target, double lambda) {
  check(reference, "reference");
  require(reference.total() > 0, "reference: its total mass is 0");
  return embed_plan(reference, target, partial_transport(reference, target, lambda));
}

Embedding lot_embed(const Measure& reference, const Measure& target) {
  const Measure p = normalised(reference, "reference"), q = normalised(target, "measure");
  auto e = embed_plan(p, q, balanced_transport(p, q));
  e.scaled = true;
  return e;
}

std::vector<Embedding> embed_all(std::span<const Measure> targets,
                                 const std::function<Embedding(const Measure&)>& embed, int threads,
                                 const std::function<void(std::int64_t)>& done) {
  std::vector<Embedding> out(targets.size());
  std::mutex mutex;
  std::int64_t finished = 0;
  parallel_for(static_cast<std::int64_t>(targets.size()), threads, [&](std::int64_t i) {
    try {
      out[at(i)] = embed(targets[at(i)]);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("measure {}: {}", i, error.what()));
    }
    const std::scoped_lock lock(mutex);
    ++finished;
    if (done) done(finished);
  });
  return out;
}

double lopt_discrepancy(const Embedding& a, const Embedding& b, double lambda) {
  require(a.mass.size() == b.mass.size() && a.displacement.size() == b.displacement.size(),
          "embeddings of {} and of {} atoms", a.mass.size(), b.mass.size());
  if (a.mass.empty()) return lambda * (a.rest.total() + b.rest.total());
  const auto dim = static_cast<std::int64_t>(a.displacement.size() / a.mass.size());
  double sum = lambda * (a.rest.total() + b.rest.total());
  for (std::int64_t n = 0; n < static_cast<std::int64_t>(a.mass.size()); ++n) {
    const double gap = squared_distance(displacement(a, n, dim), displacement(b, n, dim));
    sum += std::min(gap, 2 * lambda) * std::min(a.mass[at(n)], b.mass[at(n)]) +
           lambda * std::abs(a.mass[at(n)] - b.mass[at(n)]);
  }
  return sum;
}

double uncapped_lambda(std::span<const Embedding> embeddings, std::int64_t dim) {
  double furthest = 0;  // |u|^2
  for (const Embedding& e : embeddings) {
    for (std::int64_t n = 0; n < static_cast<std::int64_t>(e.mass.size()); ++n) {
      double square = 0;
      for (const double u : displacement(e, n, dim)) square += u * u;
      furthest = std::max(furthest, square);
    }
  }
  return furthest > 0 ? 2.01 * furthest : 1;  // |u - u'|^2 <= 4 max |u|^2 < 2 lambda
}

Measure projected(const Measure& reference, const Embedding& e) { return interpolate(reference, e, 1); }

Measure interpolate(const Measure& reference, const Embedding& e, double t) {
  check_time(t);
  check_fits(reference, e);
  Measure out{reference.dim, {}, {}};
  for (std::int64_t n = 0; n < reference.size(); ++n) {
    const auto u = displacement(e, n, reference.dim);
    add_moved(out, reference.point(n), u, t, e.mass[at(n)]);
    add_moved(out, reference.point(n), u, 0, (1 - t) * (reference.masses[at(n)] - e.mass[at(n)]));
  }
  add_all(out, e.rest, t);
  return out;
}

Measure interpolate(const Measure& reference, const Embedding& from, const Embedding& to, double t) {
  check_time(t);
  check_fits(reference, from);
  check_fits(reference, to);
  Measure out{reference.dim, {}, {}};
  for (std::int64_t n = 0; n < reference.size(); ++n) {
    const auto x = reference.point(n), a = displacement(from, n, reference.dim), b = displacement(to, n, reference.dim);
    const double shared = std::min(from.mass[at(n)], to.mass[at(n)]);
    std::vector<double> u(a.begin(), a.end());
    for (std::size_t k = 0; k < u.size(); ++k) u[k] = (1 - t) * a[k] + t * b[k];
    add_moved(out, x, u, 1, shared);
    add_moved(out, x, a, 1, (1 - t) * (from.mass[at(n)] - shared));
    add_moved(out, x, b, 1, t * (to.mass[at(n)] - shared));
  }
  add_all(out, from.rest, 1 - t);
  add_all(out, to.rest, t);
  return out;
}

Barycenter barycenter(Measure start, std::span<const Measure> targets, double lambda,
                      const BarycenterOptions& options) {
  require(!targets.empty(), "barycentre: no measures");
  std::vector<double> weights = options.weights;
  if (weights.empty()) weights.assign(targets.size(), 1);
  require(weights.size() == targets.size(), "barycentre: {} weights for {} measures", weights.size(), targets.size());
  double total = 0;
  for (const double w : weights) {
    require(std::isfinite(w) && w > 0, "barycentre: a weight is {}, expected a positive number", w);
    total += w;
  }
  Barycenter found{std::move(start), 0, INFINITY};
  Measure& m = found.measure;
  while (found.rounds < options.most_rounds && found.change > options.tolerance) {
    const auto embedded = embed_all(
        targets, [&](const Measure& target) { return lopt_embed(m, target, lambda); }, options.threads);
    double moved = 0, size = 0;
    for (std::int64_t n = 0; n < m.size(); ++n) {
      double mass = 0;
      std::vector<double> step(at(m.dim), 0.0);
      for (std::size_t k = 0; k < targets.size(); ++k) {
        const double share = weights[k] / total * (options.weigh_by_mass ? embedded[k].mass[at(n)] : 1);
        mass += share;
        for (std::int64_t d = 0; d < m.dim; ++d) step[at(d)] += share * embedded[k].displacement[at(n * m.dim + d)];
      }
      if (mass <= 0) continue;
      for (std::int64_t d = 0; d < m.dim; ++d) {
        const double change = step[at(d)] / (options.weigh_by_mass ? mass : 1);
        double& x = m.points[at(n * m.dim + d)];
        x += change;
        moved += change * change, size += x * x;
      }
    }
    found.change = moved > 0 ? std::sqrt(moved / std::max(size, 1e-300)) : 0;
    ++found.rounds;
  }
  return found;
}

std::vector<double> features(const Measure& reference, std::span<const Embedding> embeddings, bool mass_feature,
                             double lambda) {
  std::vector<double> rows;
  for (const Embedding& e : embeddings) {
    check_fits(reference, e);
    for (std::int64_t n = 0; n < reference.size(); ++n)
      for (const double u : displacement(e, n, reference.dim)) rows.push_back(std::sqrt(reference.masses[at(n)]) * u);
    for (std::int64_t n = 0; mass_feature && n < reference.size(); ++n) {
      const double p = reference.masses[at(n)];
      rows.push_back(p > 0 ? std::sqrt(lambda / p) * e.mass[at(n)] : 0);
    }
  }
  return rows;
}

}  // namespace unbend::transport
