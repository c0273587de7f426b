// Attention on grids of tokens and its block, against their definitions (methods/soft.md, section 7).
#include "unbend/nets/grid_attention.h"

#include <gmock/gmock.h>
#include <torch/types.h>

#include <cmath>
#include <functional>

#include "tests/error_message.h"

namespace unbend {
namespace {

using testing::HasSubstr;

at::Tensor random(at::IntArrayRef sizes, uint64_t seed) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kDouble));
}

double difference(const at::Tensor& x, const at::Tensor& y) {
  EXPECT_EQ(x.sizes(), y.sizes());
  return ((x - y).abs().max() / y.abs().max().clamp_min(1)).item<double>();
}

// Weights that matter, in float64: the small ones of a fresh layer would hide mistakes.
template <class Layer>
Layer shaken(Layer layer, uint64_t seed = 100) {
  std::vector<Parameter> all;
  collect("", layer, all);
  for (const auto& p : all) *p.tensor = random(p.tensor->sizes(), seed++) * .4;
  return layer;
}

GridAttention attention(const GridAttentionConfig& config) {
  Random seeds(1);
  return shaken(make_grid_attention(config, seeds));
}

constexpr Grid kGrid{6, 4};
constexpr int64_t kHeads = 3, kWidth = 12, kHeadWidth = 4;

GridAttentionConfig config_of(TokenMixing mixing, int64_t filter = 3) {
  GridAttentionConfig config{.width = kWidth, .heads = kHeads};
  config.mixing = mixing, config.value_filter = filter;
  return config;
}

// One head's filter at every token, by its definition: zeros beyond the border.
at::Tensor filtered(const at::Tensor& values, const at::Tensor& filter) {
  const int64_t side = filter.size(2), reach = side / 2;
  auto out = at::zeros_like(values);
  for (int64_t y = 0; y < kGrid.height; ++y) {
    for (int64_t x = 0; x < kGrid.width; ++x) {
      for (int64_t i = -reach; i <= reach; ++i) {
        for (int64_t j = -reach; j <= reach; ++j) {
          if (y + i < 0 || y + i >= kGrid.height || x + j < 0 || x + j >= kGrid.width) continue;
          for (int64_t h = 0; h < kHeads; ++h) {
            out.select(1, h).select(1, y * kGrid.width + x) +=
                filter[h][0][i + reach][j + reach] * values.select(1, h).select(1, (y + i) * kGrid.width + x + j);
          }
        }
      }
    }
  }
  return out;
}

// The layer with `mix` [B, H, n, n] from queries and keys [B, H, n, d].
at::Tensor definition(const GridAttention& layer, const at::Tensor& x,
                      const std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k)>& mix) {
  const auto heads = [&](const Linear& p) {
    return (at::matmul(x, p.weight.t()) + p.bias).view({x.size(0), x.size(1), kHeads, kHeadWidth}).transpose(1, 2);
  };
  const auto v = heads(layer.v);
  auto out = at::zeros_like(v);
  if (mix) out = at::matmul(mix(heads(layer.q), layer.k.weight.defined() ? heads(layer.k) : at::Tensor()), v);
  if (layer.value_filter.defined()) out = out + filtered(v, layer.value_filter);
  return at::matmul(out.transpose(1, 2).reshape(x.sizes()), layer.output.weight.t()) + layer.output.bias;
}

TEST(GridAttention, SoftEqualsItsDefinition) {
  const auto x = random({2, kGrid.tokens(), kWidth}, 1);
  for (const bool normalize : {false, true}) {
    for (const auto sampling : {LandmarkSampling::Convolution, LandmarkSampling::Mean, LandmarkSampling::Random}) {
      for (const int64_t side : {0, 3, 5}) {
        auto config = config_of(TokenMixing::Soft, side);
        config.sampling = sampling;
        config.soft.normalize = normalize;
        config.soft.inverse.tolerance = 0;
        const auto layer = attention(config);
        const auto expected = definition(layer, x, [&](const at::Tensor& q, const at::Tensor&) {
          const auto scaled = q / std::pow(static_cast<double>(kHeadWidth), .25);
          const auto landmarks =
              sampling == LandmarkSampling::Convolution ? convolved_landmarks(scaled, kGrid, layer.landmarks)
              : sampling == LandmarkSampling::Mean      ? mean_landmarks(scaled, kGrid, 2)
                                                        : random_landmarks(scaled, 6, Random(config.seed));
          return soft_matrix_naive(scaled, landmarks, config.soft);
        });
        EXPECT_LT(difference(layer(x, kGrid), expected), 1e-9);
      }
    }
  }
}

