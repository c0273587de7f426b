#include "unbend/nets/nbeats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/error.h"

namespace unbend::nbeats {
namespace {

using V = std::vector<double>;

struct Data {
  V x, mask, level;
  Windows<double> windows() const {
    return {static_cast<std::int64_t>(level.size()), x.data(), mask.data(), level.data()};
  }
};

Data random_data(std::int64_t batch, int lookback, Random& random) {
  Data d;
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto seen = lookback - static_cast<int>(random.below(static_cast<std::uint64_t>(lookback / 2 + 1)));
    for (int i = 0; i < lookback; ++i) d.mask.push_back(i < seen), d.x.push_back(i < seen ? random.normal() : 0);
    d.level.push_back(d.x[d.x.size() - static_cast<std::size_t>(lookback)]);
  }
  return d;
}

V random_double(const Layout& l, Random& random) {
  const auto w = random_weights(l, random);
  return {w.begin(), w.end()};
}

V run(const Layout& l, const V& weights, const Data& data) {
  Workspace<double> work;
  forward(l, weights.data(), data.windows(), work);
  return work.forecast;
}

std::vector<Config> configs() {
  auto mixed = interpretable(9, 6, 3, 2, 5, 7);
  mixed.stacks.push_back({Basis::Generic, 2, false, 2, 6});
  mixed.last_level = true;
  auto odd = interpretable(8, 5, 2, 1, 4, 4);
  odd.stacks[1].harmonics = 2, odd.stacks[0].degree = 3;
  return {generic(8, 3, 4, true, 3, 6), generic(8, 3, 3, false, 2, 6), mixed, odd};
}

TEST(NBeats, Bases) {
  const auto trend = layout({4, 4, {{Basis::Trend, 1, true, 1, 3}}});
  EXPECT_THAT(trend.sets[0].forecast_basis, testing::ElementsAre(1, 1, 1, 1, 0, .25, .5, .75, 0, .0625, .25, .5625));
  EXPECT_EQ(trend.sets[0].backcast_basis, trend.sets[0].forecast_basis);
  const auto seasons = [](int horizon, int harmonics = 1) {
    return layout({2 * horizon, horizon, {{Basis::Seasonality, 1, true, 1, 3, 2, harmonics}}});
  };
  EXPECT_EQ(seasons(6).sets[0].theta.out, 12);
  EXPECT_EQ(seasons(18).sets[0].forecast_size, 18);   // frequencies 0..8, cosines and sines
  EXPECT_EQ(seasons(5).sets[0].forecast_size, 6);     // 0, 1, 2
  EXPECT_EQ(seasons(5, 2).sets[0].forecast_size, 8);  // (0, 2, 3, 4) / 2
  const V expected{1, 1, 1, 1, 1, 0, -1, 0, 0, 0, 0, 0, 0, 1, 0, -1};
  const auto four = seasons(4).sets[0];
  for (std::size_t i = 0; i < 16; ++i) EXPECT_NEAR(four.forecast_basis[i], expected[i], 1e-15);
  for (std::size_t i = 0; i < 8; ++i)
    EXPECT_NEAR(four.backcast_basis[24 + i], -std::sin(std::acos(-1) / 2 * double(i)), 1e-14);
}

TEST(NBeats, OneGenericBlockIsAPlainPerceptron) {
  Random random(1);
  const auto l = layout(generic(5, 2, 1, true, 1, 4));
  const auto w = random_double(l, random);
  const auto data = random_data(3, 5, random);
  const auto y = run(l, w, data);
  for (std::size_t b = 0; b < 3; ++b) {
    for (std::size_t o = 0; o < 2; ++o) {
      double sum = w[l.sets[0].theta.bias + 5 + o];
      for (std::size_t h = 0; h < 4; ++h) {
        double z = w[l.sets[0].hidden[0].bias + h];
        for (std::size_t i = 0; i < 5; ++i) z += w[h * 5 + i] * data.x[b * 5 + i];
        sum += w[l.sets[0].theta.weight + (5 + o) * 4 + h] * std::max(z, 0.);
      }
      EXPECT_NEAR(y[b * 2 + o], sum, 1e-14);
    }
  }
}

TEST(NBeats, GradientsAgreeWithDifferences) {
  Random random(2);
  for (const auto& config : configs()) {
    const auto l = layout(config);
    auto w = random_double(l, random);
    const auto data = random_data(4, config.lookback, random);
    V d(static_cast<std::size_t>(4 * config.horizon));
    for (double& v : d) v = random.normal();
    const auto loss = [&] {
      const auto y = run(l, w, data);
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += d[i] * y[i];
      return sum;
    };
    Workspace<double> work;
    V gradient(l.parameters, NAN);
    forward(l, w.data(), data.windows(), work);
    backward(l, w.data(), data.windows(), d.data(), work, gradient.data());
    for (std::size_t i = 0; i < l.parameters; i += 3) {
      const double kept = w[i], step = 1e-6;
      w[i] = kept + step;
      const double up = loss();
      w[i] = kept - step;
      const double down = loss();
      w[i] = kept;
      EXPECT_NEAR(gradient[i], (up - down) / (2 * step), 1e-6 * std::max(1., std::abs(gradient[i])))
          << "parameter " << i;
    }
  }
}

TEST(NBeats, BlocksAddUpAndPaddingIsIgnored) {
  Random random(3);
  for (const auto& config : configs()) {
    const auto l = layout(config);
    const auto w = random_double(l, random);
    const auto data = random_data(5, config.lookback, random);
    Workspace<double> work;
    work.keep_blocks = true;
    forward(l, w.data(), data.windows(), work);
    const auto horizon = static_cast<std::size_t>(config.horizon);
    for (std::size_t i = 0; i < 5 * horizon; ++i) {
      double sum = config.last_level ? data.level[i / horizon] : 0;
      for (int r = 0; r < l.blocks; ++r) sum += work.block_forecasts[static_cast<std::size_t>(r) * 5 * horizon + i];
      EXPECT_NEAR(sum, work.forecast[i], 1e-12);
    }
    // Blocks that take nothing off and add nothing leave the level.
    EXPECT_EQ(run(l, V(l.parameters, 0), data), [&] {
      V level;
      for (std::size_t i = 0; i < 5 * horizon; ++i) level.push_back(config.last_level ? data.level[i / horizon] : 0);
      return level;
    }());
    // Each block sees only what the mask lets through: residuals are 0 where it is 0.
    for (const auto& set : work.sets) {
      for (std::size_t i = 0; i < set.stream.size(); ++i)
        EXPECT_TRUE(data.mask[i % data.mask.size()] == 1 || set.stream[i] == 0);
    }
  }
}

TEST(NBeats, FloatFollowsDoubleAndSharedBlocksAreEqualBlocks) {
  Random random(4);
  const auto shared = layout(generic(12, 4, 5, true, 3, 16)), separate = layout(generic(12, 4, 5, false, 3, 16));
  const auto w = random_weights(shared, random);
  std::vector<float> copies;
  for (int r = 0; r < 5; ++r) copies.insert(copies.end(), w.begin(), w.end());
  const auto data = random_data(7, 12, random);
  const std::vector<float> x(data.x.begin(), data.x.end()), mask(data.mask.begin(), data.mask.end()),
      level(data.level.begin(), data.level.end());
  const Windows<float> windows{7, x.data(), mask.data(), level.data()};
  Workspace<float> a, b;
  forward(shared, w.data(), windows, a);
  forward(separate, copies.data(), windows, b);
  const auto exact = run(shared, {w.begin(), w.end()}, data);
  const std::vector<float> d(a.forecast.size(), 1);
  std::vector<float> ga(shared.parameters), gb(separate.parameters);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    EXPECT_NEAR(a.forecast[i], exact[i], 1e-5);
    EXPECT_EQ(a.forecast[i], b.forecast[i]);
  }
  backward(shared, w.data(), windows, d.data(), a, ga.data());
  backward(separate, copies.data(), windows, d.data(), b, gb.data());
  for (std::size_t i = 0; i < shared.parameters; ++i) {
    float sum = 0;
    for (std::size_t r = 0; r < 5; ++r) sum += gb[r * shared.parameters + i];
    EXPECT_NEAR(ga[i], sum, 1e-4 * std::max(1.f, std::abs(sum)));
  }
}

