// Study of LCOT (Diaz Martin et al. 2024, "LCOT: Linear circular optimal transport", arXiv 2310.06002): how well the
// linear distance stands for circular optimal transport, families of rotations, speed, barycentres across the seam. The
// paper's claims are mostly figures; the bars are those of our derivation.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <numbers>
#include <numeric>

#include "studies/study.h"
#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/random.h"
#include "unbend/transport/lcot.h"
#include "unbend/transport/pca.h"
#include "unbend/transport/picture.h"

namespace unbend {
namespace {

using namespace transport;

constexpr double kTurn = 2 * std::numbers::pi;

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

/// A von Mises angle around `centre` (in turns), by the envelope of Best and Fisher (1979); in turns, in [0, 1).
double von_mises(double centre, double kappa, Random& random) {
  const double tau = 1 + std::sqrt(1 + 4 * kappa * kappa), rho = (tau - std::sqrt(2 * tau)) / (2 * kappa);
  const double r = (1 + rho * rho) / (2 * rho);
  while (true) {
    const double z = std::cos(std::numbers::pi * random.uniform()), f = (1 + r * z) / (r + z), c = kappa * (r - f);
    const double u = 1 - random.uniform();
    if (c * (2 - c) - u <= 0 && std::log(c / u) + 1 - c < 0) continue;
    const double angle = std::acos(std::clamp(f, -1., 1.)) / kTurn;
    return reduced(centre + (random.uniform() < .5 ? -angle : angle));
  }
}

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](std::size_t i) { return values[i]; });
  std::vector<double> rank(values.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t j = i;
    while (j < order.size() && values[order[j]] == values[order[i]]) ++j;
    for (std::size_t k = i; k < j; ++k) rank[order[k]] = static_cast<double>(i + j - 1) / 2;
    i = j;
  }
  return rank;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const double ma = mean(a), mb = mean(b);
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    ab += (a[i] - ma) * (b[i] - mb), aa += (a[i] - ma) * (a[i] - ma), bb += (b[i] - mb) * (b[i] - mb);
  return ab / std::sqrt(aa * bb);
}

double spearman(const std::vector<double>& a, const std::vector<double>& b) { return correlation(ranks(a), ranks(b)); }

/// Squared transport on the line [0, 1] between atoms: the circle cut open at 0.
double line_transport(const CircularMeasure& a, const CircularMeasure& b) {
  double sum = 0, left_a = a.weights[0], left_b = b.weights[0];
  for (std::size_t i = 0, j = 0; i < a.left.size() && j < b.left.size();) {
    const double step = std::min(left_a, left_b);
    sum += step * (a.left[i] - b.left[j]) * (a.left[i] - b.left[j]);
    left_a -= step, left_b -= step;
    if (left_a <= 1e-15 && ++i < a.left.size()) left_a = a.weights[i];
    if (left_b <= 1e-15 && ++j < b.left.size()) left_b = b.weights[j];
  }
  return sum;
}

double median_gap(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> gaps;
  for (std::size_t i = 0; i < a.size(); ++i) gaps.push_back(std::abs(a[i] - b[i]) / b[i]);
  std::ranges::sort(gaps);
  return gaps[gaps.size() / 2];
}

// ---- 1: fidelity