TEST(GridAttention, PeersEqualTheirDefinitions) {
  const auto x = random({2, kGrid.tokens(), kWidth}, 1);
  for (const int64_t side : {0, 3}) {
    const auto softmax = attention(config_of(TokenMixing::Softmax, side));
    EXPECT_LT(difference(softmax(x, kGrid), definition(softmax, x,
                                                       [](const at::Tensor& q, const at::Tensor& k) {
                                                         return at::softmax(at::matmul(q, k.transpose(2, 3)) /
                                                                                std::sqrt(1. * kHeadWidth),
                                                                            -1);
                                                       })),
              1e-12);
    const auto linear = attention(config_of(TokenMixing::Linear, side));
    EXPECT_LT(difference(linear(x, kGrid), definition(linear, x,
                                                      [](const at::Tensor& q, const at::Tensor& k) {
                                                        const auto weights = at::matmul(
                                                            at::elu(q) + 1, (at::elu(k) + 1).transpose(2, 3));
                                                        return weights / weights.sum(-1, true);
                                                      })),
              1e-12);
  }
  const auto none = attention(config_of(TokenMixing::None));
  EXPECT_LT(difference(none(x, kGrid), definition(none, x, {})), 1e-12);
  const auto nothing = attention(config_of(TokenMixing::None, 0));
  EXPECT_EQ(nothing(x, kGrid).abs().max().item<double>(), 0);
}

TEST(GridAttention, OnlyTheMixingsSeeFarTokens) {
  const auto x = random({1, kGrid.tokens(), kWidth}, 1);
  auto changed = x.clone();
  changed.select(1, kGrid.tokens() - 1) += 1;
  for (const auto mixing : {TokenMixing::Soft, TokenMixing::Softmax, TokenMixing::Linear, TokenMixing::None}) {
    const auto layer = attention(config_of(mixing));
    const double effect = (layer(changed, kGrid) - layer(x, kGrid)).select(1, 0).abs().max().item<double>();
    if (mixing == TokenMixing::None) {
      EXPECT_EQ(effect, 0);
    } else {
      EXPECT_GT(effect, 1e-9);
    }
  }
}

TEST(GridAttention, TellsTheResiduals) {
  const auto layer = attention(config_of(TokenMixing::Soft));
  std::vector<at::Tensor> residuals;
  layer(random({2, kGrid.tokens(), kWidth}, 1), kGrid, {.residuals = &residuals});
  ASSERT_EQ(residuals.size(), 1);
  EXPECT_EQ(residuals[0].sizes(), (std::vector<int64_t>{2, kHeads}));
}

TEST(GridBlock, EqualsItsDefinition) {
  const auto x = random({2, kGrid.tokens(), kWidth}, 1);
  const auto gelu_tanh = [](const at::Tensor& u) {
    return .5 * u * (1 + (std::sqrt(2 / M_PI) * (u + .044715 * u.pow(3))).tanh());
  };
  const auto gelu = [](const at::Tensor& u) { return .5 * u * (1 + (u / std::sqrt(2.)).erf()); };
  const auto norm = [](const at::Tensor& u, const LayerNorm& n) {
    const auto centred = u - u.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + n.eps).sqrt() * n.weight + n.bias;
  };
  const auto linear = [](const at::Tensor& u, const Linear& l) { return at::matmul(u, l.weight.t()) + l.bias; };
  Random seeds(1);
  const auto after = shaken(make_grid_block(config_of(TokenMixing::Soft), GridBlock::Norm::After, .3, seeds));
  const auto y = norm(x + after.attention(x, kGrid), after.attention_norm);
  EXPECT_LT(
      difference(after(x, kGrid), norm(y + linear(gelu_tanh(linear(y, after.up)), after.down), after.perceptron_norm)),
      1e-12);
  const auto before = shaken(make_grid_block(config_of(TokenMixing::Softmax, 0), GridBlock::Norm::Before, .3, seeds));
  const auto z = x + before.attention(norm(x, before.attention_norm), kGrid);
  EXPECT_LT(
      difference(before(x, kGrid), z + linear(gelu(linear(norm(z, before.perceptron_norm), before.up)), before.down)),
      1e-12);
}

