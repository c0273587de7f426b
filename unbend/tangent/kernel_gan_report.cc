// From a problem to its blocks: who belongs to whom, what is predicted, and which knob to turn.
#include <cmath>
#include <limits>

#include "unbend/base/error.h"
#include "unbend/tangent/kernel_gan_local.h"

namespace unbend::gan {
namespace {

std::vector<std::vector<std::int64_t>> members_of(const Problem& p, std::vector<std::int64_t>& far,
                                                  const Nearest& near) {
  std::vector<std::vector<std::int64_t>> members(static_cast<std::size_t>(p.true_points.size(0)));
  for (std::size_t j = 0; j < near.target.size(); ++j) {
    if (near.distance[j] <= kReach * p.kernel.sigma)
      members[static_cast<std::size_t>(near.target[j])].push_back(static_cast<std::int64_t>(j));
    else
      far.push_back(static_cast<std::int64_t>(j));
  }
  return members;
}

double leakage_of(const Problem& p, const std::vector<std::vector<std::int64_t>>& members) {
  const auto true_pull = kernel_matrix(p.kernel, p.true_points, p.true_points) * p.true_masses;
  const auto pull = kernel_matrix(p.kernel, p.true_points, p.points) * p.masses;
  double worst = 0;
  for (std::int64_t i = 0; i < p.true_points.size(0); ++i) {
    double sum = (true_pull[i].sum() - true_pull[i][i]).item<double>() + pull[i].sum().item<double>();
    for (const auto j : members[static_cast<std::size_t>(i)]) sum -= pull[i][j].item<double>();
    worst = std::max(worst, sum);
  }
  return worst;
}

/// What would make the block better, as one sentence.
std::string advice_for(const Block& block, const Prediction& prediction, const Recommendation* best) {
  const auto& s = block.steps;
  const double a = s.eta_d * s.lambda, delta = block.delta(), g = coupling(block);
  const bool alternating = s.order == Order::Alternating, excess = delta < -1e-12 * block.p;
  const bool differences = prediction.difference && std::abs(*prediction.difference) >= prediction.rate - 1e-12;
  switch (prediction.verdict) {
    case Verdict::Divergent:
      if (differences && excess)
        return fmt::format(
            "points that share this target are driven apart: their mass is {:.3g} too much; take some "
            "away, or move a point to another target",
            -delta);
      if (differences) return "Delta eta_g / lambda is too large for the points that share this target: lower eta_g";
      if (s.lambda == 0 && alternating)
        return fmt::format(
            "g = {:.3g} is above {:.3g}: lower eta_g or widen sigma; and lambda = 0 never converges: raise it", g,
            boundaries(s).stable);
      if (s.lambda == 0) return "lambda = 0 never converges in simultaneous steps: take alternating ones or lambda > 0";
      if (g >= boundaries(s).stable && alternating)
        return fmt::format("g = {:.3g} is above {:.3g}: widen sigma to {:.3g} or lower eta_g to {:.3g}", g,
                           boundaries(s).stable, best->sigma, best->eta_g);
      if (g >= boundaries(s).stable)
        return fmt::format(
            "g = {:.3g} is above eta_d lambda = {:.3g}: widen sigma to {:.3g}, lower eta_g to {:.3g}, "
            "or take alternating steps",
            g, a, best->sigma, best->eta_g);
      return fmt::format("the generated mass is {:.3g} too much: take some away, or raise lambda", -delta);
    case Verdict::Neutral:
      if (s.lambda == 0) return "lambda = 0 oscillates for ever: raise lambda";
      if (differences)
        return "points that share this target do not merge as Delta = 0: give them less mass, or one point per target";
      return "on the edge of stability: widen sigma or lower eta_g";
    case Verdict::Period2:
      return fmt::format("changes sides at every step: widen sigma to {:.3g} or lower eta_g to {:.3g} (rate {:.4f})",
                         best->sigma, best->eta_g, best->eta_g_rate);
    case Verdict::Monotone:
    case Verdict::Oscillating: break;
  }
  if (differences) return "the differences between the points of this target are what is slow: lower lambda";
  if (best->sigma_rate < prediction.rate - 1e-3 * (1 - prediction.rate))
    return fmt::format("{} sigma to {:.3g} or {} eta_g to {:.3g} for a rate of {:.4f}", g < a ? "narrow" : "widen",
                       best->sigma, g < a ? "raise" : "lower", best->eta_g, best->sigma_rate);
  return a < 1 ? "as fast as these eta_d and lambda allow: raise eta_d lambda towards 1 for more" : "nothing to gain";
}

}  // namespace

Report analyse(const Problem& given) {
  Report report{};
  report.problem = checked(given, &report.notices);
  const Problem& p = report.problem;
  const double kappa = p.kernel.curvature(), missing = std::numeric_limits<double>::quiet_NaN();
  const Nearest near = nearest_targets(p);
  const auto members = members_of(p, report.far, near);
  report.leakage = leakage_of(p, members);
  report.rate = missing;
  const auto* const mass = p.true_masses.const_data_ptr<double>();
  const auto* const q = p.masses.const_data_ptr<double>();
  for (std::int64_t i = 0; i < p.true_points.size(0); ++i) {
    TargetReport target{i, members[static_cast<std::size_t>(i)], 0, 0, true, {}, {}, ""};
    Block block{mass[i], {}, kappa, p.steps};
    for (const auto j : target.members) {
      if (q[j] > 0) block.q.push_back(q[j]);
      target.distance = std::max(target.distance, near.distance[static_cast<std::size_t>(j)]);
    }
    target.delta = block.delta();
    target.local = target.distance <= p.kernel.sigma / 2;
    if (block.q.empty()) {
      target.advice = "no generated point with mass is near: move one here, or widen sigma";
    } else if (p.steps.lambda == 0 && std::abs(target.delta) > 1e-12 * mass[i]) {
      target.advice = "lambda = 0 and Delta is not 0: the discriminator grows for ever; take lambda > 0";
    } else {
      target.prediction = predict(block);
      if (p.steps.lambda > 0) target.recommendation = recommend(block, p.kernel);
      target.advice = advice_for(block, *target.prediction, target.recommendation ? &*target.recommendation : nullptr);
      if (!(target.prediction->rate <= report.rate)) report.rate = target.prediction->rate;
    }
    report.targets.push_back(std::move(target));
  }
  if (report.leakage > kMostLeakage)
    report.notices.push_back(
        fmt::format("the points are not isolated: others pull at a true point with {:.3g} (more than {:g}), so that "
                    "rates are those "
                    "of training only roughly; narrow sigma",
                    report.leakage, kMostLeakage));
  for (const auto& t : report.targets)
    if (!t.local)
      report.notices.push_back(fmt::format(
          "outside the local regime at true point {}: a generated point is {:.3g} away, more than sigma / 2", t.target,
          t.distance));
  if (!report.far.empty())
    report.notices.push_back(fmt::format(
        "{} generated point{} farther than {:g} sigma from every true point and feel{} "
        "almost no pull",
        report.far.size(), report.far.size() == 1 ? " is" : "s are", kReach, report.far.size() == 1 ? "s" : ""));
  return report;
}

// ---- The whole update as a function

namespace {

/// The Gram matrix of {K(., x_i), dK(., x)/dx_c at x_i}: [Nr (1 + d), Nr (1 + d)]; rows are the values and gradients
/// at the true points that a unit of each coefficient gives.
at::Tensor hermite_gram(const Problem& p);

/// Values [n] and gradients [n, d] at y of the function with coefficients alpha [Nr], beta [Nr, d].
std::pair<at::Tensor, at::Tensor> evaluate(const Problem& p, const at::Tensor& y, const at::Tensor& alpha,
                                           const at::Tensor& beta) {
  const auto difference = y.unsqueeze(1) - p.true_points.unsqueeze(0);  // [n, Nr, d]
  const Radial k = radial(p.kernel, difference.square().sum(-1));
  const auto along = (difference * beta.unsqueeze(0)).sum(-1);  // [n, Nr]
  const auto value = at::mv(k.value, alpha) + (k.slope * along).sum(1);
  const auto radial_part = k.slope * -alpha + 2 * k.slope_derivative * along;
  const auto gradient = (radial_part.unsqueeze(-1) * difference).sum(1) + at::mm(k.slope, beta);
  return {value, gradient};
}

at::Tensor hermite_gram(const Problem& p) {
  const std::int64_t nr = p.true_points.size(0), d = p.true_points.size(1), n = nr * (1 + d);
  auto gram = at::zeros({n, n}, at::kDouble);
  for (std::int64_t i = 0; i < n; ++i) {
    auto unit = at::zeros({n}, at::kDouble);
    unit[i] = 1;
    const auto [value, gradient] =
        evaluate(p, p.true_points, unit.narrow(0, 0, nr), unit.narrow(0, nr, nr * d).view({nr, d}));
    gram.select(1, i).copy_(at::cat({value, gradient.flatten()}));
  }
  return gram;
}

}  // namespace

Function update(const Problem& given) {
  const Problem p = checked(given);
  p.kernel.curvature();
  const auto inverse = at::linalg_inv(hermite_gram(p));
  return [p, inverse](const Tensors& state) -> Tensors {
    const std::int64_t nr = p.true_points.size(0), d = p.true_points.size(1);
    const auto &y = state[0], &value = state[1], &gradient = state[2];
    // What the new sources have at the true points: sum of mass * K and of mass * grad_x K.
    const auto mean_embedding = [&](const at::Tensor& z, const at::Tensor& mass) -> std::pair<at::Tensor, at::Tensor> {
      const auto difference = p.true_points.unsqueeze(1) - z.unsqueeze(0);
      const Radial k = radial(p.kernel, difference.square().sum(-1));
      return {at::mv(k.value, mass), -((k.slope * mass).unsqueeze(-1) * difference).sum(1)};
    };
    const auto [true_value, true_gradient] = mean_embedding(p.true_points, p.true_masses);
    const auto [own_value, own_gradient] = mean_embedding(y, p.masses);
    const double keep = p.steps.decay(), eta = p.steps.eta_d;
    const auto next_value = keep * value + eta * (true_value - own_value);
    const auto next_gradient = keep * gradient + eta * (true_gradient - own_gradient);
    const bool alternating = p.steps.order == Order::Alternating;
    const auto coefficients = at::mv(
        inverse, at::cat({alternating ? next_value : value, (alternating ? next_gradient : gradient).flatten()}));
    const auto pull = evaluate(p, y, coefficients.narrow(0, 0, nr), coefficients.narrow(0, nr, nr * d).view({nr, d}));
    return {y + p.steps.eta_g * p.masses.unsqueeze(1) * pull.second, next_value, next_gradient};
  };
}

Tensors equilibrium(const Problem& given) {
  const Problem p = checked(given);
  p.kernel.curvature();
  const auto target = at::tensor(nearest_targets(p).target, at::kLong);
  const auto delta = p.true_masses.clone().index_add_(0, target, p.masses, -1);
  const bool balanced = delta.abs().max().item<double>() <= 1e-12 * p.true_masses.max().item<double>();
  require(p.steps.lambda > 0 || balanced, "equilibrium: with lambda = 0 and masses that differ there is none");
  const auto alpha = balanced ? at::zeros_like(delta) : delta / p.steps.lambda;
  const auto [value, gradient] = evaluate(p, p.true_points, alpha, at::zeros_like(p.true_points));
  return {p.true_points.index_select(0, target), value, gradient};
}

Linearization linearize_update(const Problem& problem) { return linearize(update(problem), equilibrium(problem)); }

}  // namespace unbend::gan