void fidelity(StudyResult& result, const StudyOptions& options) {
  PathPlot places{"32 measures placed by LCOT (classical scaling)", {"first axis"}, {"second axis"}, {}};
  for (int seed = 1; seed <= options.seeds; ++seed) {
    Random random(static_cast<std::uint64_t>(seed));
    std::vector<CircularMeasure> measures;
    std::vector<CircularMap> maps;
    std::vector<std::vector<double>> histograms;
    for (int modes = 1; modes <= 4; ++modes) {
      for (int copy = 0; copy < 8; ++copy) {
        const double location = random.uniform();
        const auto samples = 50 + random.below(50);
        std::vector<double> x, histogram(36, 0.0);
        for (std::uint64_t i = 0; i < samples; ++i) {
          const auto mode = static_cast<double>(random.below(static_cast<std::uint64_t>(modes)));
          x.push_back(von_mises(location + mode / modes * .8, 5 + 10 * (modes - 1), random));
          histogram[std::min<std::size_t>(35, static_cast<std::size_t>(x.back() * 36))] +=
              1.0 / static_cast<double>(samples);
        }
        measures.push_back(circular_atoms(x, {}, 1, "sample"));
        maps.push_back(lcot_embed(measures.back()));
        histograms.push_back(histogram);
      }
    }
    const auto matrix = lcot_matrix(maps, 2, 1);
    std::vector<double> exact, linear, line, bins;
    double least = INFINITY;
    for (std::size_t i = 0; i < maps.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const double cot = circular_transport(measures[i], measures[j]).cost;
        least = std::min(least, std::sqrt(matrix[i * maps.size() + j]) - std::sqrt(cot));
        exact.push_back(std::sqrt(cot));
        linear.push_back(std::sqrt(matrix[i * maps.size() + j]));
        line.push_back(std::sqrt(line_transport(measures[i], measures[j])));
        double square = 0;
        for (std::size_t k = 0; k < 36; ++k)
          square += (histograms[i][k] - histograms[j][k]) * (histograms[i][k] - histograms[j][k]);
        bins.push_back(std::sqrt(square));
      }
    }
    const double rho = spearman(linear, exact), rho_line = spearman(line, exact), rho_bins = spearman(bins, exact);
    record(result, "32 measures: rank correlation of LCOT with COT", "figures only", rho, "", Bar::at_least(.9));
    record(result, "LCOT's minus that of transport on the line cut at 0", "figures only", rho - rho_line, "",
           Bar::at_least(.08));
    record(result, "LCOT's minus that of histograms (36 bins, L2)", "figures only", rho - rho_bins, "",
           Bar::at_least(.3));
    record(result, "LCOT: median relative gap to COT", "-", 100 * median_gap(linear, exact), "%", Bar::none());
    record(result, "line: median relative gap to COT", "-", 100 * median_gap(line, exact), "%", Bar::none());
    double ratio = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) ratio += linear[i] / exact[i] / static_cast<double>(exact.size());
    record(result, "mean of LCOT over COT", "-", ratio, "", Bar::none());
    record(result, "least LCOT - COT over all pairs", "LCOT is at least COT (theory)", least, "",
           Bar::at_least(-1e-12));
    if (seed > 1) continue;
    const auto at = classical_scaling(matrix, static_cast<std::int64_t>(maps.size()), 2).points;
    for (std::size_t i = 0; i < maps.size(); ++i)
      places.paths.push_back({fmt::format("{} modes", i / 8 + 1), {at[2 * i]}, {at[2 * i + 1]}});
  }
  result.path_plots.push_back(places);
}

// ---- 2: rotations

void rotations(StudyResult& result, const StudyOptions& options) {
  PathPlot circle{"20 rotations of one sample, placed by LCOT", {"first axis"}, {"second axis"}, {}};
  for (int seed = 1; seed <= options.seeds; ++seed) {
    Random random(static_cast<std::uint64_t>(300 + seed));
    std::vector<double> x;
    for (int i = 0; i < 200; ++i) x.push_back(von_mises(0, 100, random));
    std::vector<CircularMap> maps;
    for (int k = 0; k < 20; ++k) {
      std::vector<double> turned;
      for (const double y : x) turned.push_back(y + k / 20.);
      maps.push_back(lcot_embed(circular_atoms(turned, {}, 1, "rotation", Range::Reduce)));
    }
    const auto matrix = lcot_matrix(maps, 2, 1);
    double off = 0;
    for (std::size_t i = 0; i < 20; ++i)
      for (std::size_t j = 0; j < 20; ++j)
        off = std::max(off, std::abs(std::sqrt(matrix[20 * i + j]) - std::sqrt(matrix[(j + 20 - i) % 20])));
    record(result, "20 rotations: largest deviation of the matrix from a circulant one", "-", off, "",
           Bar::at_most(1e-12));
    const Places places = classical_scaling(matrix, 20, 2);
    double total = 0;
    for (const double v : places.eigenvalues) total += std::abs(v);
    record(result, "scaling: relative difference of the two largest eigenvalues", "-",
           std::abs(places.eigenvalues[0] - places.eigenvalues[1]) / places.eigenvalues[0], "", Bar::at_most(1e-9));
    record(result, "scaling: share of the absolute spectrum in two axes", "figures only",
           100 * (places.eigenvalues[0] + places.eigenvalues[1]) / total, "%", Bar::at_least(70));
    for (std::size_t k = 0; k < 20 && seed == 1; ++k)
      circle.paths.push_back({"rotations", {places.points[2 * k]}, {places.points[2 * k + 1]}});
  }
  result.path_plots.push_back(circle);
}

// ---- 3: speed

