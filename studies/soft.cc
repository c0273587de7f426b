// Study of SOFT and SOFT++ (Lu et al. 2024, "Softmax-free Linear Transformers", arXiv 2207.03341): cost against the
// number of tokens, what Newton's inverse can be trusted with, and small image classifiers beside softmax attention.
#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>
#include <ctime>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "studies/curves.h"
#include "studies/images.h"
#include "studies/memory.h"
#include "studies/study.h"
#include "unbend/attention/gaussian.h"
#include "unbend/base/fit.h"
#include "unbend/nets/classifier.h"
#include "unbend/nets/grid_attention.h"

namespace unbend {
namespace {

// ---- Cost

constexpr int64_t kLandmarkSide = 7;

GridAttention cost_layer(TokenMixing mixing, int64_t side) {
  GridAttentionConfig config{.width = 64, .heads = 2};
  config.mixing = mixing, config.ratio = side / kLandmarkSide;
  Random random(1);
  auto layer = make_grid_attention(config, random);
  std::vector<Parameter> all;
  collect("", layer, all);
  for (const auto& p : all) p.tensor->requires_grad_();
  return layer;
}

struct Cost {
  double seconds;  // of one processor, forward and backward, the fastest of `repeats`
  double bytes;    // of tensors on the way, gradients included
};

Cost cost(TokenMixing mixing, int64_t side, int repeats) {
  const auto layer = cost_layer(mixing, side);
  const Grid grid{side, side};
  const auto x = at::randn({1, grid.tokens(), 64}, at::make_generator<at::CPUGeneratorImpl>(1)).requires_grad_();
  const auto cotangent = at::ones_like(x);
  const auto both = [&] { layer(x, grid).backward(cotangent); };
  Cost result{std::numeric_limits<double>::infinity(), static_cast<double>(peak_tensor_bytes(both))};
  for (int i = 0; i < repeats; ++i) {
    const std::clock_t start = std::clock();
    both();
    result.seconds = std::min(result.seconds, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return result;
}

void costs(StudyResult& result) {
  const std::vector<int64_t> sides{14, 28, 56, 112, 224};
  Table table{"One layer, 2 heads of 32, 49 landmarks, forward and backward",
              {"tokens", "SOFT ms", "softmax ms", "SOFT MB"},
              {}};
  std::vector<double> n, soft, softmax, tokens_softmax;
  double last_bytes = 0;
  for (const int64_t side : sides) {
    const bool both = side < 224;  // softmax takes a minute there
    const auto tokens = static_cast<double>(side * side);
    const auto of_soft = cost(TokenMixing::Soft, side, side < 112 ? 20 : 6);
    n.push_back(tokens), soft.push_back(of_soft.seconds);
    last_bytes = of_soft.bytes;
    std::string other = "-";
    if (both) {
      softmax.push_back(cost(TokenMixing::Softmax, side, side < 112 ? 5 : 2).seconds);
      tokens_softmax.push_back(tokens);
      other = fmt::format("{:.2f}", 1e3 * softmax.back());
    }
    table.rows.push_back({fmt::format("{}", side * side), fmt::format("{:.2f}", 1e3 * of_soft.seconds), other,
                          fmt::format("{:.1f}", of_soft.bytes / 1e6)});
  }
  const auto tail = [](const std::vector<double>& v, size_t count) {
    return std::vector<double>(v.end() - count, v.end());
  };
  record(result, "cost: exponent of SOFT's time in n, 3,136 to 50,176 tokens", "linear (abstract)",
         log_log_slope(tail(n, 3), tail(soft, 3)), "", Bar::within(1, .15));
  record(result, "cost: exponent of exact softmax (blocked), 784 to 12,544 tokens", "quadratic",
         log_log_slope(tail(tokens_softmax, 3), tail(softmax, 3)), "", Bar::at_least(1.7));
  record(result, "cost: exact softmax over SOFT at 12,544 tokens", "-", softmax.back() / soft[3], "x",
         Bar::at_least(10));
  record(result, "cost: memory of SOFT's tensors at 50,176 tokens, in n m numbers of float32", "linear (abstract)",
         last_bytes / 4 / (n.back() * kLandmarkSide * kLandmarkSide), "", Bar::at_most(16));
  result.tables.push_back(table);
  result.plots.push_back({"Forward and backward of one layer, 2 heads of 32, 49 landmarks",
                          {"tokens", Scale::Log2},
                          {"seconds", Scale::Log10},
                          {{"SOFT", n, soft}, {"exact softmax, blocked", tokens_softmax, softmax}}});
}

// ---- Newton's inverse

// max |I - Y A| in exact arithmetic: I - Y A has the eigenvalues (1 - alpha l^2)^(2^T).
at::Tensor predicted_residual(const at::Tensor& a, const at::Tensor& alpha, int64_t steps) {
  const auto [values, vectors] = at::linalg_eigh(a);
  const auto x = alpha.squeeze(-1) * values.square();
  const auto logarithm = at::where(x < 1, (-x).log1p(), (x - 1).log());
  const auto error = (logarithm * std::pow(2., static_cast<double>(steps))).exp();
  return at::matmul(vectors * error.unsqueeze(-2), vectors.transpose(-1, -2)).abs().amax({-2, -1});
}

void newton(StudyResult& result) {
  constexpr int64_t kMatrices = 1000, kLandmarks = 49;
  Table table{"1,000 kernels of 49 landmarks N(0, s^2 I) in 32 dimensions, ridge 0.01, float32, 20 steps",
              {"s", "rule", "median residual", "largest residual", "largest above its prediction"},
              {}};
  for (const double s : {.1, 1., 10.}) {
    const auto points = at::randn({kMatrices, kLandmarks, 32},
                                  at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(10 * s))) *
                        s;
    const auto a = gaussian_gram(points);
    for (const auto& [rule, start] : {std::pair{"1.8 / |A + ridge I|^2", NewtonStart::Safe},
                                      {"paper: 2 / |A|^2, halved", NewtonStart::Backtracking}}) {
      const bool ours = start == NewtonStart::Safe;
      InverseOptions options;
      options.start = start;
      if (!ours) options.ridge = 0;
      const auto inverse = symmetric_inverse(a, options);
      const auto ridged = a.to(at::kDouble) + options.ridge * at::eye(kLandmarks, at::kDouble);
      const auto residual = inverse.residual.to(at::kDouble);
      const auto above =
          residual - predicted_residual(ridged, newton_scale(a.to(at::kDouble), options), options.iterations);
      const double largest = at::isfinite(inverse.value).all().item<bool>() ? residual.max().item<double>() : NAN;
      table.rows.push_back({fmt::format("{:g}", s), rule, fmt::format("{:.2g}", residual.median().item<double>()),
                            fmt::format("{:.2g}", largest), fmt::format("{:.2g}", above.max().item<double>())});
      const auto where = fmt::format(", landmarks of spread {:g}", s);
      if (ours)
        record(result, "Newton: largest residual above the closed form" + where, "-",
               std::isfinite(largest) ? above.max().item<double>() : NAN, "", Bar::at_most(1e-4));
      if (!ours && s == 10)
        record(result, "Newton: the paper's start leaves a residual of at least" + where, "-",
               residual.min().item<double>(), "", Bar::at_least(.5));
    }
  }
  result.tables.push_back(table);
}

// ---- Classifiers

struct Variant {
  const char* name;
  TokenMixing mixing;
  bool normalize;
  LandmarkSampling sampling = LandmarkSampling::Convolution;
};
constexpr Variant kVariants[] = {{"softmax", TokenMixing::Softmax, false},
                                 {"SOFT", TokenMixing::Soft, false},
                                 {"SOFT++", TokenMixing::Soft, true},
                                 {"linear (elu + 1)", TokenMixing::Linear, false},
                                 {"no attention", TokenMixing::None, false}};
// The other published landmarks, which lie where the queries lie: convolved ones are far from small queries, and then
// attention gives next to nothing at the start.
constexpr Variant kAveraged[] = {{"SOFT, averaged landmarks", TokenMixing::Soft, false, LandmarkSampling::Mean},
                                 {"SOFT++, averaged landmarks", TokenMixing::Soft, true, LandmarkSampling::Mean}};

// Images of 28 x 28 to 14 x 14 tokens, two blocks, 49 landmarks, the mean token; Newton's inverse, as published.
PyramidConfig classifier(const Variant& variant, bool value_filter, int64_t channels, int64_t classes) {
  return classifier_config({.channels = channels,
                            .classes = classes,
                            .value_filter = value_filter ? 3 : 0,
                            .mixing = variant.mixing,
                            .normalize = variant.normalize,
                            .sampling = variant.sampling,
                            .solver = InverseSolver::Newton});
}

using Accuracies = std::map<std::string, double>;

// A training, and how far its inverses were from inverses, where there are any.
Pyramid trained(const std::string& task, const Variant& variant, const PyramidConfig& config, const ImageSource& source,
                const ImageTraining& training, int seed, const StudyOptions& options, StudyResult& result) {
  std::optional<double> residual;
  auto net = train_classifier(config, source, training, seed, options, &residual);
  if (residual)
    record(result, fmt::format("{}: largest residual of Newton's inverse, {}", task, variant.name), "-", *residual, "",
           Bar::none());
  return net;
}

void first_epoch(const StudyOptions& options, StudyResult& result) {
  const auto data = load_digits();
  for (int seed = 1; seed <= options.seeds; ++seed) {
    const ImageTraining training{fmt::format("digits, SOFT++, one epoch, seed {}", seed), 8000 / 64};
    const auto net = trained("digits, one epoch", kVariants[2], classifier(kVariants[2], true, 1, 10),
                             shuffled(data.train, 64, seed), training, seed, options, result);
    record(result, "digits: SOFT++ after one epoch", "-", accuracy(net, data.test), "%", Bar::none());
  }
}

void digits(const StudyOptions& options, StudyResult& result) {
  const auto data = load_digits();
  Curves curves{
      "Digits: right classes after each form of evaluation", "form", "%", {0, 1}, {"14 x 14 tokens", "28 x 28"}};
  int smaller_drops = 0;
  std::vector<double> gaps, possible;  // without the filter: SOFT, and softmax, minus no attention
  constexpr int64_t kEpochs = 20;      // of images that move by a pixel: 10 of still ones are learnt by heart
  for (int seed = 1; seed <= options.seeds; ++seed) {
    Accuracies with, without;
    const auto train = [&](const Variant& variant, bool filter) {
      const std::string name = fmt::format("{}{}", variant.name, filter ? "" : ", no filter on values");
      const ImageTraining training{fmt::format("digits, {}, seed {}", name, seed), kEpochs * (8000 / 64)};
      return trained(filter ? "digits" : "digits, no filter on values", variant, classifier(variant, filter, 1, 10),
                     shifted(shuffled(data.train, 64, seed), 1, seed), training, seed, options, result);
    };
    std::map<std::string, double> drops;
    for (const auto& variant : kVariants) {
      const auto net = train(variant, true);
      const double at_size = accuracy(net, data.test), enlarged = accuracy(net, data.test, true);
      with[variant.name] = at_size, drops[variant.name] = at_size - enlarged;
      curves.add(variant.name, {at_size, enlarged});
    }
    for (const auto& variant : {kVariants[0], kVariants[1], kVariants[4]}) {
      without[variant.name] = accuracy(train(variant, false), data.test);
      record(result, fmt::format("digits, no filter on values: {}", variant.name), "-", without[variant.name], "%",
             Bar::none());
    }
    for (const auto& variant : kVariants) {
      const std::string name = variant.name;
      const bool soft = variant.mixing == TokenMixing::Soft;
      record(result, "digits: " + name, "-", with[name], "%", soft ? Bar::at_least(97) : Bar::none());
      if (soft)
        record(result, "digits: " + name + " minus softmax", "79.3 % top-1 (SOFT-Tiny, ImageNet-1K)",
               with[name] - with["softmax"], "points", Bar::at_least(-.5));
    }
    gaps.push_back(without["SOFT"] - without["no attention"]);
    possible.push_back(without["softmax"] - without["no attention"]);
    record(result, "digits on 28 x 28 tokens: points lost by SOFT", "-", drops["SOFT"], "points", Bar::none());
    record(result, "digits on 28 x 28 tokens: points lost by SOFT++", "-", drops["SOFT++"], "points", Bar::none());
    if (drops["SOFT++"] < drops["SOFT"]) ++smaller_drops;
  }
  // Without the filter only attention moves anything between tokens: a broken kernel shows, where attention can be
  // worth that much at all. Where softmax itself does not gain it, the pairs of colours judge.
  constexpr double kGap = 2;
  const bool judged = mean(possible) >= kGap;
  for (const double x : possible)
    record(result, "digits, no filter on values: softmax minus no attention", "-", x, "points", Bar::none());
  for (const double x : gaps)
    record(result, "digits, no filter on values: SOFT minus no attention", "-", x, "points",
           judged ? Bar::at_least(kGap) : Bar::none());
  if (!judged)
    result.notes.push_back(
        fmt::format("digits without the filter: softmax gains {:.1f} points over no attention, less than {}, so SOFT's "
                    "gain is reported there, and judged on pairs of colours",
                    mean(possible), kGap));
  record(result, "digits on 28 x 28 tokens: share of seeds in which SOFT++ loses less than SOFT",
         "normalisation makes larger inputs work (abstract)", 1. * smaller_drops / options.seeds, "",
         Bar::at_least(2. / 3));
  result.tables.push_back(curves.table(2));
}

void colours(const StudyOptions& options, StudyResult& result, int64_t steps) {
  Random test_random(1'000'003);
  const auto test = colour_pairs(2000, test_random);
  for (int seed = 1; seed <= options.seeds; ++seed) {
    Accuracies all;
    std::vector<Variant> variants(std::begin(kVariants), std::end(kVariants));
    variants.insert(variants.end(), std::begin(kAveraged), std::end(kAveraged));
    for (const auto& variant : variants) {
      const ImageTraining training{fmt::format("colours, {}, seed {}", variant.name, seed), steps};
      const ImageSource source = [random = Random(seed)](int64_t) mutable { return colour_pairs(64, random); };
      const auto net =
          trained("colours", variant, classifier(variant, false, 3, 2), source, training, seed, options, result);
      all[variant.name] = accuracy(net, test);
      record(result, fmt::format("colours: {}", variant.name), "-", all[variant.name], "%",
             variant.mixing == TokenMixing::None      ? Bar::at_most(65)
             : variant.mixing == TokenMixing::Softmax ? Bar::at_least(90)  // else equal chance would count as equal
                                                      : Bar::none());
    }
    for (const auto& variant : variants) {
      if (variant.mixing == TokenMixing::Soft)
        record(result, fmt::format("colours: {} minus softmax", variant.name), "-", all[variant.name] - all["softmax"],
               "points", Bar::at_least(-2));
    }
  }
}

}  // namespace

StudyResult study_soft(const StudyOptions& options) {
  StudyResult result;
  result.slug = "soft";
  result.title = "SOFT and SOFT++: softmax-free attention through landmarks";
  costs(result);
  newton(result);
  result.notes.push_back(
      "residuals of Newton's inverse: max |I - Y (A + ridge I)| in the last hundred steps of a training, every tenth "
      "looked at. Well below 1, Y is an inverse and its gradient is exact up to that share; near 1, 20 steps have left "
      "small eigenvalues (nearly equal landmarks) damped, the analytic gradient is biased there, and the variant "
      "learns by something else than the derivative of what it computes. Cholesky's inverse, the default of `unbend "
      "vision train`, does not have this");
  if (!options.full) {
    first_epoch(options, result);
    result.notes.push_back(
        "quick form: costs, Newton's inverse, and one epoch that is reported and not judged; the full form trains all "
        "variants");
    return result;
  }
  digits(options, result);
  colours(options, result, 3750);  // for a thousand steps and more some learn nothing, then all at once
  result.notes.push_back(
      "data: 10,000 digits of MNIST, 8,000 for training, moved by up to a pixel; ImageNet, COCO and ADE20K, on which "
      "the paper reports, are out of reach here");
  result.notes.push_back(
      "larger grids: images enlarged twice (bilinearly), the ratio of tokens to landmarks kept, so that 49 landmarks "
      "become 196");
  return result;
}

}  // namespace unbend