TEST(NBeats, NamesSizesAndRefusals) {
  // methods/meta_forecast.md: 834,614 parameters per generic block at lookback 2 x 18.
  EXPECT_EQ(layout(generic(36, 18, 30, false, 4, 512)).parameters, 30u * 834614 + 30u * 0);
  const auto l = layout(interpretable(36, 18, 3, 4, 256, 2048));
  const auto all = parts(l);
  EXPECT_EQ(all.back().name, "stacks.1.blocks.0.theta.bias");
  EXPECT_EQ(all.back().at + 36, l.parameters);
  for (const auto& c : configs()) {
    const auto again = config_from_json(to_json(c), "test");
    EXPECT_EQ(to_json(again), to_json(c));
    EXPECT_EQ(layout(again).parameters, layout(c).parameters);
  }
  EXPECT_THROW(layout(generic(0, 3, 1, true, 1, 4)), Error);
  EXPECT_THROW(layout(generic(4, 3, 0, true, 1, 4)), Error);
  EXPECT_THROW(layout(generic(4, 3, 1, true, 1, 1 << 30)), Error);
  EXPECT_THROW(layout({4, 3, {}}), Error);
  EXPECT_THROW(layout({4, 1, {{Basis::Seasonality, 1, true, 1, 4}}}), Error);
  EXPECT_THROW(layout(generic(100001, 3, 1, true, 1, 4)), Error);
}

}  // namespace
}  // namespace unbend::nbeats
