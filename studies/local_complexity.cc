// Study of local complexity and delayed robustness (Humayun, Balestriero and Baraniuk, "Deep Networks Always Grok and
// Here is Why", ICML 2024, arXiv 2402.15555): a perceptron on digits far beyond interpolation.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "studies/curves.h"
#include "studies/images.h"
#include "studies/kept.h"
#include "studies/study.h"
#include "unbend/base/error.h"
#include "unbend/tangent/regions.h"
#include "unbend/tangent/watched_training.h"

namespace unbend {
namespace {

constexpr int64_t kPoints = 1000;
constexpr size_t kJudged = 1;  // the attack of radius 0.1

// Digits of 14 x 14: means of 2 x 2 pixels.
ImageSet pooled(const ImageSet& set, int64_t count) {
  return {at::avg_pool2d(set.images.slice(0, 0, count), {2, 2}), set.labels.slice(0, 0, count)};
}

// The moments from one step to another.
template <class Value>
std::vector<double> between(const WatchedRun& run, int64_t from, int64_t to, const Value& value) {
  std::vector<double> all;
  for (const auto& m : run.moments)
    if (m.step >= from && m.step <= to) all.push_back(value(m));
  require(!all.empty(), "no evaluation between steps {} and {}", from, to);
  return all;
}

double margin(const TrainingMoment& m) { return m.robustness[kJudged].margin; }

const TrainingMoment& most_fragile(const WatchedRun& run) {
  const TrainingMoment* lowest = nullptr;
  for (const auto& m : run.moments) {
    if (m.step >= 1000 && m.step <= 16000 && (lowest == nullptr || margin(m) < margin(*lowest))) lowest = &m;
  }
  return *lowest;
}

void judge(const WatchedRun& run, StudyResult& result) {
  const auto complexity = [](const TrainingMoment& m) { return m.train_complexity; };
  const auto &start = run.moments.front(), &end = run.moments.back();
  const double low = std::ranges::min(between(run, 10, 100, complexity));
  const double peak = std::ranges::max(between(run, 400, 10000, complexity));
  const auto& fragile = most_fragile(run);
  const auto each = [&](const std::string& what, const std::string& published, double measured, const Bar& bar) {
    record(result, what, published, measured, "", bar.for_each_seed());
  };
  const std::string figures = "figures: descent, ascent, second descent";
  each("complexity around training points: lowest of steps 10 to 100 over the start", figures,
       low / start.train_complexity, Bar::at_most(.65));
  each("complexity: highest of steps 400 to 10,000 over that minimum", figures, peak / low, Bar::at_least(1.8));
  each("complexity: end over that peak (region migration)", figures, end.train_complexity / peak, Bar::at_most(.5));
  const std::string robust = "figures: robust accuracy rises long after interpolation";
  each("accuracy under the margin attack, radius 0.1, at the end", robust, margin(end), Bar::at_least(.07));
  each("that, over its lowest of steps 1,000 to 16,000 (at least one image of 300)", robust,
       margin(end) / std::max(margin(fragile), 1. / 300), Bar::at_least(3));
  each("test accuracy: change from there to the end", "-", std::abs(end.test_accuracy - fragile.test_accuracy),
       Bar::at_most(.03));
  each("complexity around training points over around test points, at the peak", ">= 1 (figures)",
       std::ranges::max(between(run, 400, 10000, complexity)) /
           std::ranges::max(between(run, 400, 10000, [](const TrainingMoment& m) { return m.test_complexity; })),
       Bar::none());
  const auto phases = find_phases(run.curves(kJudged));
  const auto step = [](const std::optional<int64_t>& at) { return at ? static_cast<double>(*at) : NAN; };
  each("phases: first descent ends at step", "-", step(phases.descent_end), Bar::none());
  each("phases: train accuracy 0.99 at step", "-", step(phases.interpolation), Bar::none());
  each("phases: peak at step", "-", static_cast<double>(phases.peak), Bar::none());
  each("phases: region migration from step", "-", step(phases.migration), Bar::none());
}

// A plot with one axis over training; step 0 stands at 0.7, left of step 1.
struct Log {
  Curves complexity, accuracy;
  explicit Log(const WatchedRun& run) {
    std::vector<double> x;
    for (const auto& m : run.moments) x.push_back(std::max(static_cast<double>(m.step), .7));
    complexity = {"Local complexity along training", "step", "crossed neurons", x};
    accuracy = {"Accuracy along training", "step", "share of images", x};
  }
  void add(const WatchedRun& run, const std::vector<double>& radii) {
    const auto line = [&](Curves& curves, const std::string& name, const auto& value) {
      std::vector<double> y;
      for (const auto& m : run.moments) y.push_back(value(m));
      curves.add(name, std::move(y));
    };
    using M = const TrainingMoment&;
    line(complexity, "training points", [](M m) { return m.train_complexity; });
    line(complexity, "test points", [](M m) { return m.test_complexity; });
    line(complexity, "random points", [](M m) { return m.random_complexity; });
    line(accuracy, "training", [](M m) { return m.train_accuracy; });
    line(accuracy, "test", [](M m) { return m.test_accuracy; });
    for (size_t i = 0; i < radii.size(); ++i)
      line(accuracy, fmt::format("attacked, radius {:g}", radii[i]), [i](M m) { return m.robustness[i].lower(); });
  }
  void show(StudyResult& result) {
    for (auto* curves : {&complexity, &accuracy}) {
      auto plot = curves->plot();
      plot.x.scale = Scale::Log10;
      plot.caption += " Step 0 stands at 0.7.";
      result.plots.push_back(std::move(plot));
    }
  }
};

Table moments_table(const std::vector<WatchedRun>& runs, const std::vector<double>& radii) {
  Table table{"Along training, means over seeds",
              {"step", "loss", "train", "test", "complexity: train", "test points", "random"},
              {}};
  for (const double r : radii) {
    table.columns.push_back(fmt::format("attack {:g}: cross-entropy", r));
    table.columns.push_back("margin");
  }
  for (size_t i = 0; i < runs.front().moments.size(); ++i) {
    const auto cell = [&](int decimals, const auto& value) {
      double sum = 0;
      for (const auto& run : runs) sum += value(run.moments[i]);
      return fmt::format("{:.{}f}", sum / static_cast<double>(runs.size()), decimals);
    };
    using M = const TrainingMoment&;
    auto& row = table.rows.emplace_back();
    row = {fmt::format("{}", runs.front().moments[i].step), cell(6, [](M m) { return m.loss; }),
           cell(3, [](M m) { return m.train_accuracy; }),   cell(3, [](M m) { return m.test_accuracy; }),
           cell(2, [](M m) { return m.train_complexity; }), cell(2, [](M m) { return m.test_complexity; }),
           cell(2, [](M m) { return m.random_complexity; })};
    for (size_t a = 0; a < radii.size(); ++a) {
      row.push_back(cell(3, [a](M m) { return m.robustness[a].cross_entropy; }));
      row.push_back(cell(3, [a](M m) { return m.robustness[a].margin; }));
    }
  }
  return table;
}

// The first training points of three classes.
std::pair<at::Tensor, std::vector<std::string>> three_points(const ImageSet& train) {
  std::vector<at::Tensor> points;
  std::vector<std::string> labels;
  for (int64_t i = 0; points.size() < 3 && i < train.size(); ++i) {
    const auto label = fmt::format("a {}", train.labels[i].item<int64_t>());
    if (std::ranges::find(labels, label) != labels.end()) continue;
    points.push_back(train.images[i].flatten()), labels.push_back(label);
  }
  return {at::stack(points), labels};
}

// Regions on the plane through three training points, along one training.
void pictures(const WatchedRun& run, const ImageSet& train, StudyResult& result) {
  constexpr double kNear = .5;
  const auto [points, labels] = three_points(train);
  const auto slice = slice_through(points);
  Table table{fmt::format("Linear regions on the plane through {}, seed 1 (side {:.2f})", fmt::join(labels, ", "),
                          2 * slice.unit),
              {"step", "regions", fmt::format("within {:g} of the three points", kNear), "boundary's length"},
              {}};
  for (const auto& [step, network] : run.kept) {
    const auto regions = linear_regions(network, slice, 200000);
    std::vector<int64_t> near;
    for (const auto& mark : slice.marks) near.push_back(regions_near(regions, mark, kNear));
    table.rows.push_back({fmt::format("{}", step), fmt::format("{}", regions.count()),
                          fmt::format("{}", fmt::join(near, ", ")),
                          fmt::format("{:.1f}", length(decision_boundary(regions)) * slice.unit)});
    result.drawings.push_back(draw(regions, fmt::format("Step {}", step), labels));
  }
  result.tables.push_back(table);
}

}  // namespace

StudyResult study_local_complexity(const StudyOptions& options) {
  StudyResult result;
  result.slug = "local_complexity";
  result.title = "Local complexity and delayed robustness";
  const auto digits = load_digits();
  const auto train = pooled(digits.train, kPoints), test = pooled(digits.test, kPoints);
  std::vector<WatchedRun> runs;
  WatchedTraining settings;
  settings.steps = options.full ? 40000 : 1000;
  settings.evaluations = options.full ? 24 : 12;
  settings.keep = {0, 40, 2500, settings.steps};
  settings.quiet = options.quiet;
  for (int seed = 1; seed <= options.seeds; ++seed) {
    settings.seed = static_cast<uint64_t>(seed);
    settings.name = fmt::format("digits, seed {}", seed);
    if (options.kept) settings.checkpoints = options.kept->next();
    runs.push_back(train_watched(train, test, settings));
    if (options.full) judge(runs.back(), result);
  }
  if (!options.full) {
    for (const auto& run : runs) {
      const auto complexity = [](const TrainingMoment& m) { return m.train_complexity; };
      record(result, "complexity around training points: lowest of steps 10 to 100 over the start",
             "figures: descent, ascent, second descent",
             std::ranges::min(between(run, 10, 100, complexity)) / run.moments.front().train_complexity, "",
             Bar::at_most(.65).for_each_seed());
      record(result, "train accuracy after 1,000 steps", "-", run.moments.back().train_accuracy, "",
             Bar::at_least(.99).for_each_seed());
    }
    result.notes.push_back("quick form: 1,000 steps, which end with the ascent; the full form has 40,000");
  }
  Log log(runs.front());
  for (const auto& run : runs) log.add(run, settings.attacks);
  log.show(result);
  result.tables.push_back(moments_table(runs, settings.attacks));
  pictures(runs.front(), train, result);
  result.notes.push_back(
      "setting: 1,000 training and 1,000 test digits of MNIST, 14 x 14 (means of 2 x 2 pixels); 196-128-128-128-10, "
      "ReLU, squared error on one-hot labels, AdamW 1e-3, weight decay 0.01, batch 200; complexity at 100 points each, "
      "20 directions, radius 0.05, hidden layers; attacks on 300 test digits, 7 steps of a third of the radius. The "
      "paper: CIFAR-10 and MNIST, larger networks, up to 1e6 steps");
  return result;
}

}  // namespace unbend
