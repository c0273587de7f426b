#include "unbend/calculus/collocation.h"

#include <cmath>
#include <limits>

#include "unbend/base/error.h"
#include "unbend/calculus/linearize.h"
#include "unbend/calculus/solve.h"
#include "unbend/tensor/check.h"

namespace unbend::functional {
namespace {

// Coefficients to sqrt(weight) R(u)(node), then the conditions.
Function residual_function(const Functional& residual, const Collocation& where) {
  require(where.grid && where.grid.nodes().dim() == 1, "collocation: a grid of numbers is needed");
  const Fn probe = residual(combination(where.basis, at::zeros({where.basis.size}, at::kDouble)));
  require(probe.type() == FnType{Spec{}, {Spec{}}}, "collocation: the residual is {}, not R -> R", signature(probe));
  return [residual, where](const Tensors& coefficients) {
    const Fn u = combination(where.basis, coefficients[0]);
    Tensors rows{where.grid.weights().sqrt() * residual(u)(where.grid.nodes())};
    const double scale = std::sqrt(where.grid.weights().sum().item<double>());
    for (const Functional& condition : where.conditions) {
      const Fn value = condition(u);
      require(value.type() == FnType{Spec{}, {}}, "collocation: a condition is {}, not a number", signature(value));
      rows.push_back(scale * value.tensor().view({1}));
    }
    return Tensors{at::cat(rows)};
  };
}

// Spectral derivatives make J ill-conditioned, which iterations feel and factors do not.
SolveResult newton_step(const Linearization& at) {
  if (at.jacobian.domain().dim() <= 512) return solve_directly(at.jacobian, at.value);
  SolveOptions options;
  options.rtol = 1e-14;
  LsqrOptions limits;
  limits.condition_limit = 1e14;
  return lsqr(at.jacobian, at.value, options, limits);
}

}  // namespace

LinearMap collocate(const Functional& op, const Collocation& where) {
  LinearizeOptions options;
  options.allow_constant = true;
  return unbend::linearize(residual_function(op, where), {at::zeros({where.basis.size}, at::kDouble)}, options)
      .jacobian;
}

EquationSolution solve_equation(const Functional& residual, const Collocation& where, const EquationOptions& options) {
  require(options.max_steps >= 1 && options.tolerance > 0,
          "solve_equation: at least one step and a positive tolerance");
  const Function f = residual_function(residual, where);
  at::Tensor c = options.start.defined() ? options.start : at::zeros({where.basis.size}, at::kDouble);
  check_shape(c, {where.basis.size}, "start");
  const double scale = std::sqrt(where.grid.weights().sum().item<double>());
  const auto size = [&](const Tensors& values) { return values[0].norm().item<double>() / scale; };
  LinearizeOptions constant_allowed;
  constant_allowed.allow_constant = true;

  EquationSolution solution{combination(where.basis, c), c, {}, Outcome::MaxIterations};
  for (int step = 0; step <= options.max_steps; ++step) {
    const Linearization at_c = unbend::linearize(f, {c}, constant_allowed);
    const double error = size(at_c.value);
    if (step == 0) solution.residuals.push_back(error);
    if (!std::isfinite(error)) {
      solution.outcome = Outcome::NonfiniteInput;
      break;
    }
    if (error <= options.tolerance) {
      solution.outcome = Outcome::Converged;
      break;
    }
    if (step == options.max_steps) break;
    const SolveResult newton = newton_step(at_c);
    double factor = 1, reached = std::numeric_limits<double>::infinity();
    at::Tensor next;
    for (int halving = 0; halving < 12; ++halving, factor /= 2) {
      const at::NoGradGuard no_graph;
      next = c - factor * newton.x[0];
      reached = size(f({next}));
      if (reached < error) break;
    }
    if (!(reached < error)) {  // what is left is beyond the basis, or rounding
      solution.outcome = newton.converged() ? Outcome::Stagnated : newton.outcome;
      break;
    }
    c = next;
    solution.residuals.push_back(reached);
  }
  solution.coefficients = c;
  solution.u = combination(where.basis, c);
  return solution;
}

}  // namespace unbend::functional