TEST(GridBlock, GradientsEqualCentralDifferences) {
  for (const auto mixing : {TokenMixing::Soft, TokenMixing::Softmax, TokenMixing::Linear, TokenMixing::None}) {
    Random seeds(1);
    auto config = config_of(mixing);
    config.soft.normalize = true;
    config.soft.inverse.ridge = .1;  // so that Newton's steps converge, as its gradient assumes
    auto block = shaken(make_grid_block(config, GridBlock::Norm::After, 0, seeds));
    std::vector<Parameter> all;
    collect("", block, all);
    at::Tensor x = random({2, kGrid.tokens(), kWidth}, 1);
    all.push_back({"x", &x});
    const auto loss = [&] { return (block(x, kGrid) * random(x.sizes(), 2)).sum(); };
    std::vector<at::Tensor> leaves, directions;
    for (const auto& p : all) {
      p.tensor->requires_grad_(true);
      leaves.push_back(*p.tensor);
      directions.push_back(random(p.tensor->sizes(), 300 + leaves.size()));
    }
    const auto gradients = torch::autograd::grad({loss()}, leaves);
    for (size_t i = 0; i < all.size(); ++i) {
      const double h = 1e-6;
      const auto moved = [&](double step) {
        *all[i].tensor = leaves[i].detach() + step * directions[i];
        const double value = loss().item<double>();
        *all[i].tensor = leaves[i];
        return value;
      };
      const double measured = (moved(h) - moved(-h)) / (2 * h);
      EXPECT_NEAR((gradients[i] * directions[i]).sum().item<double>(), measured,
                  1e-5 * std::max(1., std::abs(measured)))
          << all[i].name;
    }
  }
}

TEST(GridBlock, DropsOnlyInTraining) {
  Random seeds(1);
  const auto x = random({64, kGrid.tokens(), kWidth}, 1);
  for (const auto norm : {GridBlock::Norm::After, GridBlock::Norm::Before}) {
    const auto block = shaken(make_grid_block(config_of(TokenMixing::None), norm, .5, seeds));
    const auto train = [&](uint64_t seed) {
      return block(x, kGrid, {.training = true, .generator = at::make_generator<at::CPUGeneratorImpl>(seed)});
    };
    EXPECT_TRUE(at::equal(train(1), train(1)));
    EXPECT_FALSE(at::equal(train(1), train(2)));
    EXPECT_TRUE(at::equal(block(x, kGrid), block(x, kGrid)));
    EXPECT_FALSE(at::equal(train(1), block(x, kGrid)));
    EXPECT_THAT(error_message([&] { block(x, kGrid, {.training = true}); }), HasSubstr("generator"));
  }
  // Elements on the one hand, whole images on the other; the mean stays.
  const auto ones = at::ones({400, 5, 8});
  const Pass pass{.training = true, .generator = at::make_generator<at::CPUGeneratorImpl>(3)};
  const auto elements = dropout(ones, .25, pass), images = drop_samples(ones, .25, pass);
  for (const auto& dropped : {elements, images}) {
    EXPECT_NEAR(dropped.mean().item<double>(), 1, .1);
    EXPECT_TRUE(((dropped == 0) | ((dropped - 4. / 3).abs() < 1e-6)).all().item<bool>());
  }
  EXPECT_TRUE(at::equal(images, images.select(1, 0).select(1, 0).view({-1, 1, 1}).expand_as(images)));
  EXPECT_FALSE(at::equal(elements, elements.select(1, 0).select(1, 0).view({-1, 1, 1}).expand_as(elements)));
}

TEST(GridAttention, SaysWhatIsWrong) {
  const auto make = [](GridAttentionConfig config) {
    Random seeds(1);
    return error_message([&] { make_grid_attention(config, seeds); });
  };
  auto config = config_of(TokenMixing::Soft);
  config.heads = 5;
  EXPECT_THAT(make(config), HasSubstr("5 heads do not divide a width of 12"));
  config = config_of(TokenMixing::Soft, 4);
  EXPECT_THAT(make(config), HasSubstr("odd"));
  config = config_of(TokenMixing::Soft);
  config.ratio = 1;
  EXPECT_THAT(make(config), HasSubstr("at least 2"));
  config.sampling = LandmarkSampling::Mean, config.ratio = 0;
  EXPECT_THAT(make(config), HasSubstr("at least 1"));
  const auto layer = attention(config_of(TokenMixing::Soft));
  const auto run = [&](at::IntArrayRef shape, Grid grid) {
    return error_message([&] { layer(at::zeros(shape, at::kDouble), grid); });
  };
  EXPECT_THAT(run({1, 24, 13}, kGrid), HasSubstr("13"));
  EXPECT_THAT(run({1, 23, 12}, kGrid), HasSubstr("6 x 4 = 24"));
  EXPECT_THAT(run({1, 15, 12}, {5, 3}), HasSubstr("does not divide the grid of 5 x 3"));
  EXPECT_THAT(error_message([&] { layer(at::full({1, 24, 12}, NAN, at::kDouble), kGrid); }), HasSubstr("tokens"));
}

}  // namespace
}  // namespace unbend
