#include "unbend/tangent/kernel_gan.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/random.h"
#include "unbend/tensor/check.h"

namespace unbend::gan {
namespace {

at::Tensor as_points(const at::Tensor& t, const char* name) {
  require(t.defined() && t.dim() == 2 && t.size(0) > 0 && t.size(1) > 0, "{}: expected [points, dimensions], not {}",
          name, t.defined() ? shape_string(t.sizes()) : "nothing");
  const auto wide = t.to(at::kCPU, at::kDouble).contiguous();
  check_finite(wide, name);
  return wide;
}

at::Tensor as_masses(const at::Tensor& t, std::int64_t count, const char* name) {
  require(t.defined() && t.dim() == 1 && t.size(0) == count, "{}: expected {} numbers, not {}", name, count,
          t.defined() ? shape_string(t.sizes()) : "nothing");
  const auto wide = t.to(at::kCPU, at::kDouble).contiguous();
  check_finite(wide, name);
  require(wide.min().item<double>() >= 0, "{}: {} is negative", name, wide.min().item<double>());
  require(wide.max().item<double>() > 0, "{}: all are zero", name);
  return wide;
}

std::int64_t kept_steps(const SimulateOptions& options, const Steps& steps) {
  return options.features > 0 ? 0 : memory_window(steps, options.forget, options.steps);
}

/// A discriminator as training needs it: its gradients at the points, and its step.
struct Discriminator {
  virtual ~Discriminator() = default;
  virtual void gradients(const double* points, double* out) const = 0;
  virtual void step(const double* points) = 0;
};

/// f as a sum over true points, the start, and what is remembered of the generated ones: a ring of `window` steps.
struct Exact : Discriminator {
  const Problem& problem;
  const SimulateOptions& options;
  std::int64_t nr, ng, d, window, taken = 0;
  Expansion f;
  std::int64_t first = 0;  // source of the ring

  Exact(const Problem& p, const SimulateOptions& o)
      : problem(p),
        options(o),
        nr(p.true_points.size(0)),
        ng(p.points.size(0)),
        d(p.points.size(1)),
        window(kept_steps(o, p.steps)) {
    const std::int64_t start = o.from_equilibrium ? ng : 0;
    f = Expansion::with_room(d, nr + start + window * ng);
    put(0, p.true_points.const_data_ptr<double>(), nr);
    if (o.from_equilibrium) {
      const double scale = 1 / p.steps.lambda;
      const auto near = nearest_targets(p);
      const double *mass = p.true_masses.const_data_ptr<double>(), *q = p.masses.const_data_ptr<double>();
      for (std::int64_t i = 0; i < nr; ++i) f.weights[static_cast<std::size_t>(i)] = mass[i] * scale;
      for (std::int64_t j = 0; j < ng; ++j) {
        const auto target = near.target[static_cast<std::size_t>(j)];
        put(nr + j, p.true_points.const_data_ptr<double>() + target * d, 1);
        f.weights[static_cast<std::size_t>(nr + j)] = -q[j] * scale;
      }
    }
    first = nr + start;
    f.count = first;
  }

  void put(std::int64_t at, const double* rows, std::int64_t count) {
    for (std::int64_t k = 0; k < d; ++k)
      for (std::int64_t i = 0; i < count; ++i)
        f.coordinates[static_cast<std::size_t>(k)][static_cast<std::size_t>(at + i)] = rows[i * d + k];
  }

  void gradients(const double* points, double* out) const override {
    gan::gradients(problem.kernel, f, points, ng, out, options.cutoff);
  }

  void step(const double* points) override {
    const double keep = problem.steps.decay(), eta = problem.steps.eta_d;
    for (std::int64_t i = 0; i < f.count; ++i) f.weights[static_cast<std::size_t>(i)] *= keep;
    const double *mass = problem.true_masses.const_data_ptr<double>(), *q = problem.masses.const_data_ptr<double>();
    for (std::int64_t i = 0; i < nr; ++i) f.weights[static_cast<std::size_t>(i)] += eta * mass[i];
    if (window == 0) return;
    const std::int64_t at = first + taken++ % window * ng;  // over the oldest
    put(at, points, ng);
    for (std::int64_t j = 0; j < ng; ++j) f.weights[static_cast<std::size_t>(at + j)] = -eta * q[j];
    f.count = std::max(f.count, at + ng);
  }
};

/// f(x) = psi(x)^T theta.
struct Featured : Discriminator {
  const Problem& problem;
  Features features;
  at::Tensor truth, theta;  // [R]

