#include "unbend/tangent/regions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"

namespace unbend {
namespace {

Slice plane() {
  return {at::zeros({2}, at::kDouble), at::tensor({1., 0.}, at::kDouble), at::tensor({0., 1.}, at::kDouble), {}, 1};
}

Network random_network(const std::vector<int64_t>& widths, Elementwise activation, uint64_t seed) {
  Random random(seed);
  auto net = multilayer_perceptron(widths, activation, random);
  for (const auto& p : parameters(net)) p.tensor->mul_(2);
  return to(net, at::kDouble);
}

Point random_inside(const std::vector<Point>& polygon, Random& random) {
  double total = 0;
  Point sum{0, 0};
  for (const auto& p : polygon) {
    const double w = -std::log1p(-random.uniform());
    sum.x += w * p.x, sum.y += w * p.y, total += w;
  }
  return {sum.x / total, sum.y / total};
}

// The polygons tile the square, are convex, and the network is its map in each.
void expect_exact(const LinearRegions& regions, const Network& net) {
  double sum = 0;
  for (const auto& polygon : regions.polygons) {
    ASSERT_GE(polygon.size(), 3U);
    EXPECT_GE(area(polygon), 0);
    sum += area(polygon);
  }
  EXPECT_NEAR(sum, 4, 1e-9);
  Random random(9);
  std::vector<at::Tensor> inputs, expected;
  for (int64_t r = 0; r < regions.count(); ++r) {
    for (int i = 0; i < 3; ++i) {
      const auto p = random_inside(regions.polygons[r], random);
      inputs.push_back(regions.slice.input(p));
      const auto m = regions.maps[r];
      expected.push_back(m.select(1, 0) + p.x * m.select(1, 1) + p.y * m.select(1, 2));
    }
  }
  const auto out = to(net, at::kDouble)(at::stack(inputs));
  EXPECT_LT((out.flatten(1) - at::stack(expected)).abs().max().item<double>(), 1e-9);
}

TEST(LinearRegions, LinesInGeneralPosition) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const auto net = random_network({2, 14, 3}, {}, seed);
    const auto w = std::get<Linear>(net.nodes[0].operation).weight;
    const auto b = std::get<Linear>(net.nodes[0].operation).bias;
    const auto z = [&](int64_t i, double x, double y) { return (w[i][0] * x + w[i][1] * y + b[i]).item<double>(); };
    // 1 + lines through the square + their crossings inside it.
    int64_t expected = 1;
    for (int64_t i = 0; i < 14; ++i) {
      bool above = false, below = false;
      for (const double x : {-1., 1.})
        for (const double y : {-1., 1.}) (z(i, x, y) > 0 ? above : below) = true;
      expected += above && below ? 1 : 0;
      for (int64_t j = 0; j < i; ++j) {
        const auto p = at::linalg_solve(at::stack({w[i], w[j]}), -at::stack({b[i], b[j]}));
        expected += p.abs().max().item<double>() < 1 ? 1 : 0;
      }
    }
    const auto regions = linear_regions(net, plane());
    EXPECT_EQ(regions.count(), expected);
    EXPECT_GT(expected, 20);
    expect_exact(regions, net);
  }
}

// Two folds that cross, and both coordinate axes after them: worked out by hand.
TEST(LinearRegions, AbsoluteValues) {
  Network net;  // |x| + |y| - 1/2
  const auto w = at::tensor({1., 0., -1., 0., 0., 1., 0., -1.}, at::kDouble).view({4, 2});
  append(net, Linear{w, at::zeros({4}, at::kDouble)}, "folds");
  append(net, Elementwise{}, "relu");
  append(net, Linear{at::ones({1, 4}, at::kDouble), at::full({1}, -.5, at::kDouble)}, "sum");
  const auto regions = linear_regions(net, plane());
  EXPECT_EQ(regions.count(), 4);
  expect_exact(regions, net);
  const auto diamond = decision_boundary(regions);
  EXPECT_EQ(diamond.size(), 4U);
  EXPECT_NEAR(length(diamond), 4 * std::sqrt(.5), 1e-12);
  EXPECT_EQ(regions_near(regions, {.5, .5}, .4), 1);
  EXPECT_EQ(regions_near(regions, {.5, .1}, .2), 2);
  EXPECT_EQ(regions_near(regions, {0, 0}, .1), 4);
}

TEST(LinearRegions, DeepAndLeaky) {
  for (const Elementwise activation : {Elementwise{}, Elementwise{Activation::LeakyRelu, .1}}) {
    const auto net = random_network({2, 20, 15, 10, 4}, activation, 3);
    const auto regions = linear_regions(net, plane());
    EXPECT_GT(regions.count(), 100);
    expect_exact(regions, net);
  }
  const auto linear = random_network({2, 5, 3}, {Activation::Identity}, 1);
  EXPECT_EQ(linear_regions(linear, plane()).count(), 1);
}

