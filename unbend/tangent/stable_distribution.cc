#include "unbend/tangent/stable_distribution.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/nets/network_pull.h"
#include "unbend/nets/network_sweep.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

// Numbers of the Jacobians that are held at a time.
constexpr int64_t kNumbersAtOnce = int64_t{1} << 25;

int64_t elements(const at::Tensor& x) { return x.numel() / std::max<int64_t>(x.size(0), 1); }

bool each_sample(const Noise& noise, const at::Tensor& x) {
  return noise.factor.defined() ? noise.factor.dim() == 3 : noise.scale.dim() == x.dim();
}

Noise part_of(const Noise& noise, const at::Tensor& x, int64_t first, int64_t count) {
  if (!each_sample(noise, x)) return noise;
  auto part = noise;
  auto& values = part.scale.defined() ? part.scale : part.factor;
  values = values.narrow(0, first, count);
  return part;
}

// J L from J, [1 or B, k, n] -> [1 or B, k, r].
at::Tensor times_noise(const at::Tensor& jacobian, const Noise& noise, const at::Tensor& x) {
  const auto type = x.scalar_type();
  if (noise.factor.defined()) return at::matmul(jacobian, noise.factor.to(type));
  const auto s = noise.scale.to(type);
  if (s.dim() == 0) return jacobian * s;
  return jacobian * (each_sample(noise, x) ? s.flatten(1).unsqueeze(1) : s.flatten());
}

at::Tensor gram(const at::Tensor& b) { return at::matmul(b, b.transpose(-1, -2)); }

Propagated of_factor(const Law& law, const at::Tensor& location, const at::Tensor& factor) {
  Propagated p{law, location, {}, {}, {}};
  const auto all = factor.expand({location.size(0), -1, -1});
  (law.gaussian() ? p.covariance : p.factor) = law.gaussian() ? gram(factor).expand({location.size(0), -1, -1}) : all;
  return p;
}

// Columns of L.
int64_t columns(const Noise& noise, const at::Tensor& x) {
  return noise.factor.defined() ? noise.factor.size(-1) : elements(x);
}

bool forward(const PropagateOptions& options, int64_t columns, int64_t outputs) {
  return options.sweep == Sweep::Forward || (options.sweep == Sweep::Auto && columns < outputs);
}

Propagated through_chain(const GatedChain& chain, const at::Tensor& x, const Noise& noise,
                         const PropagateOptions& options) {
  const size_t first = chain.affine();
  const int64_t k = chain.value.size(1), r = columns(noise, x);
  const bool same = !each_sample(noise, x);
  // What the leading affine steps make of L: one matrix [width, r] if all samples have the same noise.
  if (same && first > 0) {
    const auto made = times_noise(chain.leading(), noise, x);
    if (forward(options, r, k)) {
      const auto rows = chain.push(made.t().unsqueeze(0), first);  // [1 or B, r, k]
      return of_factor(noise.law, chain.value, rows.transpose(1, 2));
    }
    const auto rest = chain.matrix(first);  // [1 or B, k, width]
    if (noise.law.gaussian() && made.size(0) <= r) {
      const auto s = at::matmul(at::matmul(rest, gram(made)), rest.transpose(1, 2));
      return {noise.law, chain.value, ((s + s.transpose(1, 2)) / 2).expand({x.size(0), k, k}), {}, {}};
    }
    return of_factor(noise.law, chain.value, at::matmul(rest, made));
  }
  if (forward(options, r, k)) {
    const auto type = x.scalar_type();
    const auto l = noise.factor.defined()
                       ? noise.factor.to(type)
                       : at::diag_embed(same ? noise.scale.to(type).expand(x.sizes().slice(1)).flatten()
                                             : noise.scale.to(type).flatten(1));
    const auto rows = chain.push(l.transpose(-1, -2).reshape({same ? 1 : x.size(0), r, chain.inputs}), 0);
    return of_factor(noise.law, chain.value, rows.transpose(1, 2));
  }
  return of_factor(noise.law, chain.value, times_noise(chain.matrix(0), noise, x));
}

