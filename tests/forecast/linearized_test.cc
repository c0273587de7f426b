#include "unbend/forecast/linearized.h"

#include <gtest/gtest.h>

#include "unbend/base/error.h"

namespace unbend::forecast {
namespace {

at::Tensor numbers(std::vector<double> values) { return at::tensor(values, at::kDouble); }

at::Tensor random_weights(const nbeats::Layout& l, std::uint64_t seed) {
  Random random(seed);
  const auto w = nbeats::random_weights(l, random);
  return at::tensor(std::vector<double>(w.begin(), w.end()), at::kDouble);
}

// methods/meta_forecast.md, "Test oracles".
const std::vector<double> kW{.5, -.2, .1, .3, -.4, .6, .2, -.1, .3, .1, -.5, .2, .2, .2, .2, .2, -.1, .4, .3, -.6},
    kB{.1, .2, .3, .4, .5}, kG{1, -1, .5, .2, .3, .4, .3, -.2, .6, -.5, -.3, .2, .7, -.1, .4, .5, -.6, .1, .3, .2},
    kQ{.2, .1, -.3, .4, .5, -.1, .3, .2, .1, -.2};

at::Tensor oracle_weights(double scale) {
  std::vector<double> w(kW);
  w.insert(w.end(), kB.begin(), kB.end());
  for (const double g : kG) w.push_back(scale * g);
  w.insert(w.end(), kQ.begin(), kQ.end());
  w.insert(w.end(), 6, 0);
  return numbers(w);
}

TEST(InnerLoop, WorkedExample) {
  const auto l = nbeats::layout(nbeats::generic(4, 2, 4, true, 1, 5));
  const auto x = numbers({1, .8, .9, 1.1}), mask = at::ones({4}, at::kDouble);
  const auto loop = linearize_blocks(l, oracle_weights(.1), x, mask);
  EXPECT_TRUE(at::allclose(loop.sets[0].features, numbers({.86, .35, .45, 1.16, .33, 1}), 0, 1e-12));
  EXPECT_TRUE(at::allclose(loop.exact, numbers({2.72053548, .55715624}), 0, 1e-8));
  EXPECT_LT((loop.exact - loop.linear).abs().max().item<double>(), 1e-14);
  // The updated last layers give the same sum.
  auto sum = at::zeros({2}, at::kDouble);
  ASSERT_EQ(loop.updated.size(), 4u);
  for (const auto& q : loop.updated) sum = sum + q.mv(loop.sets[0].features);
  EXPECT_TRUE(at::allclose(sum, loop.linear, 0, 1e-14));
  EXPECT_GT(loop.spectral_radius, 0);
  // The backcast as an update of the first layer's bias: W (x - mu) + b = W x + (b - W mu).
  const auto w = numbers(kW).view({5, 4}), b = numbers(kB), mu = numbers({.3, -.1, .2, .5});
  EXPECT_TRUE(at::allclose(w.mv(x - mu) + b, w.mv(x) + (b - w.mv(mu)), 0, 1e-15));
}

TEST(InnerLoop, GapIsZeroUntilAUnitSwitches) {
  const auto l = nbeats::layout(nbeats::generic(4, 2, 4, true, 1, 5));
  const auto x = numbers({1, .8, .9, 1.1}), mask = at::ones({4}, at::kDouble);
  std::vector<double> gaps;
  for (const double scale : {.1, .2, .4, .8, 1.6, 3.2})
    gaps.push_back(linearize_blocks(l, oracle_weights(scale), x, mask).gap);
  EXPECT_LT(gaps[0], 1e-14);
  EXPECT_GT(gaps.back(), 1e-3);
  // With two hidden layers units switch earlier; the gap still falls at least as the square of the backcasts.
  const auto deep = nbeats::layout(nbeats::generic(6, 3, 5, true, 3, 12));
  const auto window = numbers({.9, 1, .8, .7, .9, .6}), all = at::ones({6}, at::kDouble);
  const auto gap = [&](double eps) {
    auto w = random_weights(deep, 5);
    const auto& theta = deep.sets[0].theta;
    w.narrow(0, static_cast<std::int64_t>(theta.weight), 6 * theta.in).mul_(eps);
    w.narrow(0, static_cast<std::int64_t>(theta.bias), 6).mul_(eps);
    return linearize_blocks(deep, w, window, all).gap;
  };
  EXPECT_LE(gap(.01), std::max(1e-14, gap(.1) / 100 * 1.5));
}

TEST(InnerLoop, DefinitionAgreesWithTheKernel) {
  auto mixed = nbeats::interpretable(10, 4, 3, 2, 5, 7);
  mixed.stacks.push_back({nbeats::Basis::Generic, 2, false, 2, 6});
  mixed.last_level = true;
  const auto l = nbeats::layout(mixed);
  const auto w = random_weights(l, 3);
  const auto mask = (at::arange(10) < 7).to(at::kDouble);
  const auto x = at::linspace(1, 2, 10, at::kDouble) * mask;
  nbeats::Workspace<double> work;
  const double level = x[0].item<double>();
  nbeats::forward(l, w.const_data_ptr<double>(), {1, x.const_data_ptr<double>(), mask.const_data_ptr<double>(), &level},
                  work);
  const auto kernel = at::tensor(work.forecast, at::kDouble);
  EXPECT_TRUE(at::allclose(forward_definition(l, w, x.unsqueeze(0), mask.unsqueeze(0))[0], kernel, 0, 1e-13));

  const auto loop = linearize_blocks(l, w, x, mask);
  EXPECT_TRUE(at::allclose(loop.exact, kernel, 0, 1e-13));
  EXPECT_TRUE(loop.updated.empty());
  // Weights of the past against differences; none beyond the mask.
  EXPECT_EQ(loop.weights_of_past.narrow(1, 7, 3).abs().max().item<double>(), 0);
  for (std::int64_t i = 0; i < 7; ++i) {
    auto up = x.clone(), down = x.clone();
    up[i] += 1e-6, down[i] -= 1e-6;
    const auto difference = (forward_definition(l, w, up.unsqueeze(0), mask.unsqueeze(0)) -
                             forward_definition(l, w, down.unsqueeze(0), mask.unsqueeze(0)))[0] /
                            2e-6;
    EXPECT_TRUE(at::allclose(difference, loop.weights_of_past.select(1, i), 1e-6, 1e-7));
  }
  EXPECT_THROW(linearize_blocks(l, w, x.to(at::kFloat), mask), Error);
  EXPECT_THROW(linearize_blocks(l, w, x.narrow(0, 0, 5), mask.narrow(0, 0, 5)), Error);
}

}  // namespace
}  // namespace unbend::forecast