TEST(LinearRegions, ConvolutionsAndResidualConnections) {
  Random random(5);
  Network net;
  const int c = append(
      net,
      Convolution{
          normal_tensor({3, 1, 3, 3}, .5, random), normal_tensor({3}, .3, random), {1, 1}, {1, 1}, {1, 1}, {0, 0}},
      "conv");
  append(net, ChannelAffine{uniform_tensor({3}, 1, random) + 2, normal_tensor({3}, .3, random)}, "norm");
  const int r = append(net, Elementwise{}, "relu");
  append(net, Addition{}, "sum", {r, c});
  append(net, Pooling{false, {2, 2}, {2, 2}}, "average");
  append(net, Elementwise{Activation::LeakyRelu, .2}, "leaky");
  append(net, Reshape{{-1}}, "flat");
  append(net, Linear{normal_tensor({5, 12}, .5, random), normal_tensor({5}, .3, random)}, "head");
  const auto slice = slice_through(normal_tensor({3, 1, 4, 4}, 1, random));
  const auto regions = linear_regions(net, slice);
  EXPECT_GT(regions.count(), 50);
  expect_exact(regions, net);
}

TEST(LinearRegions, SliceGoesThroughItsPoints) {
  Random random(1);
  const auto points = normal_tensor({3, 7}, 1, random);
  const auto slice = slice_through(points);
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_LT((slice.input(slice.marks[i]) - points[i]).abs().max().item<double>(), 1e-6);
    EXPECT_LT(std::abs(slice.marks[i].x), 1);
    EXPECT_LT(std::abs(slice.marks[i].y), 1);
  }
  EXPECT_NEAR((slice.across * slice.up).sum().item<double>(), 0, 1e-12);
  EXPECT_NEAR(slice.across.norm().item<double>(), slice.unit, 1e-12);
  EXPECT_NEAR(slice.up.norm().item<double>(), slice.unit, 1e-12);
}

TEST(LinearRegions, BoundaryIsWhereTheTwoLargestAreEqual) {
  size_t segments = 0;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    auto net = random_network({2, 16, 12, 4}, {}, seed);
    auto& last = std::get<Linear>(net.nodes.back().operation);
    last.bias = last.bias - net(at::zeros({1, 2}, at::kDouble))[0];  // all classes meet in the middle
    const auto regions = linear_regions(net, plane());
    const auto boundary = decision_boundary(regions);
    segments += boundary.size();
    ASSERT_FALSE(boundary.empty());
    std::vector<at::Tensor> middles;
    for (const auto& s : boundary)
      middles.push_back(regions.slice.input({(s.from.x + s.to.x) / 2, (s.from.y + s.to.y) / 2}));
    const auto outputs = net(at::stack(middles));
    const auto top = std::get<0>(at::topk(outputs, 2, 1));
    EXPECT_LT((top.select(1, 0) - top.select(1, 1)).abs().max().item<double>(), 1e-9);
    for (size_t i = 0; i < boundary.size(); ++i)
      EXPECT_NEAR(outputs[static_cast<int64_t>(i)][boundary[i].first].item<double>(),
                  top[static_cast<int64_t>(i)][0].item<double>(), 1e-9);

    // Along a line, the class changes exactly as often as the line crosses the boundary.
    for (const double y : {-.613, .137, .411}) {
      int64_t crossings = 0;
      for (const auto& s : boundary) crossings += (s.from.y - y) * (s.to.y - y) < 0 ? 1 : 0;
      const auto x = at::linspace(-1, 1, 100001, at::kDouble);
      const auto classes = net(at::stack({x, at::full_like(x, y)}, 1)).argmax(1);
      EXPECT_EQ(crossings, (classes.slice(0, 1) != classes.slice(0, 0, -1)).sum().item<int64_t>());
    }
  }
  EXPECT_GT(segments, 20U);
}

TEST(LinearRegions, Draws) {
  const auto net = random_network({2, 8, 3}, {}, 2);
  auto slice = plane();
  slice.marks = {{0, 0}, {.5, .5}, {-.5, .5}};
  const auto regions = linear_regions(net, slice);
  const auto drawing = draw(regions, "Regions", {"a", "b", "c"});
  EXPECT_EQ(std::ssize(drawing.polygons), regions.count());
  EXPECT_EQ(drawing.lines.size(), decision_boundary(regions).size());
  EXPECT_EQ(drawing.marks.size(), 3U);
  EXPECT_GE(drawing.legend.size(), 1U);
  EXPECT_THROW(draw(regions, "Regions", {"a"}), Error);
}

TEST(LinearRegions, RefusesBadInput) {
  const auto says = [](const std::string& part, const auto& action, ErrorKind kind = ErrorKind::Input) {
    EXPECT_THAT(error_message(action, kind), testing::HasSubstr(part));
  };
  says("smooth (gelu)", [] { linear_regions(random_network({2, 3, 2}, {Activation::Gelu}, 1), plane()); });
  says("'norm' is neither", [] {
    auto net = random_network({2, 3, 2}, {}, 1);
    append(net, make_layer_norm(2), "norm");
    linear_regions(net, plane());
  });
  says(
      "more than 10",
      [] {
        linear_regions(random_network({2, 30, 2}, {}, 1), plane(), 10);
      },
      ErrorKind::Computation);
  says("'layer1' does not take [3, 2]", [] { linear_regions(random_network({3, 3, 2}, {}, 1), plane()); });
  says("on one line", [] { slice_through(at::tensor({0., 0., 1., 1., 3., 3.}, at::kDouble).view({3, 2})); });
  says("equal", [] { slice_through(at::tensor({0., 0., 0., 0., 3., 3.}, at::kDouble).view({3, 2})); });
  says("expected [3, ..]", [] { slice_through(at::ones({4, 2})); });
  says("margin", [] { slice_through(at::eye(3), .5); });
}

}  // namespace
}  // namespace unbend
