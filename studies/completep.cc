// Study of CompleteP (Dey et al. 2025, "Don't be lazy: CompleteP enables compute-efficient deep transformers", arXiv
// 2505.01618): whether deep blocks become their linearization, stable sizes over depth and width, learning rates that
// transfer. Here is part A, laziness; digits and text are in files of their own.
#include "studies/completep.h"

#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "studies/images.h"
#include "unbend/base/fit.h"
#include "unbend/base/progress.h"
#include "unbend/tangent/scaling.h"

namespace unbend {
namespace {

constexpr int64_t kWidth = 64, kRows = 128, kBaseDepth = 2;

enum class Phi { Linear, Tanh, Relu };
constexpr std::pair<Phi, const char*> kPhis[] = {{Phi::Linear, "linear"}, {Phi::Tanh, "tanh"}, {Phi::Relu, "relu"}};

at::Tensor apply(Phi phi, const at::Tensor& x) {
  return phi == Phi::Linear ? x : phi == Phi::Tanh ? at::tanh(x) : at::relu(x);
}

/// A residual branch of two matrices, s W2 phi(s W1 phi(h)), for rows of h. s keeps the size of what comes in.
at::Tensor branch(Phi phi, const at::Tensor& h, const at::Tensor& w1, const at::Tensor& w2) {
  const double s = std::sqrt((phi == Phi::Relu ? 2. : 1.) / kWidth);
  return s * at::matmul(apply(phi, s * at::matmul(apply(phi, h), w1.t())), w2.t());
}

/// Standard normal numbers of a network of any alpha and phi.
struct Weights {
  at::Tensor readin, readout;
  std::vector<at::Tensor> first, second;  // of the blocks
};

Weights draw(int64_t depth, uint64_t seed, int64_t inputs) {
  Random random(seed);
  const auto normal = [&](int64_t rows, int64_t columns) {
    return normal_tensor({rows, columns}, 1, random).to(at::kDouble);
  };
  Weights w{normal(kWidth, inputs), normal(10, kWidth), {}, {}};
  for (int64_t i = 0; i < depth; ++i)
    w.first.push_back(normal(kWidth, kWidth)), w.second.push_back(normal(kWidth, kWidth));
  return w;
}

struct Step {
  double lazy;    // |what the tangent misses| / |tangent| of the first block's branch
  double stream;  // |change of the stream|
};

/// The first block's matrices make their first Adam step, whose rate has the factor `rate` for depth.
Step first_step(Phi phi, const Weights& w, const Examples& digits, double residual, double rate) {
  const auto h = at::matmul(digits.inputs, w.readin.t()) / std::sqrt(static_cast<double>(digits.inputs.size(1)));
  const Tensors at{w.first[0], w.second[0]};
  const Tensors leaves{at[0].detach().clone().requires_grad_(), at[1].detach().clone().requires_grad_()};
  auto stream = h + residual * branch(phi, h, leaves[0], leaves[1]);
  for (std::size_t i = 1; i < w.first.size(); ++i)
    stream = at::add(stream, branch(phi, stream, w.first[i], w.second[i]), residual);
  const auto logits = at::matmul(stream, w.readout.t()) / kWidth;
  const auto gradients = torch::autograd::grad({at::cross_entropy_loss(logits, digits.targets)}, leaves);
  const double eta = .01 / std::sqrt(kWidth) * rate, eps = 1e-12 * residual;
  Tensors step;
  for (const auto& g : gradients) step.push_back(-eta * g / (g.abs() + eps));
  const auto distance =
      tangent_distance([&](const Tensors& m) -> Tensors { return {branch(phi, h, m[0], m[1])}; }, at, step);
  return {distance.relative(), residual * distance.change};
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const auto n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

struct Rule {
  const char* name;
  double alpha;     // of the residual branches
  double exponent;  // of the rate
};
constexpr Rule kRules[] = {
    {"muP", 0, 0}, {"alpha 1/2", .5, -.5}, {"alpha 1", 1, 0}, {"alpha 1/2, rate as for 1", .5, 0}};

void laziness(StudyResult& result, const StudyOptions& options) {
  constexpr int seeds = 10;
  const int64_t deepest = options.full ? 256 : 64;
  const auto digits = standardised(load_small_digits(), kRows, at::kDouble);
  std::vector<double> depths;
  for (int64_t depth = 2; depth <= deepest; depth *= 2) depths.push_back(static_cast<double>(depth));
  std::map<std::pair<Phi, const Rule*>, std::pair<std::vector<double>, std::vector<double>>> curves;
  Progress progress("laziness", std::ssize(depths) * seeds, "networks", options.quiet);
  int64_t done = 0;
  for (const double depth : depths) {
    const double ratio = depth / kBaseDepth;
    std::map<std::pair<Phi, const Rule*>, std::pair<std::vector<double>, std::vector<double>>> seen;
    for (int seed = 1; seed <= seeds; ++seed) {
      const auto w = draw(static_cast<int64_t>(depth), static_cast<uint64_t>(seed), digits.inputs.size(1));
      for (const auto& [phi, name] : kPhis)
        for (const auto& rule : kRules) {
          const auto step = first_step(phi, w, digits, std::pow(ratio, -rule.alpha), std::pow(ratio, rule.exponent));
          seen[{phi, &rule}].first.push_back(step.lazy), seen[{phi, &rule}].second.push_back(step.stream);
        }
      progress.update(++done);
    }
    for (const auto& [key, steps] : seen)
      curves[key].first.push_back(median(steps.first)), curves[key].second.push_back(median(steps.second));
  }
  progress.finish();

  for (const auto& [phi, phi_name] : kPhis) {
    LinePlot plot{fmt::format("What the tangent of the first block misses, {} blocks", phi_name),
                  {"depth", Scale::Log2},
                  {"|F(W + dW) - F(W) - J dW| / |J dW|", Scale::Log10},
                  {}};
    for (const auto& rule : kRules) {
      const auto& [lazy, stream] = curves[{phi, &rule}];
      plot.series.push_back({rule.name, depths, lazy});
      const double slope = log_log_slope(depths, lazy);
      const bool complete = rule.alpha == 1, forced = rule.alpha == .5 && rule.exponent == 0;
      const bool half = rule.alpha == .5 && !forced;
      record(result, fmt::format("laziness over depth, {} blocks: exponent, {}", phi_name, rule.name),
             complete ? "0, \"complete\" (figure 6; -0.05 in its stored data)"
             : half   ? "-1/2 (figure 6; -0.46 in its stored data)"
                      : "-",
             slope, "",
             complete || forced         ? Bar::within(0, .08)
             : half && phi != Phi::Relu ? Bar::within(-.51, .09)
                                        : Bar::none());
      if (rule.alpha > 0 && !forced)
        record(
            result,
            fmt::format("change of the stream by one block over depth, {} blocks: exponent, {}", phi_name, rule.name),
            "-1 (desideratum 2)", log_log_slope(depths, stream), "", Bar::within(-1, .1));
    }
    plot.caption =
        fmt::format("One Adam step of the first block's two matrices, medians over {} seeds, raw values.", seeds);
    result.plots.push_back(plot);
  }
}

}  // namespace

StudyResult study_completep(const StudyOptions& options) {
  StudyResult result;
  result.slug = "completep";
  result.title = "settings that transfer over width and depth, and blocks that do not become linear";
  laziness(result, options);
  study_completep_digits(result, options);
  if (options.full) study_completep_text(result, options);
  result.notes.push_back(
      "laziness: the paper's toy is a relu network of width 256 on MNIST; here width 64 on 8 x 8 digits, both matrices "
      "of "
      "the first block, in float64 with the exact tangent");
  if (!options.full)
    result.notes.push_back(
        "quick form: laziness to depth 64, the 8 x 8 digits only, two learning rates at depth 32, no "
        "text");
  return result;
}

}  // namespace unbend
