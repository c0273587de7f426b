#include "studies/equations.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>
#include <numbers>

#include "unbend/calculus/collocation.h"
#include "unbend/calculus/spectra.h"

namespace unbend {
namespace {

using functional::Collocation;
using functional::Fn;
using functional::Functional;
using functional::Grid;

struct Equation {
  std::string name;
  Functional residual;
  std::vector<Functional> conditions;
  std::function<at::Tensor(const at::Tensor&)> exact;
  std::string solution;
};

std::vector<double> numbers_of(const at::Tensor& t) {
  const auto c = t.contiguous();
  return {c.const_data_ptr<double>(), c.const_data_ptr<double>() + c.numel()};
}

// What is chosen: the values, or the coefficients of an orthonormal basis, are vectors with the L2 inner product.
void volterra(StudyResult& result) {
  constexpr int64_t kNodes = 40;
  const Grid grid = functional::gauss_legendre(kNodes, 0, 1);
  const LinearMap map = functional::collocate([](const Fn& f) { return antiderivative(f, 0, 1, kNodes); },
                                              {functional::legendre_basis(kNodes, 0, 1), grid});
  SpectrumOptions options;
  options.basis = 12;
  options.restarts = 0;
  const auto values = golub_kahan(map, 3, options).values;
  double worst = 0;
  for (int k = 1; k <= 3; ++k) {
    worst = std::max(worst, std::abs(values[k - 1].item<double>() - 2 / ((2 * k - 1) * std::numbers::pi)));
  }
  record(result, "Volterra operator: three singular values by 12 Golub-Kahan steps, largest error", "-", worst, "",
         Bar::at_most(1e-12));
}

}  // namespace

void study_equations(StudyResult& result) {
  const auto xy = functional::arguments(2);
  const Fn x = functional::identity();
  const Grid grid = functional::gauss_legendre(40, 0, 1);
  const std::vector<Equation> equations{
      {"Fredholm: f - integral of x y f(y) = x",
       [&](const Fn& f) { return f - integrate(xy[0] * xy[1] * f(xy[1]), 1, grid) - x; },
       {},
       [](const at::Tensor& t) { return 1.5 * t; },
       "1.5 x"},
      {"integro-differential: u' = 1 - integral of u from 0 to x, u(0) = 0",
       [](const Fn& u) { return nabla(u) - 1 + antiderivative(u, 0, 1); },
       {[](const Fn& u) { return value_at(u, 0); }},
       [](const at::Tensor& t) { return t.sin(); },
       "sin x"},
      {"Hammerstein: u = x - 1/4 + integral of t u(t)^2",
       [&](const Fn& u) { return u - x + .25 - integrate(x * square(u), grid); },
       {},
       [](const at::Tensor& t) { return t; },
       "x"},
      {"boundary values: u'' = 6 u^2, u(0) = 1, u(1) = 1/4",
       [](const Fn& u) { return nabla(nabla(u)) - 6 * square(u); },
       {[](const Fn& u) { return value_at(u, 0) - 1; }, [](const Fn& u) { return value_at(u, 1) - .25; }},
       [](const at::Tensor& t) { return (1 + t).pow(-2); },
       "(1 + x)^-2"}};
  Table table{"Equations on 40 Gauss nodes", {"equation", "solution", "basis", "Newton steps", "largest error"}, {}};
  LinePlot solutions{"Solutions of integral and differential equations", {"x"}, {"u"}, {}};
  LinePlot convergence{
      "Largest error against the size of the basis", {"Legendre polynomials"}, {"error", Scale::Log10}, {}};
  const auto points = at::linspace(0, 1, 101, at::kDouble);
  for (const Equation& equation : equations) {
    Series errors{equation.name.substr(0, equation.name.find(':')), {}, {}};
    for (const int64_t size : {4, 6, 8, 12, 16, 20, 24}) {
      const Collocation where{functional::legendre_basis(size, 0, 1), grid, equation.conditions};
      const auto solution = functional::solve_equation(equation.residual, where);
      const double error = (solution.u(points) - equation.exact(points)).abs().max().item<double>();
      errors.x.push_back(static_cast<double>(size));
      errors.y.push_back(std::max(error, 1e-17));
      if (size != 24) continue;
      table.rows.push_back({equation.name, equation.solution, fmt::format("{}", size),
                            fmt::format("{}", solution.residuals.size() - 1), fmt::format("{:.1e}", error)});
      record(result, equation.name + ": largest error", "-", error, "", Bar::at_most(1e-10));
      solutions.series.push_back({errors.name, numbers_of(points), numbers_of(solution.u(points))});
    }
    convergence.series.push_back(errors);
  }
  volterra(result);
  result.tables.push_back(table);
  result.plots.push_back(solutions);
  result.plots.push_back(convergence);
}

}  // namespace unbend