void speed(StudyResult& result, const StudyOptions& options) {
  constexpr std::size_t kCount = 64;
  Random random(400);
  std::vector<CircularMeasure> measures;
  double start = cpu_seconds();
  for (std::size_t k = 0; k < kCount; ++k) {
    std::vector<double> x;
    for (int i = 0; i < 5000; ++i) x.push_back(random.uniform());
    measures.push_back(circular_atoms(x, {}, 1, "sample"));
  }
  std::vector<CircularMap> maps;
  for (const auto& m : measures) maps.push_back(lcot_embed(m));
  const double preparing = cpu_seconds() - start;
  start = cpu_seconds();
  const auto matrix = lcot_matrix(maps, 2, 1);
  const double seconds = cpu_seconds() - start;
  start = cpu_seconds();
  std::size_t pairs = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (!options.full && (i + j) % 64 != 1) continue;  // a sample of pairs
      circular_transport(measures[i], measures[j]);
      ++pairs;
    }
    if (interrupted()) fail_computation("study lcot: interrupted");
  }
  const double exact = (cpu_seconds() - start) / static_cast<double>(pairs) * kCount * (kCount - 1) / 2;
  record(result, "64 sets of 5,000 atoms, all pairs, one core: exact LCOT",
         "0.146 to 1.60 s (one core of unknown kind)", seconds, "s", options.full ? Bar::at_most(1) : Bar::none());
  record(result, "COT by bisection over it", "39 to 420 (POT's in Python)", exact / seconds, "times",
         options.full ? Bar::at_least(20) : Bar::none());
  record(result, "sorting and embedding all sets", "-", 1e3 * preparing, "ms", Bar::none());
  result.notes.push_back(fmt::format("COT was timed on {} of 2,016 pairs.", pairs));
}

// ---- 4: barycentre

void barycentre(StudyResult& result, const StudyOptions& options) {
  constexpr std::int64_t kBins = 360;
  for (int seed = 1; seed <= options.seeds; ++seed) {
    Random random(static_cast<std::uint64_t>(500 + seed));
    std::vector<CircularMap> maps;
    std::vector<double> average(kBins, 0.0), member;
    double x = 0, y = 0;
    for (int k = 0; k < 20; ++k) {
      const double centre = von_mises(0, 30, random);
      x += std::cos(kTurn * centre), y += std::sin(kTurn * centre);
      std::vector<double> density;
      for (int i = 0; i < kBins; ++i)
        density.push_back(std::exp(50 * (std::cos(kTurn * ((i + .5) / kBins - centre)) - 1)));
      const auto m = circular_histogram(density, "member");
      for (std::size_t i = 0; i < kBins; ++i) average[i] += density[i] / m.given / 20;
      if (k == 0) member = m.weights;
      maps.push_back(lcot_embed(m));
    }
    // Bins of the inverse do not match the pieces of the map: a narrow kernel takes the deposit's grain away.
    const auto found = smoothed(inverse_histogram(barycenter(maps, {}), kBins), 2000);
    int modes = 0;
    for (std::size_t i = 0; i < kBins; ++i)
      modes += found[i] > found[(i + kBins - 1) % kBins] && found[i] >= found[(i + 1) % kBins] && found[i] > 1e-6;
    const auto peak = std::ranges::max_element(found);
    const double where = (static_cast<double>(peak - found.begin()) + .5) / kBins;
    record(result, "barycentre of 20 von Mises across the seam: modes", "better than Euclidean averages (figures)",
           modes, "", Bar::within(1, 0));
    record(result, "its mode's distance to the circular mean of the centres", "-",
           circular_distance(where, reduced(std::atan2(y, x) / kTurn)), "turns", Bar::at_most(.02));
    record(result, "its peak over a member's", "-", *peak / std::ranges::max(member), "", Bar::at_least(.8));
    record(result, "peak of the plain average over the barycentre's", "-", std::ranges::max(average) / *peak, "",
           Bar::at_most(.8));
    if (seed == 1)
      result.drawings.push_back(
          circle_panels("Twenty densities around the seam",
                        {{"a member", member}, {"LCOT barycentre", found}, {"plain average", average}}));
  }
}

}  // namespace

StudyResult study_lcot(const StudyOptions& options) {
  StudyResult result;
  result.slug = "lcot";
  result.title = "LCOT: linear circular optimal transport";
  fidelity(result, options);
  rotations(result, options);
  speed(result, options);
  barycentre(result, options);
  return result;
}

}  // namespace unbend