Propagated through_function(const BatchFunction& f, const at::Tensor& x, const Noise& noise,
                            const PropagateOptions& options, bool create_graph, int64_t outputs) {
  at::Tensor value;
  if (!create_graph && forward(options, columns(noise, x), outputs)) {
    const auto type = x.scalar_type();
    const auto l = noise.factor.defined() ? noise.factor.to(type)
                                          : at::diag_embed(noise.scale.to(type).expand(x.sizes()).flatten(1));
    const auto pushed = sample_pushes(f, x, l, value);
    return of_factor(noise.law, value, pushed);
  }
  const auto jacobian = sample_jacobians(f, x, create_graph, value);
  return of_factor(noise.law, value, times_noise(jacobian, noise, x));
}

at::Tensor cat_defined(const std::vector<Propagated>& parts, at::Tensor Propagated::*which) {
  if (!(parts[0].*which).defined()) return {};
  std::vector<at::Tensor> all;
  for (const auto& p : parts) all.push_back(p.*which);
  return at::cat(all);
}

// In parts of the batch whose Jacobians fit.
template <class One>
Propagated in_parts(const at::Tensor& x, const Noise& noise, int64_t outputs, bool whole, const One& one) {
  const int64_t batch = x.size(0), size = std::max<int64_t>(1, kNumbersAtOnce / (outputs * elements(x)));
  if (whole || size >= batch) return one(x, noise);
  std::vector<Propagated> parts;
  for (int64_t first = 0; first < batch; first += size) {
    const auto count = std::min(size, batch - first);
    parts.push_back(one(x.narrow(0, first, count), part_of(noise, x, first, count)));
  }
  return {noise.law,
          cat_defined(parts, &Propagated::location),
          cat_defined(parts, &Propagated::covariance),
          cat_defined(parts, &Propagated::factor),
          {}};
}

Propagated checked(Propagated p) {
  const auto finite = at::isfinite(p.location.detach()).all();
  if (!finite.item<bool>()) fail_computation("the network's output is not finite for this input");
  return p;
}

at::Tensor alpha_norm(const at::Tensor& b, double alpha) {
  if (alpha == 1) return b.abs().sum(-1);
  return alpha == 2 ? at::sqrt(b.square().sum(-1) + 1e-24) : at::pow(at::pow(b.abs(), alpha).sum(-1), 1 / alpha);
}

at::Tensor root(const at::Tensor& power, double alpha) {
  if (alpha == 1) return power;
  return alpha == 2 ? at::sqrt(power) : at::pow(power, 1 / alpha);
}

// Outputs per sample. Runs the first sample beside another one: the same values, unless samples interact or values are
// random.
int64_t outputs_apart(const BatchFunction& f, const at::Tensor& x) {
  const at::NoGradGuard no_gradients;
  const auto first = x.narrow(0, 0, 1);
  const auto two = f(at::cat({first, x.narrow(0, x.size(0) - 1, 1) * .5 + .25}));
  require(two.dim() >= 2 && two.size(0) == 2,
          "the function gives {} for two samples: its first dimension must be the batch", shape_string(two.sizes()));
  const auto alone = f(first)[0];
  const double difference = (alone - two[0]).abs().max().item<double>(), size = alone.abs().max().item<double>();
  require(difference <= 1e-4 * size + 1e-6 || !std::isfinite(difference),
          "the function gives {:g} more for a sample when another one is beside it: batch statistics or dropout are "
          "active, or its first dimension is not the batch",
          difference);
  return alone.numel();
}

// In float32, rounding alone makes eigenvalues of about -1e-7 of the largest.
double rounding(const at::Tensor& t) {
  return t.scalar_type() == at::kDouble ? 0 : 8 * std::numeric_limits<float>::epsilon();
}

}  // namespace

Noise independent_noise(const Law& law, const at::Tensor& scale) {
  check_floating(scale, "the scale of the noise");
  check_finite(scale.detach(), "the scale of the noise");
  require(scale.numel() > 0 && scale.detach().min().item<double>() >= 0, "the scale of the noise is negative: {}",
          scale.numel() > 0 ? scale.detach().min().item<double>() : 0.);
  return {law, scale, {}};
}

Noise independent_noise(const Law& law, double scale) {
  return independent_noise(law, at::scalar_tensor(scale, at::kDouble));
}

Noise factor_noise(const Law& law, const at::Tensor& factor) {
  check_floating(factor, "the factor of the noise");
  require((factor.dim() == 2 || factor.dim() == 3) && factor.numel() > 0,
          "the factor of the noise is {}: expected [n, r] or [B, n, r]", shape_string(factor.sizes()));
  check_finite(factor.detach(), "the factor of the noise");
  return {law, {}, factor};
}

