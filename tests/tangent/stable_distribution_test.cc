// The oracles of methods/stable_distribution.md for the laws and the propagation.
#include "unbend/tangent/stable_distribution.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/nets/network_sweep.h"
#include "unbend/tangent/uncertainty.h"

namespace unbend {
namespace {

at::Tensor tensor(std::vector<double> values, std::vector<int64_t> shape) {
  return at::tensor(values, at::kDouble).view(shape);
}

#define EXPECT_CLOSE(a, b, tolerance)                                                                       \
  do {                                                                                                      \
    const at::Tensor a_ = (a), b_ = (b);                                                                    \
    EXPECT_TRUE(at::allclose(a_, b_.to(a_.scalar_type()).expand_as(a_), 0, tolerance)) << a_ << "\n" << b_; \
  } while (false)

// The worked network 2-3-2.
Network worked() {
  Network net;
  append(net, Linear{tensor({1, -2, .5, 1, -1, .5}, {3, 2}), tensor({.1, .2, -.3}, {3})}, "first");
  append(net, Elementwise{Activation::Relu}, "relu");
  append(net, Linear{tensor({1, 2, -1, .5, 1.5, 1}, {2, 3}), tensor({0, .1}, {2})}, "second");
  return net;
}
const at::Tensor kX = tensor({1, -.4}, {1, 2});
const at::Tensor kSigma = tensor({.04, .01, .01, .09}, {2, 2});

Network perceptron(std::vector<int64_t> widths, Activation f, uint64_t seed) {
  Random random(seed);
  return to(multilayer_perceptron(widths, {f}, random), at::kDouble);
}
at::Tensor normal(std::vector<int64_t> shape, uint64_t seed) {
  Random random(seed);
  return normal_tensor(shape, 1, random).to(at::kDouble);
}
// A small convolutional network with a residual sum, pools, a norm and a concatenation.
Network mixed() {
  Random random(5);
  Network net;
  const auto w = [&](std::vector<int64_t> shape) { return normal_tensor(shape, .4, random); };
  const int c = append(net, Convolution{w({4, 2, 3, 3}), w({4}), {1, 1}, {1, 1}, {1, 1}, {0, 0}}, "conv");
  const int a = append(net, Elementwise{Activation::Silu}, "silu");
  const int s = append(net, Addition{}, "sum", {c, a});
  const int p = append(net, Pooling{true, {2, 2}, {2, 2}}, "max", {s});
  const int q = append(net, Pooling{false, {2, 2}, {2, 2}}, "average", {s});
  append(net, Concatenation{1}, "both", {p, q});
  append(net, ChannelAffine{w({8}), w({8})}, "norm");
  append(net, Reshape{{-1}}, "flat");
  append(net, Linear{w({6, 32}), w({6})}, "middle");
  append(net, make_layer_norm(6), "layer_norm");
  append(net, Elementwise{Activation::Relu}, "relu");
  append(net, Linear{w({3, 6}), w({3})}, "last");
  return to(net, at::kDouble);
}

TEST(StableDistribution, WorkedNetwork) {
  const auto net = worked();
  const auto full = propagate(net, kX, gaussian_noise(kSigma));
  EXPECT_CLOSE(full.location, tensor({2.5, 1.5}, {1, 2}), 1e-12);
  EXPECT_CLOSE(covariance(full), tensor({.16, .11, .11, .0975}, {1, 2, 2}), 1e-12);
  EXPECT_CLOSE(scale(full), tensor({.4, std::sqrt(.0975)}, {1, 2}), 1e-12);
  EXPECT_CLOSE(covariance(propagate(net, kX, independent_noise(gaussian_law(), .2))),
               tensor({.16, .10, .10, .0725}, {1, 2, 2}), 1e-12);
  const auto scales = independent_noise(gaussian_law(), tensor({.2, .3}, {2}));
  const auto marginal = propagate_marginal(net, kX, scales);
  EXPECT_CLOSE(marginal.location, full.location, 1e-12);
  EXPECT_CLOSE(marginal.power, tensor({.80, .325}, {1, 2}), 1e-12);
  EXPECT_CLOSE(covariance(propagate(net, kX, scales)).diagonal(0, 1, 2), tensor({.16, .085}, {1, 2}), 1e-12);
  const auto loud = propagate(net, kX, gaussian_noise(25 * kSigma));
  EXPECT_NEAR(difference_scale(loud, at::zeros({1}, at::kLong))[0][1].item<double>(), std::sqrt(.9375), 1e-9);
  EXPECT_NEAR(pairwise_probabilities(loud)[0][0][1].item<double>(), .849150, 1e-6);
  EXPECT_NEAR(cdf(gaussian_law(), 1 / std::sqrt(25 * (.16 + .0975))), .653258, 1e-6);  // without the covariance
}

TEST(StableDistribution, WorkedNetworkCauchy) {
  const auto noise = independent_noise(cauchy_law(), tensor({.2, .3}, {2}));
  const auto full = propagate(worked(), kX, noise);
  EXPECT_CLOSE(scale(full), tensor({.4, .4}, {1, 2}), 1e-12);
  EXPECT_NEAR(difference_scale(full, at::zeros({1}, at::kLong))[0][1].item<double>(), .3, 1e-12);
  EXPECT_NEAR(pairwise_probabilities(full)[0][0][1].item<double>(), .907226, 1e-6);
  const auto marginal = propagate_marginal(worked(), kX, noise);
  EXPECT_CLOSE(scale(marginal), tensor({1.6, 1.0}, {1, 2}), 1e-12);
  // Marginal scales of the full form add up to .8.
  const Propagated summed{cauchy_law(), full.location, {}, {}, scale(full)};
  EXPECT_NEAR(pairwise_probabilities(summed)[0][0][1].item<double>(), .785223, 1e-6);
  EXPECT_NE(error_message([&] { covariance(full); }).find("no variance"), std::string::npos);
}

// Total variation between ReLU(X) and its two approximations: the better one is the local linearization.
TEST(StableDistribution, ReluIsApproximatedBest) {
  const std::pair<double, double> gaussian[] = {{.5, .308538}, {1, .158655}, {2, .022750}, {-1, .158655}};
  for (const auto& [m, tv] : gaussian) EXPECT_NEAR(cdf(gaussian_law(), -std::abs(m)), tv, 1e-6);
  const std::pair<double, double> cauchy[] = {{1, .25}, {2, .147584}, {.5, .352416}};
  for (const auto& [m, tv] : cauchy) EXPECT_NEAR(cdf(cauchy_law(), -m), tv, 1e-6);
  // By numbers: density of N(m, 1) above 0 beside the candidate's; and moment matching beside it.
  const auto tv_with = [](double m, double mean, double variance) {
    const auto t = at::linspace(0, 14, 14001, at::kDouble);
    const auto density = [&](double mu, double v) {
      return at::exp(-(t - mu).square() / (2 * v)) / std::sqrt(2 * M_PI * v);
    };
    return 1 - at::trapezoid(at::minimum(density(m, 1), density(mean, variance)), 1e-3).item<double>();
  };
  EXPECT_NEAR(tv_with(1, 1, 1), .158655, 1e-5);
  EXPECT_NEAR(tv_with(.5, .697797, .553441), .336421, 1e-5);
  EXPECT_NEAR(tv_with(1, 1.083315, .751088), .181393, 1e-5);
  EXPECT_NEAR(tv_with(2, 2.008491, .960196), .030460, 1e-5);
  EXPECT_NEAR(tv_with(-1, .083315, .068398), .876723, 1e-5);
}

TEST(StableDistribution, Activations) {
  const std::tuple<Activation, double, double> cases[] = {{Activation::Sigmoid, .668188, .00442409},
                                                          {Activation::Tanh, .604368, .0362605},
                                                          {Activation::Gelu, .530625, .0858398},
                                                          {Activation::Silu, .467731, .0610169}};
  for (const auto& [f, mean, variance] : cases) {
    Network net;
    append(net, Elementwise{f}, "f");
    const auto x = at::full({1, 1}, .7, at::kDouble);
    const auto noise = independent_noise(gaussian_law(), .3);
    for (const auto& p : {propagate(net, x, noise), propagate_marginal(net, x, noise)}) {
      EXPECT_NEAR(p.location.item<double>(), mean, 1e-6);
      EXPECT_NEAR(covariance(p).item<double>(), variance, 1e-7);
    }
  }
}

TEST(StableDistribution, ConvolutionAndPool) {
  Network net;
  append(net, Convolution{tensor({.5, -1}, {1, 1, 2}), {}, {1}, {0}, {1}, {0}}, "conv");
  const auto x = tensor({1, -2, 3, .5}, {1, 1, 4});
  const auto noise = independent_noise(gaussian_law(), tensor({.1, .2, .3, .4}, {1, 4}).sqrt());
  const auto full = propagate(net, x, noise);
  EXPECT_CLOSE(full.location, tensor({2.5, -4, 1}, {1, 3}), 1e-12);
  const auto s = tensor({.225, -.1, 0, -.1, .35, -.15, 0, -.15, .475}, {1, 3, 3});
  EXPECT_CLOSE(covariance(full), s, 1e-12);
  EXPECT_CLOSE(propagate_marginal(net, x, noise).power, tensor({.225, .35, .475}, {1, 3}), 1e-12);
  // The same as a matrix.
  Network dense;
  append(dense, Reshape{{-1}}, "flat");
  append(dense, Linear{tensor({.5, -1, 0, 0, 0, .5, -1, 0, 0, 0, .5, -1}, {3, 4}), {}}, "matrix");
  EXPECT_CLOSE(covariance(propagate(dense, x, noise)), s, 1e-12);
  Network pool;
  append(pool, Pooling{false, {2}, {2}, {0}, {1}}, "average");
  EXPECT_CLOSE(propagate_marginal(pool, x, noise).power, tensor({.075, .175}, {1, 2}), 1e-12);
  EXPECT_CLOSE(scale(propagate(pool, x, noise)).square(), tensor({.075, .175}, {1, 2}), 1e-12);
  Network largest;
  append(largest, Pooling{true, {2}, {2}, {0}, {1}}, "max");
  EXPECT_CLOSE(propagate_marginal(largest, x, noise).power, tensor({.1, .3}, {1, 2}), 1e-12);
  EXPECT_CLOSE(scale(propagate(largest, x, noise)).square(), tensor({.1, .3}, {1, 2}), 1e-12);
}

// Every form, for every law, on fused and other networks, against J L from plain Jacobians.
TEST(StableDistribution, AllFormsAgree) {
  struct Case {
    Network net;
    at::Tensor x;
  };
  Network images;
  append(images, Reshape{{-1}}, "flat");
  append(images, ChannelAffine{normal({12}, 3), normal({12}, 4)}, "scale");
  for (const auto& node : perceptron({12, 7, 5, 4}, Activation::Gelu, 8).nodes)
    append(images, node.operation, node.name);
  Network factors;  // scalars before, between and after the layers
  for (const auto& node : perceptron({4, 6, 5, 3}, Activation::Relu, 1).nodes) {
    append(factors, ChannelAffine{at::scalar_tensor(.5), at::scalar_tensor(-.25)}, "scalar");
    append(factors, node.operation, node.name);
  }
  append(factors, ChannelAffine{at::scalar_tensor(2.), at::scalar_tensor(1.)}, "scalar");
  const Case cases[] = {{perceptron({5, 8, 6, 3}, Activation::Relu, 1), normal({4, 5}, 2)},
                        {perceptron({2, 8, 9}, Activation::Tanh, 1), normal({4, 2}, 3)},
                        {images, normal({4, 3, 2, 2}, 5)},
                        {factors, normal({4, 4}, 6)},
                        {mixed(), normal({4, 2, 4, 4}, 6)}};
  for (const auto& [net, x] : cases) {
    const int64_t batch = x.size(0), n = x.numel() / batch;
    at::Tensor value;
    const auto j = sample_jacobians(net, x, true, value).detach();
    const auto plain = sample_jacobians(net, x, false, value);
    EXPECT_CLOSE(plain, j, 1e-10);
    EXPECT_CLOSE(value, net(x), 1e-12);
    const auto sample = x.sizes().slice(1).vec();
    const auto covariance_in = at::matmul(normal({n, n}, 7), normal({n, n}, 7).t());
    for (const auto& law : {gaussian_law(), cauchy_law(), stable_law(1.5), stable_law(2)}) {
      std::vector<std::pair<Noise, at::Tensor>> noises = {
          {independent_noise(law, .3), .3 * at::eye(n, at::kDouble)},
          {independent_noise(law, normal(sample, 8).abs()), at::diag(normal(sample, 8).abs().flatten())},
          {independent_noise(law, normal(x.sizes().vec(), 9).abs()),
           at::diag_embed(normal(x.sizes().vec(), 9).abs().flatten(1))},
          {factor_noise(law, normal({n, 2}, 10)), normal({n, 2}, 10)},
          {factor_noise(law, normal({batch, n, 2}, 11)), normal({batch, n, 2}, 11)}};
      if (law.gaussian()) noises.emplace_back(gaussian_noise(covariance_in), at::linalg_cholesky(covariance_in));
      for (const auto& [noise, l] : noises) {
        const auto b = at::matmul(j, l);
        const auto sizes = at::pow(at::pow(b.abs(), law.alpha).sum(2), 1 / law.alpha);
        for (const auto sweep : {Sweep::Auto, Sweep::Reverse, Sweep::Forward}) {
          for (const auto& p : {propagate(net, x, noise, {sweep}),
                                propagate([&](const at::Tensor& v) { return net(v); }, x, noise, {sweep})}) {
            EXPECT_CLOSE(p.location, value, 1e-10);
            EXPECT_CLOSE(scale(p), sizes, 1e-9);
            if (law.gaussian()) EXPECT_CLOSE(p.covariance, at::matmul(b, b.transpose(1, 2)), 1e-9);
          }
        }
      }
    }
  }
}

// Covariances layer by layer, W S W^T and D S D, are those of the Jacobian.
TEST(StableDistribution, LayerwiseIsTheJacobian) {
  const auto net = perceptron({4, 9, 7, 3}, Activation::Sigmoid, 11);
  const auto x = normal({1, 4}, 12);
  auto s = at::matmul(normal({4, 4}, 13), normal({4, 4}, 13).t());
  const auto p = propagate(net, x, gaussian_noise(s));
  auto m = x;
  for (const auto& node : net.nodes) {
    if (const auto* layer = std::get_if<Linear>(&node.operation))
      s = at::matmul(at::matmul(layer->weight, s), layer->weight.t());
    if (const auto* f = std::get_if<Elementwise>(&node.operation)) {
      const auto d = at::diag(f->derivative(m)[0]);
      s = at::matmul(at::matmul(d, s), d);
    }
    m = value_of(node.operation, {m});
  }
  EXPECT_CLOSE(p.covariance[0], s, 1e-10);
}

TEST(StableDistribution, Properties) {
  const auto net = perceptron({6, 12, 12, 5}, Activation::Relu, 21);
  const auto x = normal({7, 6}, 22);
  const auto low_rank = factor_noise(gaussian_law(), normal({6, 2}, 23));
  const auto p = propagate(net, x, low_rank);
  EXPECT_CLOSE(p.covariance, p.covariance.transpose(1, 2), 1e-14);
  const auto values = at::linalg_eigvalsh(p.covariance);
  EXPECT_GT(values.min().item<double>(), -1e-12 * values.max().item<double>());
  EXPECT_LT(values.narrow(1, 0, 3).abs().max().item<double>(), 1e-12 * values.max().item<double>());  // rank 2
  EXPECT_CLOSE(propagate(net, x, independent_noise(gaussian_law(), 0.)).covariance, at::zeros({}), 0);
  EXPECT_CLOSE(propagate(net, x, gaussian_noise(at::zeros({6, 6}, at::kDouble))).covariance, at::zeros({}), 1e-300);
  const auto once = propagate(net, x, independent_noise(gaussian_law(), .1));
  EXPECT_CLOSE(propagate(net, x, independent_noise(gaussian_law(), .3)).covariance, 9 * once.covariance, 1e-12);
  for (const auto& law : {gaussian_law(), cauchy_law()}) {
    const auto both = pairwise_probabilities(propagate(net, x, independent_noise(law, .5)));
    EXPECT_CLOSE(both + both.transpose(1, 2), at::ones({}), 1e-12);
  }
}

TEST(StableDistribution, MonteCarlo) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(31);
  constexpr int64_t kSamples = 200000;
  const auto x = normal({1, 3}, 32);
  // Purely linear: exact at any size of the noise.
  Network linear;
  append(linear, Linear{normal({2, 3}, 33), normal({2}, 34)}, "one");
  append(linear, Linear{normal({2, 2}, 35), {}}, "two");
  const auto noise = gaussian_noise(at::matmul(normal({3, 3}, 36), normal({3, 3}, 36).t()));
  const auto many = linear(draw(x.expand({kSamples, 3}), noise, generator));
  const auto exact = propagate(linear, x, noise);
  const double size = exact.covariance.abs().max().item<double>();
  EXPECT_CLOSE(at::cov(many.t()), exact.covariance[0], .02 * size);
  // Small noise on a smooth network.
  const auto net = perceptron({3, 10, 2}, Activation::Tanh, 37);
  const auto small = independent_noise(gaussian_law(), .01);
  const auto spread = net(draw(x.expand({kSamples, 3}), small, generator));
  const auto p = propagate(net, x, small);
  EXPECT_CLOSE(at::cov(spread.t()), p.covariance[0], .02 * p.covariance.abs().max().item<double>());
  // Laws without variance: shares inside an interval.
  for (const auto& law : {cauchy_law(), stable_law(1.5), stable_law(.8), stable_law(1.98)}) {
    const auto heavy = factor_noise(law, normal({3, 2}, 38));
    const auto y = linear(draw(x.expand({kSamples, 3}), heavy, generator));
    const auto q = propagate(linear, x, heavy);
    for (const double share : {.5, .9}) {
      const auto [low, high] = intervals(q, share);
      EXPECT_CLOSE(at::logical_and(y > low, y < high).to(at::kDouble).mean(0), at::full({2}, share), .006);
    }
  }
}

TEST(StableDistribution, Laws) {
  for (const double z : {-30., -3., -.4, 0., .7, 5.}) {
    EXPECT_NEAR(cdf(stable_law(2), z), cdf(gaussian_law(), z / std::sqrt(2.)), 1e-14);
    EXPECT_NEAR(cdf(stable_law(1.9999), z), cdf(stable_law(2), z), 2e-5);
    EXPECT_NEAR(cdf(stable_law(1.0001), z), cdf(cauchy_law(), z), 1e-4);
    EXPECT_NEAR(cdf(stable_law(.9999), z), cdf(cauchy_law(), z), 1e-4);
    EXPECT_NEAR(cdf(stable_law(1.3), z) + cdf(stable_law(1.3), -z), 1, 1e-12);
  }
  // alpha = 1/2 by Fourier's integral: 1/2 + 1/pi integral of sin(t) exp(-t^(1/2)) / t, with t = u^2.
  const auto u = (at::arange(4000000, at::kDouble) + .5) * 1e-5;
  const auto fourier = .5 + (2 / M_PI) * (at::sin(u.square()) * at::exp(-u) / u).sum().item<double>() * 1e-5;
  EXPECT_NEAR(cdf(stable_law(.5), 1), fourier, 1e-7);
  for (const auto& law : {gaussian_law(), cauchy_law(), stable_law(.6), stable_law(1.7)})
    for (const double p : {.001, .2, .5, .975}) EXPECT_NEAR(cdf(law, quantile(law, p)), p, 1e-9);
  EXPECT_NEAR(quantile(gaussian_law(), .975), 1.959964, 1e-6);
  EXPECT_NEAR(quantile(cauchy_law(), .975), 12.706205, 1e-6);
  // No loss far out.
  EXPECT_NEAR(log_cdf(gaussian_law(), tensor({-40}, {1})).item<double>(), -804.608442, 1e-5);
  EXPECT_NEAR(log_cdf(cauchy_law(), tensor({-1e20}, {1})).item<double>(), -std::log(M_PI * 1e20), 1e-9);
  EXPECT_NEAR(log_cdf(stable_law(1.5), tensor({.3}, {1})).item<double>(), std::log(cdf(stable_law(1.5), .3)), 1e-12);
}

TEST(StableDistribution, NetworksInARow) {
  const auto first = perceptron({4, 6, 3}, Activation::Tanh, 41), second = perceptron({3, 5, 2}, Activation::Relu, 42);
  Network both = first;
  for (const auto& node : second.nodes) append(both, node.operation, node.name);
  const auto x = normal({3, 4}, 43);
  for (const auto& law : {gaussian_law(), cauchy_law()}) {
    const auto noise = independent_noise(law, normal({4}, 44).abs());
    const auto half = propagate(first, x, noise);
    const auto rest = propagate(second, half.location, as_noise(half)), whole = propagate(both, x, noise);
    EXPECT_CLOSE(rest.location, whole.location, 1e-12);
    EXPECT_CLOSE(scale(rest), scale(whole), 1e-9);
    EXPECT_CLOSE(difference_scale(rest, at::zeros({3}, at::kLong)), difference_scale(whole, at::zeros({3}, at::kLong)),
                 1e-6);
  }
}

TEST(StableDistribution, LargeBatchesComeInParts) {
  const auto net = to(perceptron({3000, 4}, Activation::Relu, 51), at::kFloat);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(52);
  const auto x = at::rand({3000, 3000}, generator), sizes = at::rand({3000, 3000}, generator);
  const auto p = propagate(net, x, independent_noise(gaussian_law(), sizes));  // 36M numbers of scaled Jacobians
  const auto last = propagate(net, x.narrow(0, 2990, 10), independent_noise(gaussian_law(), sizes.narrow(0, 2990, 10)));
  EXPECT_EQ(p.covariance.sizes(), (std::vector<int64_t>{3000, 4, 4}));
  EXPECT_CLOSE(p.covariance.narrow(0, 2990, 10), last.covariance, 1e-4);
  EXPECT_CLOSE(p.location.narrow(0, 2990, 10), last.location, 1e-4);
}

TEST(StableDistribution, Marginal) {
  // One layer deep and with one path per output, nothing is lost.
  const auto net = mixed();
  const auto x = normal({2, 2, 4, 4}, 61);
  for (const auto& law : {gaussian_law(), cauchy_law(), stable_law(1.2)}) {
    for (const size_t nodes : {size_t{1}, size_t{2}}) {
      Network start;
      start.nodes.assign(net.nodes.begin(), net.nodes.begin() + static_cast<int64_t>(nodes));
      const auto noise = independent_noise(law, normal({2, 4, 4}, 62).abs());
      EXPECT_CLOSE(scale(propagate_marginal(start, x, noise)), scale(propagate(start, x, noise)), 1e-10);
    }
    for (const Operation& one :
         {Operation(make_layer_norm(4)), Operation(MeanOver{{-1, -2}, true}), Operation(Pooling{false, {2, 2}, {2, 2}}),
          Operation(Pooling{true, {0, 0}, {1, 1}}), Operation(ChannelAffine{normal({2}, 63), normal({2}, 64)})}) {
      Network single;
      append(single, one, "one");
      const auto noise = independent_noise(law, normal({2, 2, 4, 4}, 65).abs());
      EXPECT_CLOSE(scale(propagate_marginal(to(single, at::kDouble), x, noise)),
                   scale(propagate(to(single, at::kDouble), x, noise)), 1e-9);
    }
    EXPECT_TRUE(at::isfinite(scale(propagate_marginal(net, x, independent_noise(law, .1)))).all().item<bool>());
  }
}

TEST(StableDistribution, BadInput) {
  const auto net = worked();
  const auto refused = [](auto&& action, const char* part) {
    const auto message = error_message(action);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  refused([] { gaussian_noise(tensor({1, .5, .4, 1}, {2, 2})); }, "not symmetric");
  refused([] { gaussian_noise(tensor({1, 2, 2, 1}, {2, 2})); }, "indefinite");
  refused([] { gaussian_noise(tensor({1, NAN, NAN, 1}, {2, 2})); }, "the covariance");
  refused([] { gaussian_noise(at::ones({2, 3})); }, "expected [n, n]");
  refused([] { independent_noise(gaussian_law(), -.1); }, "negative");
  refused([] { independent_noise(cauchy_law(), NAN); }, "scale of the noise");
  refused([] { factor_noise(cauchy_law(), at::ones({3})); }, "expected [n, r]");
  refused([] { stable_law(0); }, "alpha");
  refused([] { stable_law(2.1); }, "alpha");
  const auto noise = independent_noise(gaussian_law(), .1);
  refused([&] { propagate(net, kX[0], noise); }, "the batch");
  refused([&] { propagate(net, at::ones({1, 2}, at::kLong), noise); }, "the input");
  refused([&] { propagate(net, tensor({1, NAN}, {1, 2}), noise); }, "the input");
  refused([&] { propagate(net, tensor({1, 2, 3}, {1, 3}), noise); }, "first");
  refused([&] { propagate(net, kX, independent_noise(gaussian_law(), at::ones({3}))); }, "expected []");
  refused([&] { propagate(net, kX, factor_noise(gaussian_law(), at::ones({3, 1}))); }, "2 numbers");
  refused([&] { propagate(net, kX, gaussian_noise(at::eye(3))); }, "2 numbers");
  refused([&] { propagate_marginal(net, kX, gaussian_noise(kSigma)); }, "independent noise");
  const auto x = normal({5, 4}, 71);
  refused([&] { propagate([](const at::Tensor& v) { return (v - v.mean(0)) * v; }, x, noise); }, "batch statistics");
  const auto wide = normal({5, 64}, 72);
  refused([&] { propagate([](const at::Tensor& v) { return at::dropout(v, .5, true); }, wide, noise); }, "dropout");
  refused([&] { propagate([](const at::Tensor& v) { return v.sum(); }, x, noise); }, "the batch");
  refused([&] { propagate([](const at::Tensor& v) { return v.detach().round(); }, x, noise); }, "depend");
  // An output that is dead has the variance 0, and no density.
  Network off;
  append(off, Linear{-at::ones({2, 2}, at::kDouble), at::zeros({2}, at::kDouble)}, "down");
  append(off, Elementwise{Activation::Relu}, "relu");
  const auto none = propagate(off, at::ones({1, 2}, at::kDouble), noise);
  EXPECT_CLOSE(none.covariance, at::zeros({}), 0);
  refused([&] { negative_log_likelihood(none, at::zeros({1, 2}, at::kDouble)); }, "no variance");
}

}  // namespace
}  // namespace unbend