  Featured(const Problem& p, const SimulateOptions& o)
      : problem(p), features(random_features(p.kernel, p.points.size(1), o.features, o.seed)) {
    truth = at::mv(features(p.true_points).t(), p.true_masses);
    theta = at::zeros_like(truth);
    if (!o.from_equilibrium) return;
    const auto near = nearest_targets(p);
    const auto targets = p.true_points.index_select(0, at::tensor(near.target, at::kLong));
    theta = (truth - at::mv(features(targets).t(), p.masses)) / p.steps.lambda;
  }
  at::Tensor view(const double* points) const {
    return at::from_blob(const_cast<double*>(points), problem.points.sizes(), at::kDouble);
  }
  void gradients(const double* points, double* out) const override {
    const double scale = -std::sqrt(2 / static_cast<double>(features.phases.numel()));
    const auto sines = at::sin(at::mm(view(points), features.directions.t()) + features.phases) * (theta * scale);
    view(out).copy_(at::mm(sines, features.directions));
  }
  void step(const double* points) override {
    theta = problem.steps.decay() * theta +
            problem.steps.eta_d * (truth - at::mv(features(view(points)).t(), problem.masses));
  }
};

/// Points that underflow keeps still: exp(-r^2 / (2 sigma^2)) is 0 beyond 38 widths.
void note_far_points(const Problem& problem, std::vector<std::string>& notes) {
  if (problem.kernel.kind != KernelKind::Gaussian) return;
  const auto near = nearest_targets(problem);
  const auto far = std::ranges::count_if(near.distance, [&](double r) { return r > 38 * problem.kernel.sigma; });
  if (far > 0)
    notes.push_back(fmt::format(
        "{} generated point{} farther than 38 sigma from every true point: the kernel underflows to 0 there, and "
        "nothing pulls at {}",
        far, far == 1 ? " is" : "s are", far == 1 ? "it" : "them"));
}

}  // namespace

void check_steps(const Steps& s) {
  require(s.eta_d > 0 && std::isfinite(s.eta_d), "eta_d must be positive and finite, not {}", s.eta_d);
  require(s.eta_g > 0 && std::isfinite(s.eta_g), "eta_g must be positive and finite, not {}", s.eta_g);
  require(s.lambda >= 0 && std::isfinite(s.lambda), "lambda must be 0 or positive, and finite, not {}", s.lambda);
  require(s.eta_d * s.lambda < 2,
          "eta_d lambda = {} is not below 2: the discriminator alone is unstable, whatever the generator does",
          s.eta_d * s.lambda);
}

Problem checked(const Problem& given, std::vector<std::string>* notices) {
  check_kernel(given.kernel);
  check_steps(given.steps);
  Problem p = given;
  p.true_points = as_points(given.true_points, "true points");
  p.points = as_points(given.points, "generated points");
  require(p.true_points.size(1) == p.points.size(1), "true points have {} dimensions, generated points {}",
          p.true_points.size(1), p.points.size(1));
  p.true_masses = as_masses(given.true_masses, p.true_points.size(0), "masses of the true points");
  p.masses = as_masses(given.masses, p.points.size(0), "masses of the generated points");

  const auto [unique, place, counts] = at::unique_dim(p.true_points, 0, true, true);
  if (unique.size(0) < p.true_points.size(0)) {
    const auto merged = p.true_points.size(0) - unique.size(0);
    if (notices != nullptr)
      notices->push_back(fmt::format("{} true point{} coincide{} with others: their masses are added", merged,
                                     merged == 1 ? "" : "s", merged == 1 ? "s" : ""));
    p.true_masses = at::zeros({unique.size(0)}, at::kDouble).index_add_(0, place, p.true_masses);
    p.true_points = unique.contiguous();
  }
  return p;
}

Nearest nearest_targets(const Problem& problem) {
  const auto distances = at::cdist(problem.points, problem.true_points, 2, /*compute_mode=*/2);
  const auto [least, index] = distances.min(1);
  const auto count = static_cast<std::size_t>(least.numel());
  return {{index.const_data_ptr<std::int64_t>(), index.const_data_ptr<std::int64_t>() + count},
          {least.const_data_ptr<double>(), least.const_data_ptr<double>() + count}};
}

std::int64_t memory_window(const Steps& steps, double forget, std::int64_t count) {
  const double keep = std::abs(steps.decay());
  if (forget <= 0 || keep >= 1) return count;
  if (keep == 0) return std::min<std::int64_t>(1, count);
  const double window = std::ceil(std::log(forget) / std::log(keep));
  return window < static_cast<double>(count) ? std::max<std::int64_t>(1, std::llround(window)) : count;
}

double memory_needed(const Problem& p, const SimulateOptions& options) {
  const auto d = static_cast<double>(p.points.size(1)), ng = static_cast<double>(p.points.size(0)),
             nr = static_cast<double>(p.true_points.size(0));
  const double recorded = static_cast<double>(options.steps) / static_cast<double>(options.record_every) * ng * d * 8;
  if (options.features > 0) return static_cast<double>(options.features) * (d + ng + nr + 3) * 8 + recorded;
  const auto window = static_cast<double>(kept_steps(options, p.steps));
  return (window * ng + nr) * (d + 1) * 8 + recorded;
}

Trajectory simulate(const Problem& given, const SimulateOptions& options) {
  require(options.steps >= 0, "simulate: {} steps", options.steps);
  require(options.record_every >= 1, "simulate: positions cannot be recorded every {} steps", options.record_every);
  require(options.features >= 0, "simulate: {} random features", options.features);
  const Problem p = checked(given);
  require(!options.from_equilibrium || p.steps.lambda > 0,
          "simulate: with lambda = 0 the discriminator has no equilibrium to start from");
  const at::NoGradGuard no_gradients;
  Trajectory t;
  t.window = kept_steps(options, p.steps);
  t.bytes = memory_needed(p, options);
  require(t.bytes <= options.most_bytes,
          "simulate: {} steps to remember of {} points need {:.3g} GB, more than {:.3g}: use fewer steps, a larger "
          "`forget`, a larger lambda, or random features",
          t.window, p.points.size(0), t.bytes / 1e9, options.most_bytes / 1e9);
  note_far_points(p, t.notes);

  std::unique_ptr<Discriminator> f;
  if (options.features > 0)
    f = std::make_unique<Featured>(p, options);
  else
    f = std::make_unique<Exact>(p, options);
  const std::int64_t ng = p.points.size(0), d = p.points.size(1), n = ng * d;
  auto y = p.points.clone(), pull = at::zeros_like(y);
  auto* const at = y.mutable_data_ptr<double>();
  auto* const gradient = pull.mutable_data_ptr<double>();
  const auto* const q = p.masses.const_data_ptr<double>();
  std::vector<std::int64_t> recorded{0};
  std::vector<double> positions(at, at + n);
  const bool alternating = p.steps.order == Order::Alternating;
  for (std::int64_t k = 1; k <= options.steps && !interrupted(); ++k) {
    if (alternating) f->step(at);
    f->gradients(at, gradient);
    if (!alternating) f->step(at);
    bool finite = true;
    for (std::int64_t i = 0; i < n; ++i) {
      at[i] += p.steps.eta_g * q[i / d] * gradient[i];
      finite = finite && std::isfinite(at[i]);
    }
    if (!finite) fail_computation("simulate: a generated point left all bounds at step {}", k);
    const bool go_on = !options.observe || options.observe(k, at);
    if (k % options.record_every == 0 || k == options.steps || !go_on) {
      recorded.push_back(k);
      positions.insert(positions.end(), at, at + n);
    }
    if (!go_on) break;
  }
  t.steps = at::tensor(recorded, at::kLong);
  t.points = at::tensor(positions, at::kDouble).view({-1, ng, d});
  if (auto* exact = dynamic_cast<Exact*>(f.get())) t.discriminator = std::move(exact->f);
  return t;
}

at::Tensor Features::operator()(const at::Tensor& x) const {
  return std::sqrt(2 / static_cast<double>(phases.numel())) * at::cos(at::mm(x, directions.t()) + phases);
}

namespace {

/// Gamma variate of the given shape and scale 1 (Marsaglia and Tsang 2000).
double gamma_variate(double shape, Random& random) {
  if (shape < 1) return gamma_variate(shape + 1, random) * std::pow(1 - random.uniform(), 1 / shape);
  const double d = shape - 1. / 3, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = random.normal(), v = std::pow(1 + c * x, 3);
    if (v > 0 && std::log(1 - random.uniform()) < x * x / 2 + d - d * v + d * std::log(v)) return d * v;
  }
}

}  // namespace