Noise gaussian_noise(const at::Tensor& covariance) {
  check_floating(covariance, "the covariance");
  const bool square = (covariance.dim() == 2 || covariance.dim() == 3) && covariance.size(-1) == covariance.size(-2);
  require(square && covariance.numel() > 0, "the covariance is {}: expected [n, n] or [B, n, n]",
          shape_string(covariance.sizes()));
  check_finite(covariance.detach(), "the covariance");
  const auto s = covariance.to(at::kDouble);
  const double largest = s.detach().abs().max().item<double>();
  const double asymmetry = (s - s.transpose(-1, -2)).detach().abs().max().item<double>();
  require(asymmetry <= (1e-10 + rounding(covariance)) * largest, "the covariance is not symmetric: it differs by {:g}",
          asymmetry);
  const auto [values, vectors] = at::linalg_eigh((s + s.transpose(-1, -2)) / 2);
  const double below = values.min().item<double>(), above = values.max().item<double>();
  require(below >= -(1e-8 + rounding(covariance) * static_cast<double>(s.size(-1))) * std::max(above, 0.),
          "the covariance is indefinite: its eigenvalues reach from {:g} to {:g}", below, above);
  // Columns of eigenvalues that are 0 in all samples are left out.
  const auto keep = (values > 1e-14 * above).to(at::kLong).reshape({-1, s.size(-1)}).sum(0).nonzero().flatten();
  const auto factor = vectors * values.clamp_min(0).sqrt().unsqueeze(-2);
  const auto kept = keep.numel() > 0 ? factor.index_select(-1, keep) : factor.narrow(-1, 0, 1);
  return {gaussian_law(), {}, kept.to(covariance.scalar_type())};
}

void check_noise(const at::Tensor& x, const Noise& noise) {
  check_floating(x, "the input");
  require(x.dim() >= 2 && x.numel() > 0, "the input is {}: its first dimension must be the batch, as in [B, ..]",
          shape_string(x.sizes()));
  check_finite(x.detach(), "the input");
  const auto n = elements(x);
  if (noise.factor.defined()) {
    const auto& l = noise.factor;
    require(l.size(-2) == n && (l.dim() == 2 || l.size(0) == x.size(0)),
            "the factor of the noise is {}, but the input has {} samples of {} numbers", shape_string(l.sizes()),
            x.size(0), n);
    return;
  }
  const auto& s = noise.scale;
  require(s.dim() == 0 || s.sizes() == x.sizes() || s.sizes() == x.sizes().slice(1),
          "the scale of the noise is {}: expected [], {} or {}", shape_string(s.sizes()),
          shape_string(x.sizes().slice(1)), shape_string(x.sizes()));
}

Propagated propagate(const Network& network, const at::Tensor& x, const Noise& noise, const PropagateOptions& options) {
  check_noise(x, noise);
  auto copy = network;  // of references
  const auto weights = parameters(copy);
  const bool trains =
      at::GradMode::is_enabled() &&
      (std::ranges::any_of(weights, [](const auto& p) { return p.tensor->requires_grad(); }) || x.requires_grad());
  const int64_t k = [&] {
    const at::NoGradGuard no_gradients;
    return network(x.narrow(0, 0, 1)).numel();
  }();
  return checked(in_parts(x, noise, k, trains, [&](const at::Tensor& part, const Noise& of_part) {
    if (const auto chain = gated_chain(network, part)) return through_chain(*chain, part, of_part, options);
    const bool graph = trains || options.create_graph;
    if (!graph && part.is_cpu() && !forward(options, columns(of_part, part), k)) {
      at::Tensor value;
      const auto jacobian = sample_jacobians(network, part, value);
      return of_factor(noise.law, value, times_noise(jacobian, of_part, part));
    }
    return through_function(network, part, of_part, options, graph, k);
  }));
}

Propagated propagate(const BatchFunction& f, const at::Tensor& x, const Noise& noise, const PropagateOptions& options) {
  check_noise(x, noise);
  const int64_t k = outputs_apart(f, x.detach());
  if (options.create_graph) return checked(through_function(f, x, noise, options, true, k));
  return checked(in_parts(x, noise, k, false, [&](const at::Tensor& part, const Noise& of_part) {
    return through_function(f, part, of_part, options, false, k);
  }));
}

