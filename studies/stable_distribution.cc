// Study of stable distribution propagation (Petersen et al., ICLR 2024, "Uncertainty Quantification via Stable
// Distribution Propagation", arXiv 2402.08324): does the propagated law match the true one, are intervals calibrated
// when the input's noise is known, do classifiers trained with pairwise probabilities abstain better, and what it
// costs.
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <numbers>
#include <string>
#include <utility>

#include "studies/study.h"
#include "unbend/base/error.h"
#include "unbend/base/progress.h"
#include "unbend/nets/images.h"
#include "unbend/tangent/uncertainty.h"
#include "unbend/tensor/adamw.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

using Loss = std::function<at::Tensor(const Network& net, const at::Tensor& batch)>;

// Adam on batches of `size` of the indices 0 .. count - 1, drawn anew each time. The weights no longer ask for
// gradients afterwards.
void train(Network& net, int64_t count, int64_t size, int64_t steps, double rate, Random& random, const Loss& loss) {
  ParameterGroup group;
  for (const auto& p : parameters(net)) group.parameters.push_back(p.tensor->requires_grad_());
  group.lr = rate, group.weight_decay = 0;
  AdamW adam({group});
  for (int64_t step = 0; step < steps; ++step) {
    adam.zero_grad();
    loss(net, permutation(count, random).narrow(0, 0, size)).backward();
    adam.step();
  }
  for (const auto& p : parameters(net)) p.tensor->requires_grad_(false);
}

at::Tensor load_table(const std::string& file) {
  const auto path = std::filesystem::path("build/data") / file;
  if (!std::filesystem::exists(path))
    fail_input("{} is missing: run tools/setup.sh tables from the repository's root, and the study there",
               path.string());
  return load_npy(path);
}

