// CompleteP on handwritten digits, with the residual perceptron: gradients at the start, sizes over depth (B), learning
// rates over depth (C), sizes over width (D).
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "studies/completep.h"
#include "studies/images.h"
#include "studies/parameterization.h"

namespace unbend {
namespace {

constexpr NetworkSize kBase{32, 2};
constexpr int64_t kRows = 128;

/// A set of digits under the name that claims have.
struct DigitSet {
  std::string name;
  ImageSet images;
  double input_multiplier = 1;
  Family family() const { return residual_mlp_family(images.images[0].numel(), 10, kBase); }
};

BaseSettings settings(double input_multiplier = 1) {
  BaseSettings s;
  s.init_std = .1, s.weight_decay = .01, s.eps = 1e-8, s.input_multiplier = input_multiplier;
  return s;
}

std::function<ExampleSource(uint64_t)> always(const Examples& examples) {
  return [=](uint64_t) { return ExampleSource([=](int64_t) { return examples; }); };
}

std::vector<NetworkSize> sizes(std::initializer_list<int64_t> widths, std::initializer_list<int64_t> depths) {
  std::vector<NetworkSize> all;
  for (const auto width : widths)
    for (const auto depth : depths) all.push_back({width, depth});
  return all;
}

// ---- Entries of block weights' gradients: the rows of eps in the table

void gradients(StudyResult& result) {
  const auto digits = standardised(load_small_digits(), kRows, at::kFloat);
  const auto family = DigitSet{"", load_small_digits()}.family();
  const auto scale = [&](const NetworkSize& size, const Parameterization& p) {
    std::vector<double> all;
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      const auto net = family(size, settings(), p, seed);
      all.push_back(gradient_rms(net, digits, Role::BlockWeight));
    }
    std::ranges::sort(all);
    const double wide = static_cast<double>(size.width) / kBase.width,
                 deep = static_cast<double>(size.depth) / kBase.depth;
    return all[2] * wide * std::pow(deep, *p.alpha);
  };
  const auto half = find_parameterization("depth-mup"), complete = find_parameterization("completep");
  const double base = scale(kBase, complete);
  double worst = 0;
  Table table{
      "rms of the entries of block weights' gradients, times m_N m_L^alpha", {"width", "depth", "alpha", "value"}, {}};
  const auto add = [&](const NetworkSize& size, const Parameterization& p) {
    const double value = scale(size, p);
    worst = std::max(worst, std::abs(value / base - 1));
    table.rows.push_back({std::to_string(size.width), std::to_string(size.depth), fmt::format("{}", *p.alpha),
                          fmt::format("{:.5f}", value)});
  };
  for (const auto& size : sizes({32, 64, 128, 256}, {2})) add(size, complete);
  for (const auto& size : sizes({32}, {8, 32, 64}))
    for (const auto& p : {half, complete}) add(size, p);
  record(result, "gradients of block weights at the start, times m_N m_L^alpha: largest deviation from the base's",
         "they scale like 1 / (m_N m_L^alpha) (rows of eps, Table 1)", worst, "", Bar::at_most(.2));
  result.tables.push_back(table);
}

// ---- B: sizes over depth

void depths(StudyResult& result, const DigitSet& set, bool quiet) {
  std::vector<NamedCheck> checks;
  for (const auto& name : {"mup", "depth-mup", "completep"}) {
    const auto check =
        coordinate_check(set.family(), sizes({32}, {2, 4, 8, 16, 32, 64}), settings(set.input_multiplier),
                         find_parameterization(name), always(standardised(set.images, kRows, at::kFloat)), 5, 3, quiet);
    const bool mup = std::string(name) == "mup";
    for (const int64_t step : {1, 5}) {
      const double slope = check.size_slope("stream", step);
      // The bar is on the slope's size where it must be flat.
      record(result, fmt::format("{}: mean |stream| over depth after step {}: exponent, {}", set.name, step, name),
             mup ? "grows" : "stable", slope, "", mup ? Bar::at_least(.25) : Bar::within(0, .15));
    }
    checks.push_back({name, check});
  }
  for (const int64_t step : {1, 5}) {
    auto plot = coordinate_plot(checks, "stream", step, false, "depth");
    plot.title += ", " + set.name;
    result.plots.push_back(plot);
  }
}

// ---- D: sizes over width

void widths(StudyResult& result, const DigitSet& set, bool quiet) {
  std::vector<NamedCheck> checks;
  for (const auto& name : {"sp", "mup", "completep"}) {
    const auto check =
        coordinate_check(set.family(), sizes({32, 64, 128, 256}, {2}), settings(set.input_multiplier),
                         find_parameterization(name), always(standardised(set.images, kRows, at::kFloat)), 5, 3, quiet);
    const bool sp = std::string(name) == "sp";
    for (const auto& quantity : {"logits", "stream"})
      record(result, fmt::format("{}: change of {} in 5 steps over width: exponent, {}", set.name, quantity, name),
             sp ? "grows" : "stable", check.change_slope(quantity, 5), "", sp ? Bar::at_least(.5) : Bar::within(0, .2));
    checks.push_back({name, check});
  }
  for (const auto& quantity : {"logits", "stream"}) {
    auto plot = coordinate_plot(checks, quantity, 5, true, "width");
    plot.title += ", " + set.name;
    result.plots.push_back(plot);
  }
}

// ---- C: learning rates over depth

void rates(StudyResult& result, const DigitSet& set, const StudyOptions& options) {
  std::vector<double> rates;
  for (int exponent = -4; exponent >= -11; --exponent)
    if (options.full || exponent == -4 || exponent == -8) rates.push_back(std::exp2(exponent));
  const auto all = standardised(set.images, 0, at::kFloat);
  const auto batches = [&](uint64_t seed) -> ExampleSource {
    const auto source = shuffled({all.inputs, all.targets}, kRows, seed);
    return [=](int64_t step) mutable {
      const auto batch = source(step);
      return Examples{batch.images, batch.labels};
    };
  };
  std::map<std::string, TransferSweep> sweeps;
  for (const auto& name : {"mup", "depth-mup", "completep"}) {
    const auto sweep =
        transfer_sweep(set.family(), sizes({32}, {2, 32}), rates, settings(), find_parameterization(name), batches,
                       {.steps = 100, .tail = 20}, options.seeds, options.quiet);
    sweeps.emplace(name, sweep);
    const auto title = fmt::format("Loss over learning rates, {}, {}", set.name, name);
    result.tables.push_back(transfer_table(sweep, title));
    if (options.full) result.plots.push_back(transfer_plot(sweep, title));
  }
  const auto at_rate = [&](const std::string& name, double rate) {
    const auto& sweep = sweeps.at(name);
    return sweep.means(1)[static_cast<std::size_t>(std::ranges::find(sweep.rates, rate) - sweep.rates.begin())];
  };
  record(result, set.name + ", depth 32, rate 2^-4: loss, mup", "drifts", at_rate("mup", 0x1p-4), "nats",
         Bar::at_least(.3));
  for (const auto& name : {"depth-mup", "completep"})
    record(result, fmt::format("{}, depth 32, rate 2^-4: loss, {}", set.name, name), "robust", at_rate(name, 0x1p-4),
           "nats", Bar::at_most(.1));
  record(result, set.name + ", depth 32, rate 2^-8: loss of completep over that of mup", "transfers",
         at_rate("completep", 0x1p-8) / at_rate("mup", 0x1p-8), "", Bar::at_most(.7));
}

}  // namespace

void study_completep_digits(StudyResult& result, const StudyOptions& options) {
  gradients(result);
  const DigitSet small{"digits 8 x 8", load_small_digits()};
  depths(result, small, options.quiet);
  rates(result, small, options);
  widths(result, small, options.quiet);
  if (!options.full) return;
  // 784 inputs of deviation 0.1 make the stream start 3.5 times as large as 64 do; alpha_in takes that back.
  const auto large = load_digits().train;
  const auto side = [](const ImageSet& set) { return static_cast<double>(set.images.size(-1)); };
  for (const auto& set : {DigitSet{"digits 28 x 28", large},
                          DigitSet{"digits 28 x 28, alpha_in 2/7", large, side(small.images) / side(large)}}) {
    depths(result, set, options.quiet);
    widths(result, set, options.quiet);
  }
  result.notes.push_back(
      "digits 28 x 28: 784 inputs make the stream start 3.5 times as large as on 8 x 8 digits, so that what the blocks "
      "add shows less in its size; with the factor alpha_in = 2/7 on the embedding it starts alike");
}

}  // namespace unbend