Noise to(const Noise& noise, at::Device device) {
  const auto moved = [&](const at::Tensor& t) { return t.defined() ? t.to(device) : t; };
  return {noise.law, moved(noise.scale), moved(noise.factor)};
}

Propagated to(const Propagated& p, at::Device device) {
  const auto moved = [&](const at::Tensor& t) { return t.defined() ? t.to(device) : t; };
  return {p.law, moved(p.location), moved(p.covariance), moved(p.factor), moved(p.power)};
}

Noise as_noise(const Propagated& p) {
  if (p.covariance.defined()) {
    const auto [values, vectors] = at::linalg_eigh(p.covariance.to(at::kDouble));
    return {p.law, {}, (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)).to(p.covariance.scalar_type())};
  }
  if (p.factor.defined()) return {p.law, {}, p.factor};
  return {p.law, scale(p), {}};
}

at::Tensor draw(const at::Tensor& x, const Noise& noise, at::Generator& generator) {
  check_noise(x, noise);
  if (noise.scale.defined()) return x + noise.scale.to(x.scalar_type()) * standard_variables(noise.law, x, generator);
  const auto l = noise.factor.to(x.scalar_type());
  const auto s = standard_variables(noise.law, at::empty({x.size(0), l.size(-1), 1}, x.options()), generator);
  return x + at::matmul(l, s).reshape(x.sizes());
}

at::Tensor scale(const Propagated& p) {
  if (p.covariance.defined()) return at::sqrt(p.covariance.diagonal(0, 1, 2).clamp_min(0));
  return p.factor.defined() ? alpha_norm(p.factor, p.law.alpha) : root(p.power, p.law.alpha);
}

at::Tensor covariance(const Propagated& p) {
  require(p.law.gaussian(), "a {} law has no variance: use scales, quantiles or intervals",
          p.law.kind == Law::Kind::Cauchy ? "Cauchy" : "stable");
  return p.covariance.defined() ? p.covariance : at::diag_embed(p.power);
}

at::Tensor difference_scale(const Propagated& p, const at::Tensor& labels) {
  check_shape(labels, {p.location.size(0)}, "the labels");
  check_indices(labels, p.location.size(1), "the labels");
  const auto own = labels.unsqueeze(1);
  if (p.covariance.defined()) {
    const auto variance = p.covariance.diagonal(0, 1, 2);
    const auto k = p.covariance.size(1);
    const auto row = p.covariance.gather(1, own.unsqueeze(2).expand({-1, 1, k})).squeeze(1);
    return at::sqrt((variance + variance.gather(1, own) - 2 * row).clamp_min(0) + 1e-12);
  }
  if (p.factor.defined()) {
    const auto row = p.factor.gather(1, own.unsqueeze(2).expand({-1, 1, p.factor.size(2)}));
    return alpha_norm(p.factor - row, p.law.alpha);
  }
  return root(p.power + p.power.gather(1, own) + (p.law.alpha == 2 ? 1e-12 : 0), p.law.alpha);
}

Propagated outputs(const Propagated& p, int64_t first, int64_t count) {
  require(first >= 0 && count >= 1 && first + count <= p.location.size(1), "outputs {} to {} of {}", first,
          first + count - 1, p.location.size(1));
  auto part = p;
  part.location = p.location.narrow(1, first, count);
  if (p.covariance.defined()) part.covariance = p.covariance.narrow(1, first, count).narrow(2, first, count);
  if (p.factor.defined()) part.factor = p.factor.narrow(1, first, count);
  if (p.power.defined()) part.power = p.power.narrow(1, first, count);
  return part;
}

Propagated with_own_noise(const Propagated& p, const at::Tensor& own) {
  require(own.sizes() == p.location.sizes(), "the own noise is {}, the output {}", shape_string(own.sizes()),
          shape_string(p.location.sizes()));
  require(own.ge(0).all().item<bool>(), "the own noise has a {} that is negative or NaN",
          p.law.gaussian() ? "variance" : "scale");
  auto sum = p;
  if (p.covariance.defined()) sum.covariance = p.covariance + at::diag_embed(own);
  if (p.factor.defined()) sum.factor = at::cat({p.factor, at::diag_embed(own)}, 2);
  if (p.power.defined()) sum.power = p.power + (p.law.gaussian() ? own : at::pow(own, p.law.alpha));
  return sum;
}

}  // namespace unbend
