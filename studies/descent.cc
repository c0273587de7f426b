#include "studies/descent.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>

#include "unbend/calculus/fn_basis.h"
#include "unbend/calculus/functional.h"

namespace unbend {
namespace {

using functional::Fn;
using functional::Functional;
using functional::Grid;

// y(x) = cosh(x - 1/2) is the least area between rings of its radius at 0 and 1.
struct Film {
  int64_t size;
  Grid grid;
  functional::Basis basis;

  explicit Film(int64_t n)
      : size(n), grid(functional::gauss_legendre(2 * n + 8, 0, 1)), basis(functional::sine_basis(n, 0, 1)) {}

  Fn surface(const at::Tensor& c) const { return std::cosh(.5) + combination(basis, c); }
  Functional area() const {
    return [grid = grid](const Fn& y) { return integrate(y * sqrt(1 + square(nabla(y))), grid); };
  }

  // Steps until the residual's coefficients are below 1e-6, with g - length^2 g'' = dF/dy. Descent at this rate is
  // stable where rate times the largest curvature of F in the norm of the step is below 2.
  int64_t steps(double length, double rate, int64_t most, at::Tensor& c) const {
    const auto phi = basis.functions(grid.nodes());
    const auto load = (grid.weights().unsqueeze(1) * phi).t().contiguous();
    const auto k = (at::arange(1, size + 1, at::kDouble) * M_PI).square();
    const auto metric = 1 + length * length * k;  // of sines, which are its eigenfunctions
    const auto variable = at::zeros({size}, at::kDouble).requires_grad_(true);
    const Fn gradient = functional::gradient(area(), surface(variable));
    const at::NoGradGuard no_grad;
    for (int64_t i = 0; i < most; ++i) {
      const auto g = at::mv(load, gradient(grid.nodes()));
      if (!(g.norm().item<double>() > 1e-6)) {
        c = variable.detach().clone();
        return i;
      }
      variable.sub_(rate * g / metric);
    }
    c = variable.detach().clone();
    return most;
  }
};

}  // namespace

void study_descent(StudyResult& result, const StudyOptions& options) {
  constexpr int64_t kMost = 20000;
  Table table{"Soap film: steps until the gradient is below 1e-6",
              {"sines", "L2 gradient", "Sobolev gradient", "largest error"},
              {}};
  LinePlot plot{
      "Soap film: steps of descent against the size of the basis", {"sines", Scale::Log2}, {"steps", Scale::Log10}, {}};
  Series flat{"L2 gradient", {}, {}}, smooth{"Sobolev gradient, length 1", {}, {}};
  const auto x = at::linspace(0, 1, 101, at::kDouble);
  double error = 0;
  for (const int64_t n : options.full ? std::vector<int64_t>{4, 8, 16, 32} : std::vector<int64_t>{4, 8, 16}) {
    const Film film(n);
    at::Tensor c, ignored;
    const double top = std::pow(M_PI * static_cast<double>(n), 2);  // of -d^2/dx^2 on the basis
    const int64_t sobolev = film.steps(1, 1, kMost, c), plain = film.steps(0, 1 / top, kMost, ignored);
    error = (film.surface(c)(x) - (x - .5).cosh()).abs().max().item<double>();
    for (Series* s : {&flat, &smooth}) s->x.push_back(static_cast<double>(n));
    flat.y.push_back(static_cast<double>(plain));
    smooth.y.push_back(static_cast<double>(sobolev));
    table.rows.push_back({fmt::format("{}", n), fmt::format("{}{}", plain == kMost ? "over " : "", plain),
                          fmt::format("{}", sobolev), fmt::format("{:.1e}", error)});
  }
  record(result, "soap film: Sobolev steps with the largest basis over those with 4 sines", "-",
         smooth.y.back() / smooth.y.front(), "x", Bar::at_most(1.5));
  record(result, "soap film: L2 steps with the largest basis over those with 4 sines", "grows (mesh-dependent)",
         flat.y.back() / flat.y.front(), "x", Bar::at_least(4));
  record(result, "soap film: largest error of the largest basis", "cosh(x - 1/2)", error, "", Bar::at_most(2e-4));
  plot.series = {flat, smooth};
  result.tables.push_back(table);
  result.plots.push_back(plot);
}

}  // namespace unbend