Features random_features(const Kernel& kernel, std::int64_t dims, std::int64_t count, std::uint64_t seed) {
  check_kernel(kernel);
  require(kernel.radial(), "the kernel {} has no random features: it does not depend on x - z alone",
          name(kernel.kind));
  require(dims >= 1 && count >= 1, "random features: {} of {} dimensions", count, dims);
  Random random(seed);
  auto directions = at::empty({count, dims}, at::kDouble), phases = at::empty({count}, at::kDouble);
  auto *w = directions.mutable_data_ptr<double>(), *b = phases.mutable_data_ptr<double>();
  for (std::int64_t r = 0; r < count; ++r) {
    // Each of these kernels is a mixture of Gaussians: the spectrum is normal, given the width.
    double scale = 1 / kernel.sigma;
    if (kernel.kind == KernelKind::RationalQuadratic)
      scale *= std::sqrt(gamma_variate(kernel.shape, random) / kernel.shape);
    if (kernel.kind == KernelKind::MultiGaussian) scale /= kernel.factors[random.below(kernel.factors.size())];
    if (kernel.kind == KernelKind::Laplacian) scale /= std::abs(random.normal());
    for (std::int64_t k = 0; k < dims; ++k) w[r * dims + k] = scale * random.normal();
    b[r] = 2 * M_PI * random.uniform();
  }
  return {directions, phases};
}

}  // namespace unbend::gan