at::Generator generator(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

// ---- 1: the output's distribution

// Marginal moment matching of ReLU networks: mean and variance of each unit as if all were independent Gaussians.
std::pair<at::Tensor, at::Tensor> moments(const Network& net, at::Tensor m, double sigma) {
  auto v = at::full_like(m, sigma * sigma);
  for (const auto& node : net.nodes) {
    if (const auto* layer = std::get_if<Linear>(&node.operation)) {
      v = at::linear(v, layer->weight.square());
      m = (*layer)(m);
      continue;
    }
    const auto s = at::sqrt(v.clamp_min(1e-30)), z = m / s;
    const auto density = at::exp(-.5 * z.square()) / std::sqrt(2 * std::numbers::pi), mass = at::special_ndtr(z);
    const auto mean = m * mass + s * density;
    v = ((m.square() + v) * mass + m * s * density - mean.square()).clamp_min(0);
    m = mean;
  }
  return {m, v};
}

constexpr int64_t kBins = 200;

// Shares of the samples [S] in equal bins over their range.
struct Histogram {
  double low, width;
  at::Tensor shares;  // [kBins]
};
Histogram histogram_of(const at::Tensor& samples) {
  const double low = samples.min().item<double>(), high = samples.max().item<double>();
  const double width = std::max((high - low) / kBins, 1e-12);
  const auto bin = ((samples - low) / width).to(at::kLong).clamp(0, kBins - 1);
  return {low, width, at::bincount(bin, {}, kBins).to(at::kDouble) / samples.numel()};
}

at::Tensor gaussian_shares(const Histogram& h, double mean, double variance) {
  const auto edges = h.low + h.width * at::arange(kBins + 1, at::kDouble);
  const auto below = at::special_ndtr((edges - mean) / std::sqrt(std::max(variance, 1e-24)));
  return below.narrow(0, 1, kBins) - below.narrow(0, 0, kBins);
}

struct Match {
  double linearized = 0, moments = 0, marginal = 0;  // 1 - total variation, mean over points and outputs
};

void draw_densities(StudyResult& result, const Histogram& h, const at::Tensor& linearized, const at::Tensor& matched) {
  LinePlot plot{
      "Iris, 2 hidden layers, input noise 1: one output's distribution",
      {"output"},
      {"density"},
      {{"10,000 samples or more", {}, {}}, {"propagated", {}, {}}, {"marginal moment matching", {}, {}, {}, {}, true}}};
  for (int64_t i = 0; i < kBins; ++i) {
    for (auto& s : plot.series) s.x.push_back(h.low + h.width * (static_cast<double>(i) + .5));
    plot.series[0].y.push_back(h.shares[i].item<double>() / h.width);
    plot.series[1].y.push_back(linearized[i].item<double>() / h.width);
    plot.series[2].y.push_back(matched[i].item<double>() / h.width);
  }
  result.plots.push_back(plot);
}

Match match(const Network& net, const at::Tensor& points, double sigma, int64_t samples, at::Generator& random,
            StudyResult* picture) {
  const auto noise = independent_noise(gaussian_law(), sigma);
  const auto full = propagate(net, points, noise), marginal = propagate_marginal(net, points, noise);
  const auto [mean, variance] = moments(net, points, sigma);
  const auto s = covariance(full).diagonal(0, 1, 2);
  Match all;
  const int64_t count = points.size(0), outputs = full.location.size(1);
  for (int64_t p = 0; p < count; ++p) {
    const auto y = net(draw(points.narrow(0, p, 1).expand({samples, -1}), noise, random)).to(at::kDouble);
    for (int64_t o = 0; o < outputs; ++o) {
      const auto h = histogram_of(y.select(1, o));
      const auto at_point = [&](const at::Tensor& t) { return t[p][o].item<double>(); };
      const auto overlap = [&](const at::Tensor& shares) {
        return at::minimum(h.shares, shares).sum().item<double>() / static_cast<double>(count * outputs);
      };
      const auto linearized = gaussian_shares(h, at_point(full.location), at_point(s));
      const auto matched = gaussian_shares(h, at_point(mean), at_point(variance));
      all.linearized += overlap(linearized), all.moments += overlap(matched);
      all.marginal += overlap(gaussian_shares(h, at_point(marginal.location), at_point(marginal.power)));
      if (picture && p == 0 && o == 0) draw_densities(*picture, h, linearized, matched);
    }
  }
  return all;
}

void output_distributions(const StudyOptions& options, StudyResult& result) {
  auto x = load_table("iris/inputs.npy");
  const auto labels = load_table("iris/labels.npy");
  check_shape(x, {150, 4}, "Iris");
  x = ((x - x.mean(0)) / x.std(0, false)).to(at::kFloat);
  const auto points = x.index_select(0, at::arange(0, 150, options.full ? 15 : 50, at::kLong));
  const std::vector<int> depths = options.full ? std::vector{1, 2, 4} : std::vector{2};
  Table table{"Iris: 1 - total variation between the output's law and samples (means over points, outputs and seeds)",
              {"hidden layers", "sigma", "propagated", "marginal moments", "marginal propagation"},
              {}};
  for (const int depth : depths) {
    std::map<double, Match> sums;
    for (int seed = 1; seed <= options.seeds; ++seed) {
      Random random(static_cast<uint64_t>(seed));
      std::vector<int64_t> widths(static_cast<size_t>(depth) + 2, 100);
      widths.front() = 4, widths.back() = 3;
      auto net = multilayer_perceptron(widths, {Activation::Relu}, random);
      train(net, 150, 64, options.full ? 1500 : 300, 1e-3, random, [&](const Network& n, const at::Tensor& batch) {
        return at::cross_entropy_loss(n(x.index_select(0, batch)), labels.index_select(0, batch));
      });
      auto draws = generator(static_cast<uint64_t>(seed));
      for (const double sigma : {.1, 1., 10.}) {
        const bool picture = depth == 2 && sigma == 1 && seed == 1;
        const auto m = match(net, points, sigma, options.full ? 20000 : 10000, draws, picture ? &result : nullptr);
        auto& sum = sums[sigma];
        sum.linearized += m.linearized, sum.moments += m.moments, sum.marginal += m.marginal;
        const auto where = fmt::format("Iris, {} hidden, sigma {:g}: ", depth, sigma);
        const auto bar = sigma == .1 ? Bar::at_least(.90) : sigma == 10 ? Bar::at_least(.70) : Bar::none();
        record(result, where + "propagated law", "better than moment matching (figures not verified)", m.linearized, "",
               bar);
        record(result, where + "above the better marginal method", "-", m.linearized - std::max(m.moments, m.marginal),
               "", Bar::at_least(.25));
      }
    }
    for (const auto& [sigma, m] : sums)
      table.rows.push_back(
          {std::to_string(depth), fmt::format("{:g}", sigma), fmt::format("{:.3f}", m.linearized / options.seeds),
           fmt::format("{:.3f}", m.moments / options.seeds), fmt::format("{:.3f}", m.marginal / options.seeds)});
  }
  result.tables.push_back(table);
}

// ---- 2: regression whose input has known noise

at::Tensor surface(const at::Tensor& x) {
  return at::sin(2 * x.select(1, 0)) + .5 * x.select(1, 1).square() + x.select(1, 0) * x.select(1, 2);
}

void regression(const StudyOptions& options, StudyResult& result) {
  Table table{"Regression, 95 % intervals at noisy inputs (means over seeds)",
              {"noise of the input", "method", "inside", "width", "NLL"},
              {}};
  std::map<std::pair<double, std::string>, std::vector<Calibration>> all;
  const std::vector<double> noises = {0, .05, .1, .2};
  const std::vector<std::string> methods = {"PNN alone", "PNN + propagation", "PNN + marginal", "PNN + 1,000 samples"};
  for (int seed = 1; seed <= options.seeds; ++seed) {
    auto draws = generator(static_cast<uint64_t>(seed));
    const auto uniform = [&](int64_t n, double side) { return at::rand({n, 3}, draws) * 2 * side - side; };
    const auto normal = [&](at::IntArrayRef shape) { return at::randn(shape, draws); };
    const auto x = uniform(2000, 1.5), y = (surface(x) + .1 * normal({2000})).unsqueeze(1);
    Random random(static_cast<uint64_t>(seed));
    auto net = multilayer_perceptron({3, 64, 64, 2}, {Activation::Relu}, random);
    train(net, 2000, 128, options.full ? 4000 : 1000, 3e-3, random, [&](const Network& n, const at::Tensor& batch) {
      const auto out = n(x.index_select(0, batch));
      const auto r = y.index_select(0, batch) - out.narrow(1, 0, 1), log_v = out.narrow(1, 1, 1);
      return (.5 * (r.square() * at::exp(-log_v) + log_v)).mean();
    });
    const auto clean = uniform(4000, 1.3), target = (surface(clean) + .1 * normal({4000})).unsqueeze(1);
    for (const double sx : noises) {
      const auto seen = clean + sx * normal(clean.sizes());
      const auto noise = independent_noise(gaussian_law(), sx);
      const auto out = net(seen), own = at::exp(out.narrow(1, 1, 1));
      const auto with = [&](const Propagated& p) { return with_own_noise(outputs(p, 0, 1), own); };
      // Mean and variance of the predicted mean over samples of the input.
      auto sum = at::zeros({4000, 1}), squares = at::zeros({4000, 1});
      const int samples = sx > 0 ? 1000 : 1;
      for (int i = 0; i < samples; ++i) {
        const auto sample = net(draw(seen, noise, draws)).narrow(1, 0, 1);
        sum += sample, squares += sample.square();
      }
      const auto mean = sum / samples, variance = (squares / samples - mean.square()).clamp_min(0);
      const Law law = gaussian_law();
      const Propagated laws[] = {{law, out.narrow(1, 0, 1), {}, {}, own},
                                 with(propagate(net, seen, noise)),
                                 with(propagate_marginal(net, seen, noise)),
                                 {law, mean, {}, {}, own + variance}};
      for (size_t m = 0; m < methods.size(); ++m) all[{sx, methods[m]}].push_back(calibration(laws[m], target, .95));
      const auto& alone = all[{sx, methods[0]}].back();
      const auto& both = all[{sx, methods[1]}].back();
      const bool judged = options.full && sx >= .1;
      const auto where = fmt::format("regression, input noise {:g}: ", sx);
      const std::string published = "calibrated intervals (UCI, figures not verified)";
      record(result, where + "inside 95 %, PNN alone", "-", alone.coverage, "",
             judged ? Bar::at_most(.75) : Bar::none());
      record(result, where + "inside 95 %, PNN + propagation", published, both.coverage, "",
             judged ? Bar::within(.935, .035) : Bar::none());
      if (sx > 0)
        record(result, where + "NLL, PNN + propagation minus PNN alone", "-", both.nll - alone.nll, "nats",
               Bar::at_most(0).for_each_seed());
    }
  }
  LinePlot plot{"Targets inside intervals of 95 %", {"standard deviation of the input's noise"}, {"share inside"}, {}};
  for (const auto& method : methods) {
    Series series{method, noises, {}};
    for (const double sx : noises) {
      std::vector<double> inside, width, nll;
      for (const auto& c : all[{sx, method}])
        inside.push_back(c.coverage), width.push_back(c.width), nll.push_back(c.nll);
      series.y.push_back(mean(inside));
      table.rows.push_back({fmt::format("{:g}", sx), method, fmt::format("{:.3f}", mean(inside)),
                            fmt::format("{:.3f}", mean(width)), fmt::format("{:.3f}", mean(nll))});
    }
    plot.series.push_back(series);
  }
  std::ranges::stable_sort(table.rows, {}, [](const auto& row) { return row[0]; });
  result.tables.push_back(table);
  result.plots.push_back(plot);
}

// ---- 3: abstaining

using Score = std::function<at::Tensor(const Network&, const at::Tensor&)>;

struct Trained {
  std::string name;
  Loss loss;
  std::vector<std::pair<std::string, Score>> scores;  // the first one is the method's own
};

void selective(const StudyOptions& options, StudyResult& result) {
  const auto images = load_table("digits8/images.npy").to(at::kFloat).flatten(1) / 16;
  const auto digits = load_table("digits8/labels.npy");
  const int seeds = options.full ? std::max(6, options.seeds) : options.seeds;
  const auto gaussian = independent_noise(gaussian_law(), .3), cauchy = independent_noise(cauchy_law(), .1);
  const Score softmax = [](const Network& n, const at::Tensor& x) { return std::get<0>(at::softmax(n(x), 1).max(1)); };
  const Score entropy = [](const Network& n, const at::Tensor& x) {
    const auto log_p = at::log_softmax(n(x), 1);
    return (at::exp(log_p) * log_p).sum(1);
  };
  const auto propagated = [](const Noise& noise) {
    return [noise](const Network& n, const at::Tensor& x) { return confidence(propagate(n, x, noise)); };
  };
  Table table{"Digits, five known and five unknown classes (means over seeds)",
              {"training", "score", "AUROC", "area under risk-coverage"},
              {}};
  std::map<std::pair<std::string, std::string>, std::vector<double>> aurocs, areas;
  std::vector<std::pair<std::string, std::string>> order;
  LinePlot plot{"Risk when the least confident are left out (seed 1); unknown classes count as errors",
                {"coverage"},
                {"risk"},
                {}};
  int better = 0, trainings = 0;
  Progress progress("digits", 3 * seeds, "trainings", options.quiet);
  for (int seed = 1; seed <= seeds; ++seed) {
    Random random(static_cast<uint64_t>(seed));
    const auto classes = permutation(10, random);  // classes[0..4] are known
    const auto place = at::empty({10}, at::kLong).scatter_(0, classes, at::arange(10, at::kLong));
    const auto renamed = place.index_select(0, digits);
    const auto known = (renamed < 5).nonzero().flatten(), unknown = (renamed >= 5).nonzero().flatten();
    const auto shuffled_known = known.index_select(0, permutation(known.size(0), random));
    const auto training = shuffled_known.narrow(0, 0, 600), rest = shuffled_known.slice(0, 600);
    const auto others = unknown.index_select(0, permutation(unknown.size(0), random)).narrow(0, 0, rest.size(0));
    const auto x = images.index_select(0, training), y = renamed.index_select(0, training);
    const auto x_in = images.index_select(0, rest), x_out = images.index_select(0, others);
    const auto on = [&](const Noise& noise) -> Loss {
      return [&x, &y, noise](const Network& n, const at::Tensor& b) {
        return pairwise_loss(propagate(n, x.index_select(0, b), noise), y.index_select(0, b));
      };
    };
    const Trained all[] = {
        {"cross-entropy",
         [&](const Network& n, const at::Tensor& b) {
           return at::cross_entropy_loss(n(x.index_select(0, b)), y.index_select(0, b));
         },
         {{"softmax", softmax},
          {"entropy", entropy},
          {"propagated, Gaussian", propagated(gaussian)},
          {"propagated, Cauchy", propagated(cauchy)}}},
        {"pairwise, Gaussian 0.3",
         on(gaussian),
         {{"propagated, Gaussian", propagated(gaussian)}, {"softmax", softmax}}},
        {"pairwise, Cauchy 0.1", on(cauchy), {{"propagated, Cauchy", propagated(cauchy)}, {"softmax", softmax}}}};
    std::map<std::string, double> own, right;
    for (const auto& one : all) {
      Random start(static_cast<uint64_t>(seed) + 1000);
      auto net = multilayer_perceptron({64, 100, 100, 5}, {Activation::Relu}, start);
      train(net, 600, 64, options.full ? 700 : 200, 1e-3, start, one.loss);
      const auto wrong_in = net(x_in).argmax(1) != renamed.index_select(0, rest);
      right[one.name] = 1 - wrong_in.to(at::kDouble).mean().item<double>();
      const auto wrong = at::cat({wrong_in, at::ones({others.size(0)}, at::kBool)});
      for (const auto& [name, score] : one.scores) {
        const auto in = score(net, x_in), out = score(net, x_out);
        const std::pair key{one.name, name};
        if (!aurocs.contains(key)) order.push_back(key);
        aurocs[key].push_back(auroc(in, out));
        const auto curve = risk_coverage(at::cat({in, out}), wrong, random);
        areas[key].push_back(curve.area);
        if (seed == 1 && name == one.scores[0].first) {
          Series series{fmt::format("{}, {}", one.name, name), {}, {}};
          for (size_t i = 9; i < curve.coverage.size(); i += 10)
            series.x.push_back(curve.coverage[i]), series.y.push_back(curve.risk[i]);
          plot.series.push_back(series);
        }
      }
      own[one.name] = aurocs[{one.name, one.scores[0].first}].back();
      progress.update(++trainings);
    }
    const auto &ce = all[0].name, &gauss = all[1].name, &heavy = all[2].name;
    if (own[gauss] > own[ce]) ++better;
    const auto judged = [&](const Bar& bar) { return options.full ? bar : Bar::none(); };
    record(result, "digits: AUROC, cross-entropy and softmax", "-", own[ce], "", Bar::none());
    record(result, "digits: AUROC, pairwise Gaussian and its score", "-", own[gauss], "", Bar::none());
    record(result, "digits: AUROC, pairwise Cauchy and its score", "-", own[heavy], "", Bar::none());
    record(result, "digits: AUROC gained by the pairwise Gaussian training",
           "better selective prediction (MNIST against EMNIST letters, figures not verified)", own[gauss] - own[ce], "",
           judged(Bar::at_least(.03)));
    record(result, "digits: accuracy on known classes gained", "-", right[gauss] - right[ce], "",
           judged(Bar::at_least(-.01)));
    record(result, "digits: cross-entropy network, AUROC of the Gaussian score minus softmax", "-",
           aurocs[{ce, "propagated, Gaussian"}].back() - own[ce], "", Bar::none());
  }
  record(result, "digits: share of seeds in which the pairwise Gaussian training is better", "-",
         static_cast<double>(better) / seeds, "", options.full ? Bar::at_least(5. / 6) : Bar::none());
  for (const auto& key : order)
    table.rows.push_back(
        {key.first, key.second, fmt::format("{:.3f}", mean(aurocs[key])), fmt::format("{:.3f}", mean(areas[key]))});
  result.tables.push_back(table);
  result.plots.push_back(plot);
}

// ---- 4: cost

double cpu_seconds(int repeats, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repeats; ++i) {
    const std::clock_t start = std::clock();
    work();
    best = std::min(best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return best;
}

void costs(StudyResult& result) {
  Random random(1);
  const auto net = multilayer_perceptron({784, 200, 200, 10}, {Activation::Relu}, random);
  const auto x = uniform_tensor({256, 784}, 1, random);
  const auto noise = independent_noise(gaussian_law(), .1);
  auto draws = generator(1);
  const at::NoGradGuard no_gradients;
  const double forward = cpu_seconds(50, [&] { net(x); });
  const double full = cpu_seconds(20, [&] { propagate(net, x, noise); });
  const double marginal = cpu_seconds(50, [&] { propagate_marginal(net, x, noise); });
  constexpr int kSamples = 100;  // ten times as many take ten times as long
  const double sampling = 10 * cpu_seconds(2, [&] {
                            auto sum = at::zeros({256, 10}), squares = at::zeros({256, 10, 10});
                            for (int i = 0; i < kSamples; ++i) {
                              const auto y = net(draw(x, noise, draws));
                              sum += y, squares += y.unsqueeze(2) * y.unsqueeze(1);
                            }
                          });
  record(result, "cost, 784-200-200-10, 256 samples: 1,000 draws over the full form", "-", sampling / full, "x",
         Bar::at_least(20));
  record(result, "cost, 784-200-200-10, 256 samples: 1,000 forward passes without drawing over the full form", "-",
         1000 * forward / full, "x", Bar::none());
  record(result, "cost, 784-200-200-10, 256 samples: marginal form over a forward pass", "-", marginal / forward, "x",
         Bar::at_most(3));
  record(result, "cost, 784-200-200-10, 256 samples: full form over a forward pass",
         "about 30 x a training step (ResNet-18, quoted by a reviewer)", full / forward, "x", Bar::none());
}

}  // namespace

StudyResult study_stable_distribution(const StudyOptions& options) {
  StudyResult result;
  result.slug = "stable_distribution";
  result.title = "Stable distribution propagation: what input noise does to an output";
  output_distributions(options, result);
  regression(options, result);
  selective(options, result);
  costs(result);
  result.notes.push_back(
      options.full
          ? "digits: scikit-learn's 8 x 8 digits, five random classes known, five unknown; MNIST against EMNIST "
            "letters, on which the paper reports, is not at hand"
          : "quick form: short trainings, one depth and few points; the full form judges the regression and "
            "the digits");
  result.notes.push_back(
      "scores of networks trained with cross-entropy are reported, not judged: propagation does not beat softmax "
      "there; "
      "the gain comes from the training");
  return result;
}

}  // namespace unbend
