#include "studies/gan_phases.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace unbend {
namespace {

bool converges(gan::Verdict verdict) { return verdict != gan::Verdict::Divergent && verdict != gan::Verdict::Neutral; }

}  // namespace

std::vector<double> powers_of_ten(double low, double high, int count) {
  std::vector<double> all;
  for (int i = 0; i < count; ++i) all.push_back(std::pow(10, low + (high - low) * i / (count - 1)));
  return all;
}

PhaseDiagram phase_diagram(const gan::Kernel& kernel, const gan::Steps& steps, double p, double q,
                           std::vector<double> sigmas, std::vector<double> lambdas, bool measure) {
  PhaseDiagram d{steps.order, std::move(sigmas), std::move(lambdas), {}};
  std::vector<gan::Cell> cells;
  for (const double lambda : d.lambdas) {
    for (const double sigma : d.sigmas) {
      gan::Kernel wide = kernel;
      wide.sigma = sigma;
      gan::Cell cell{sigma, steps, p, q};
      cell.steps.lambda = lambda;
      d.predicted.push_back(gan::predict({p, {q}, wide.curvature(), cell.steps}).verdict);
      cells.push_back(cell);
    }
  }
  if (measure) d.measured = gan::run_cells(kernel, steps.order, cells);
  return d;
}

std::vector<bool> PhaseDiagram::disagreements() const {
  std::vector<bool> all(predicted.size());
  for (std::size_t i = 0; i < measured.size(); ++i)
    all[i] = converges(predicted[i]) != (measured[i].fate == gan::Fate::Converged);
  return all;
}

std::size_t PhaseDiagram::disagreeing() const {
  const auto all = disagreements();
  return static_cast<std::size_t>(std::ranges::count(all, true));
}

std::size_t PhaseDiagram::disagreeing_inside() const {
  const auto all = disagreements();
  const auto rows = std::ssize(lambdas), columns = std::ssize(sigmas);
  const auto at = [&](std::ptrdiff_t row, std::ptrdiff_t column) {
    return converges(predicted[static_cast<std::size_t>(row * columns + column)]);
  };
  std::size_t inside = 0;
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (std::ptrdiff_t column = 0; column < columns; ++column) {
      if (!all[static_cast<std::size_t>(row * columns + column)]) continue;
      bool near = false;
      for (auto r = std::max<std::ptrdiff_t>(0, row - 1); r <= std::min(rows - 1, row + 1); ++r)
        for (auto c = std::max<std::ptrdiff_t>(0, column - 1); c <= std::min(columns - 1, column + 1); ++c)
          near = near || at(r, c) != at(row, column);
      inside += !near;
    }
  }
  return inside;
}

CellPlot plot_of(const PhaseDiagram& d) {
  CellPlot plot{
      fmt::format("Predicted phases, {} updates", d.order == gan::Order::Alternating ? "alternating" : "simultaneous"),
      {"sigma", Scale::Log10},
      {"lambda", Scale::Log10},
      d.sigmas,
      d.lambdas,
      {},
      {}};
  for (const auto verdict : {gan::Verdict::Monotone, gan::Verdict::Oscillating, gan::Verdict::Period2,
                             gan::Verdict::Neutral, gan::Verdict::Divergent})
    plot.classes.push_back(gan::name(verdict));
  for (const auto verdict : d.predicted) plot.cells.push_back(static_cast<int>(verdict));
  if (d.measured.empty()) return plot;
  plot.marked = d.disagreements();
  plot.caption = fmt::format("{} of {} cells end otherwise when simulated; they have a frame.", d.disagreeing(),
                             d.predicted.size());
  return plot;
}

}  // namespace unbend
