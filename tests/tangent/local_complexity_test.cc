#include "unbend/tangent/local_complexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/base/error.h"

namespace unbend {
namespace {

at::Tensor matrix(std::vector<double> numbers, int64_t columns) {
  return at::tensor(numbers, at::kDouble).view({-1, columns});
}

std::vector<int64_t> list(const at::Tensor& t) {
  const auto c = t.contiguous();
  return {c.const_data_ptr<int64_t>(), c.const_data_ptr<int64_t>() + c.numel()};
}

// The brief's network of 2, 4 and 2 neurons.
Network example() {
  Network net;
  append(net, Linear{matrix({1, 0, 0, 1, 1, 1, 2, -1}, 2), at::tensor({-.9, .5, -1.05, -1.}, at::kDouble)}, "first");
  append(net, Elementwise{}, "relu");
  append(net, Linear{matrix({1, -1, 2, .5, -1, 1, 0, 1}, 4), at::tensor({-.5, -.2}, at::kDouble)}, "second");
  return net;
}

Network random_network(const std::vector<int64_t>& widths, Elementwise activation, uint64_t seed,
                       at::ScalarType type = at::kDouble) {
  Random random(seed);
  return to(multilayer_perceptron(widths, activation, random), type);
}

at::Tensor points(int64_t count, int64_t dimensions, uint64_t seed, at::ScalarType type = at::kDouble) {
  Random random(seed);
  return normal_tensor({count, dimensions}, 1, random).to(type);
}

Linear& linear(Network& net, size_t node) { return std::get<Linear>(net.nodes[node].operation); }

void expect_equal(const LocalComplexity& a, const LocalComplexity& b) {
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) {
    EXPECT_EQ(a.layers[i].name, b.layers[i].name);
    EXPECT_EQ(a.layers[i].neurons, b.layers[i].neurons);
    EXPECT_EQ(list(a.layers[i].crossings), list(b.layers[i].crossings)) << a.layers[i].name;
  }
}

TEST(LocalComplexityFrame, IsOrthonormalAndTheQrFactor) {
  for (const auto& [d, p] : {std::pair<int64_t, int64_t>{1, 1}, {7, 7}, {50, 33}, {784, 25}}) {
    const auto v = orthoplex_frame(d, p, 3);
    EXPECT_LT((at::mm(v, v.t()) - at::eye(p, at::kDouble)).abs().max().item<double>(), 1e-12);
    // The same numbers through LAPACK's QR, with a positive diagonal.
    Random random(3);
    auto a = at::empty({p, d}, at::kDouble);
    for (int64_t i = 0; i < a.numel(); ++i) a.view(-1)[i] = random.normal();
    const auto [q, r] = at::linalg_qr(a.t());
    const auto expected = (q * r.diagonal().sign()).t();
    EXPECT_LT((v - expected).abs().max().item<double>(), 1e-9) << d << " " << p;
  }
}

TEST(LocalComplexityFrame, RowsDoNotDependOnTheirNumberAndFloatIsEnough) {
  const auto v = orthoplex_frame(100, 40, 5);
  EXPECT_TRUE(at::allclose(v.narrow(0, 0, 9), orthoplex_frame(100, 9, 5), 0, 1e-12));
  EXPECT_FALSE(at::allclose(v, orthoplex_frame(100, 40, 6), 0, 1e-3));
  const auto wide = orthoplex_frame(600000, 3, 5, at::kFloat);  // more columns than one chunk
  const auto exact = wide.to(at::kDouble);
  EXPECT_LT((at::mm(exact, exact.t()) - at::eye(3)).abs().max().item<double>(), 1e-6);
  const auto square = orthoplex_frame(64, 64, 2, at::kFloat);
  EXPECT_LT((at::mm(square, square.t()) - at::eye(64)).abs().max().item<double>(), 1e-6);
  const auto unit = random_directions(5, 9, 1);
  EXPECT_TRUE(at::allclose(unit.norm(2, {1}), at::ones({9}, at::kDouble)));
  EXPECT_THROW(orthoplex_frame(3, 4, 0), Error);
  EXPECT_THROW(orthoplex_frame(3, 0, 0), Error);
  EXPECT_THROW(orthoplex_frame(3, 1, 0, at::kInt), Error);
}

// Worked out in Python from the generator's definition, by Gram and Schmidt.
TEST(LocalComplexityFrame, IsTheSameEverywhere) {
  const auto expected = matrix({-0.011324990529445, -0.241083040616813, 0.970438412325306, -0.498641955077500,
                                0.842581522585743, 0.203500806960512},
                               3);
  EXPECT_LT((orthoplex_frame(3, 2, 0) - expected).abs().max().item<double>(), 1e-14);
}

TEST(LocalComplexity, WorkedExample) {
  const auto x = matrix({1, 0}, 2), identity = at::eye(2, at::kDouble), turned = matrix({.6, .8, -.8, .6}, 2);
  const auto net = example();
  const auto first = [&](double r, const at::Tensor& frame) {
    const auto lc = local_complexity(net, x, frame, {.radius = r});
    EXPECT_EQ(lc.layers.size(), 1U);
    EXPECT_EQ(lc.layers[0].neurons, 4);
    expect_equal(lc, local_complexity_naive(net, x, frame, {.radius = r}));
    return lc.mean();
  };
  EXPECT_EQ(first(.2, identity), 2);
  EXPECT_EQ(first(.6, identity), 4);
  EXPECT_EQ(first(.6, turned), 3);
  for (const auto& lc : {local_complexity(net, x, identity, {.radius = .2, .include_output = true}),
                         local_complexity_naive(net, x, identity, {.radius = .2, .include_output = true})}) {
    ASSERT_EQ(lc.layers.size(), 2U);
    EXPECT_EQ(lc.layers[1].name, "second");
    EXPECT_EQ(list(lc.layers[1].crossings), (std::vector<int64_t>{1}));
    EXPECT_EQ(list(lc.total()), (std::vector<int64_t>{3}));
    EXPECT_EQ(lc.layers[0].fraction(), .5);
  }
}

// The fused kernel against the definition, in float64, where no rounding decides: all its paths, at radii from hardly
// any crossings to nearly all.
TEST(LocalComplexity, KernelIsTheDefinition) {
  const std::vector<std::vector<int64_t>> shapes = {{6, 5}, {9, 33, 3}, {12, 40, 17, 29, 4}, {20, 64, 64, 64, 10}};
  for (const Elementwise activation :
       {Elementwise{Activation::Relu}, Elementwise{Activation::LeakyRelu, .1}, Elementwise{Activation::LeakyRelu, -.3},
        Elementwise{Activation::Identity}, Elementwise{Activation::Gelu}, Elementwise{Activation::Tanh}}) {
    for (const auto& widths : shapes) {
      const auto net = random_network(widths, activation, widths.size());
      const auto x = points(37, widths[0], 7);
      for (const int64_t p : {int64_t{1}, widths[0] / 2, widths[0]}) {
        const auto frame = orthoplex_frame(widths[0], p, 11);
        for (const double r : {1e-4, .02, .1, .3, 1., 5.}) {
          for (const bool centre : {false, true}) {
            SCOPED_TRACE(fmt::format("{} {} P {} r {} {}", name_of(activation.function), widths.size(), p, r, centre));
            const LocalComplexityOptions options{.radius = r, .include_output = true, .include_centre = centre};
            expect_equal(local_complexity(net, x, frame, options), local_complexity_naive(net, x, frame, options));
          }
        }
      }
    }
  }
}

TEST(LocalComplexity, FloatAgreesUpToTies) {
  const auto net = random_network({50, 120, 120, 120, 10}, {Activation::Relu}, 3, at::kFloat);
  const auto x = points(200, 50, 4, at::kFloat), frame = orthoplex_frame(50, 20, 5);
  for (const double r : {.01, .1, 1.}) {
    const auto fused = local_complexity(net, x, frame, {.radius = r, .include_output = true});
    const auto exact =
        local_complexity_naive(to(net, at::kDouble), x.to(at::kDouble), frame, {.radius = r, .include_output = true});
    for (size_t i = 0; i < fused.layers.size(); ++i) {
      const auto wrong = (fused.layers[i].crossings - exact.layers[i].crossings).abs().sum().item<int64_t>();
      EXPECT_LE(wrong, 4) << "of " << 200 * fused.layers[i].neurons << " at r " << r;
    }
  }
}

TEST(LocalComplexity, BlocksOfVerticesAreTheDefinition) {
  Random random(1);
  Network net;  // a residual block: not a chain
  const int h = append(net, Linear{normal_tensor({12, 8}, .5, random), normal_tensor({12}, .5, random)}, "in");
  const int a = append(net, Elementwise{Activation::Gelu}, "gelu");
  const int b = append(net, Linear{normal_tensor({12, 12}, .5, random), normal_tensor({12}, .5, random)}, "inner", {a});
  append(net, Addition{}, "sum", {h, b});
  append(net, Elementwise{}, "relu");
  append(net, Linear{normal_tensor({3, 12}, .5, random), normal_tensor({3}, .5, random)}, "out");
  net = to(net, at::kDouble);
  const auto x = points(23, 8, 2), frame = orthoplex_frame(8, 5, 3);
  const LocalComplexityOptions whole{.radius = .2, .include_output = true, .include_centre = true};
  const auto expected = local_complexity_naive(net, x, frame, whole);
  ASSERT_EQ(expected.layers.size(), 3U);
  EXPECT_EQ(expected.layers[1].name, "sum");
  for (const int64_t rows : {1, 3, 11, 25, 60, 1000}) {
    auto options = whole;
    options.vertices_at_once = rows;
    expect_equal(local_complexity(net, x, frame, options), expected);
  }
  auto named = whole;
  named.layers = {"inner", "in"}, named.include_output = false;
  const auto two = local_complexity(net, x, frame, named);
  ASSERT_EQ(two.layers.size(), 2U);
  EXPECT_EQ(two.layers[0].name, "in");
  EXPECT_EQ(two.layers[1].name, "inner");
  expect_equal(two, local_complexity_naive(net, x, frame, named));
}

TEST(LocalComplexity, FirstLayerIsTheExactTestAndGrowsWithTheRadius) {
  auto net = random_network({10, 60, 5}, {Activation::Relu}, 1);
  const auto x = points(50, 10, 2), frame = orthoplex_frame(10, 6, 3);
  const auto w = linear(net, 0).weight, z = at::linear(x, w, linear(net, 0).bias).abs();
  auto before = at::zeros({50}, at::kLong);
  for (const double r : {.01, .1, .5, 2.}) {
    const auto crossings = local_complexity(net, x, frame, {.radius = r}).layers[0].crossings;
    EXPECT_EQ(list(crossings), list((z < r * at::mm(frame, w.t()).abs().amax(0)).sum(1)));
    EXPECT_TRUE((crossings <= (z < r * w.norm(2, {1})).sum(1)).all().item<bool>());  // the ball contains the orthoplex
    EXPECT_TRUE((crossings >= before).all().item<bool>());
    before = crossings;
  }
  EXPECT_EQ(local_complexity(net, x, frame, {.radius = 1e-9}).mean(), 0);
  linear(net, 0).weight[4].zero_();  // never crossed, as V w = 0
  const auto all = local_complexity(net, x, frame, {.radius = 1e9}).layers[0].crossings;
  EXPECT_EQ(list(all), std::vector<int64_t>(50, 59));
}

TEST(LocalComplexity, Invariances) {
  const auto net = random_network({9, 31, 22, 4}, {Activation::Relu}, 1);
  const auto x = points(30, 9, 2), frame = orthoplex_frame(9, 5, 3);
  const LocalComplexityOptions options{.radius = .3, .include_output = true};
  const auto expected = local_complexity(net, x, frame, options);
  Random random(4);
  const auto same = [&](const Network& other, const at::Tensor& probes, const at::Tensor& directions) {
    expect_equal(local_complexity(other, probes, directions, options), expected);
  };
  {
    SCOPED_TRACE("neurons permuted");
    auto other = net;
    const auto order = at::tensor([] {
      std::vector<int64_t> all(31);
      for (int64_t i = 0; i < 31; ++i) all[i] = 30 - i;
      return all;
    }());
    linear(other, 0) = {linear(other, 0).weight.index_select(0, order), linear(other, 0).bias.index_select(0, order)};
    linear(other, 2).weight = linear(other, 2).weight.index_select(1, order);
    same(other, x, frame);
  }
  {
    SCOPED_TRACE("a layer scaled and the next one back");
    auto other = net;
    linear(other, 0) = {linear(other, 0).weight * 4, linear(other, 0).bias * 4};
    linear(other, 2).weight = linear(other, 2).weight / 4;
    same(other, x, frame);
  }
  {
    SCOPED_TRACE("inputs shifted");
    auto other = net;
    const auto shift = normal_tensor({9}, 1, random).to(at::kDouble);
    linear(other, 0).bias = linear(other, 0).bias - at::mv(linear(other, 0).weight, shift);
    same(other, x + shift, frame);
  }
  {
    SCOPED_TRACE("directions in another order, and turned round");
    same(net, x, -frame.flip(0));
  }
  {
    SCOPED_TRACE("inputs rotated");
    auto other = net;
    const auto q = orthoplex_frame(9, 9, 8);
    linear(other, 0).weight = at::mm(linear(other, 0).weight, q.t());
    same(other, at::mm(x, q.t()), at::mm(frame, q.t()));
  }
  {
    SCOPED_TRACE("points in another order");
    EXPECT_EQ(list(local_complexity(net, x.flip(0), frame, options).total()), list(expected.total().flip(0)));
  }
}

TEST(LocalComplexity, CentreOnlyAdds) {
  const auto net = random_network({6, 40, 40, 40, 4}, {Activation::Relu}, 1);
  const auto x = points(200, 6, 2), frame = orthoplex_frame(6, 6, 3);
  bool more = false;
  for (const double r : {.1, .5, 2.}) {
    const auto without = local_complexity(net, x, frame, {.radius = r}).total();
    const auto with = local_complexity(net, x, frame, {.radius = r, .include_centre = true}).total();
    EXPECT_TRUE((with >= without).all().item<bool>());
    more = more || (with > without).any().item<bool>();
  }
  EXPECT_TRUE(more);
}

TEST(LocalComplexity, DeepLinearNetworkHasComposedWeights) {
  auto net = random_network({8, 20, 20, 20}, {Activation::Identity}, 1);
  append(net, Elementwise{Activation::Identity}, "last");
  const auto x = points(40, 8, 2), frame = orthoplex_frame(8, 4, 3);
  const auto lc = local_complexity(net, x, frame, {.radius = .4});
  ASSERT_EQ(lc.layers.size(), 3U);
  auto w = at::eye(8, at::kDouble), z = x;
  for (size_t i = 0; i < 3; ++i) {
    z = linear(net, 2 * i)(z), w = at::mm(linear(net, 2 * i).weight, w);
    EXPECT_EQ(list(lc.layers[i].crossings), list((z.abs() < .4 * at::mm(frame, w.t()).abs().amax(0)).sum(1)));
  }
}

TEST(LocalComplexity, ConvolutionIsItsMatrix) {
  Random random(5);
  const auto kernel = normal_tensor({3, 2, 3, 3}, .5, random).to(at::kDouble);
  const auto bias = normal_tensor({3}, .5, random).to(at::kDouble);
  const auto head = normal_tensor({7, 3 * 5 * 4}, .3, random).to(at::kDouble);
  const auto shift = normal_tensor({7}, .3, random).to(at::kDouble);
  Network convolution, dense;
  append(convolution, Convolution{kernel, bias, {1, 1}, {1, 1}, {1, 1}, {0, 0}}, "layer");
  append(convolution, Elementwise{}, "relu");
  append(convolution, Reshape{{-1}}, "flat");
  append(convolution, Linear{head, shift}, "head");
  const auto units = at::eye(40, at::kDouble).view({40, 2, 5, 4});
  const auto w = at::conv2d(units, kernel, {}, 1, 1).reshape({40, 60}).t();
  append(dense, Reshape{{-1}}, "flat");
  append(dense, Linear{w, bias.view({3, 1}).expand({3, 20}).reshape(-1)}, "layer");
  append(dense, Elementwise{}, "relu");
  append(dense, Linear{head, shift}, "head");
  const auto x = points(20, 40, 6).view({20, 2, 5, 4}), frame = orthoplex_frame(40, 8, 7);
  const LocalComplexityOptions options{.radius = .3, .include_output = true};
  const auto of_convolution = local_complexity(convolution, x, frame, options);
  EXPECT_EQ(of_convolution.layers[0].neurons, 60);
  expect_equal(of_convolution, local_complexity(dense, x, frame, options));
  expect_equal(of_convolution, local_complexity_naive(convolution, x, frame, options));
}

// A file's scalars are float64, whatever the network is.
TEST(LocalComplexity, AScalarFirstDoesNotSetTheType) {
  const auto scaled = [](at::ScalarType type) {
    Network net;
    append(net, ChannelAffine{at::scalar_tensor(2., type), at::scalar_tensor(0., type)}, "twice");
    for (const auto& node : random_network({6, 20, 3}, {Activation::Relu}, 1, at::kFloat).nodes)
      append(net, node.operation, node.name);
    return net;
  };
  const auto x = points(9, 6, 2, at::kFloat), frame = orthoplex_frame(6, 4, 3);
  expect_equal(local_complexity(scaled(at::kDouble), x, frame, {.radius = .2}),
               local_complexity(scaled(at::kFloat), x, frame, {.radius = .2}));
}

TEST(LocalComplexity, NothingIsCrossedInAZeroNetwork) {
  auto net = random_network({4, 8, 8, 2}, {Activation::Relu}, 1);
  for (const auto& p : parameters(net)) p.tensor->zero_();
  for (const bool centre : {false, true})
    EXPECT_EQ(local_complexity(net, points(9, 4, 2), orthoplex_frame(4, 2, 1),
                               {.radius = 1, .include_output = true, .include_centre = centre})
                  .mean(),
              0);
}

TEST(LocalComplexity, WarnsOutsideItsRange) {
  const auto net = random_network({6, 50, 50, 2}, {Activation::Relu}, 1);
  const auto x = points(20, 6, 2), frame = orthoplex_frame(6, 6, 1);
  EXPECT_EQ(local_complexity(net, x, frame, {.radius = .3}).warnings().size(), 0U);
  EXPECT_THAT(local_complexity(net, x, frame, {.radius = 1e-7}).warnings(),
              testing::ElementsAre(testing::HasSubstr("larger"), testing::HasSubstr("larger")));
  EXPECT_THAT(local_complexity(net, x, frame, {.radius = 1e3}).warnings(),
              testing::Contains(testing::HasSubstr("smaller")));
}

TEST(LocalComplexity, RefusesBadInput) {
  const auto net = random_network({4, 8, 2}, {Activation::Relu}, 1);
  const auto x = points(5, 4, 2), frame = orthoplex_frame(4, 2, 1);
  const auto says = [&](const std::string& part, const Network& n, const at::Tensor& probes, const at::Tensor& f,
                        const LocalComplexityOptions& options = {}) {
    EXPECT_THAT(error_message([&] { local_complexity(n, probes, f, options); }), testing::HasSubstr(part));
  };
  for (const double r : {0., -1., double(NAN), double(INFINITY)}) says("radius", net, x, frame, {.radius = r});
  says("hold no point", net, x.narrow(0, 0, 0), frame);
  says("floating-point", net, x.to(at::kLong), frame);
  says("not finite, the first (NaN)", net, at::full({5, 4}, NAN, at::kDouble), frame);
  says("expected [directions, 4]", net, x, orthoplex_frame(5, 2, 1));
  says("no layer 'nowhere'", net, x, frame, {.layers = {"nowhere"}});
  Network linear_only;
  append(linear_only, Linear{at::ones({2, 4}, at::kDouble), at::zeros({2}, at::kDouble)}, "only");
  says("no activation", linear_only, x, frame);
  EXPECT_EQ(local_complexity(linear_only, x, frame, {.include_output = true}).layers.size(), 1U);

  auto overflowing = random_network({4, 8, 8, 2}, {Activation::Relu}, 1);
  linear(overflowing, 2).weight.fill_(1e308);
  linear(overflowing, 0).weight.fill_(1), linear(overflowing, 0).bias.fill_(1e6);
  EXPECT_THAT(error_message([&] { local_complexity(overflowing, x, frame); }, ErrorKind::Computation),
              testing::HasSubstr("layer 'layer2' has values that are not finite"));
}

}  // namespace
}  // namespace unbend
