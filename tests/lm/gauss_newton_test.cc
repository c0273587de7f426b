#include "unbend/lm/gauss_newton.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/error_message.h"
#include "unbend/calculus/check.h"
#include "unbend/calculus/dense.h"
#include "unbend/calculus/estimates.h"
#include "unbend/calculus/linearize.h"
#include "unbend/calculus/spectra.h"

namespace unbend::lm {
namespace {

using testing::HasSubstr;

Decoder tiny(double b_scale, bool tied = false) {
  DecoderConfig c;
  c.layers = 2, c.hidden = 16, c.heads = 4, c.kv_heads = 2, c.head_dim = 4, c.ffn = 20, c.vocab = 23, c.context = 64;
  c.tied = tied;
  Random random(1);
  return with_lora(random_decoder(c, 1, .5, random).to(at::kCPU, at::kDouble), {"q", "v", "down"}, 2, 4, b_scale,
                   random);
}

/// Two sequences; some positions have no target.
Batch batch() {
  const auto ids = (at::arange(14).view({2, 7}) * 5).remainder(23);
  auto targets = at::roll(ids, -1, 1).clone();
  targets.select(1, 6).fill_(-1);
  targets[0][2].fill_(-1);
  return {ids, targets};
}

/// The definition: rows of the Jacobian of all logits by one backward pass each, then J^T H J.
at::Tensor dense_by_autograd(const Decoder& decoder, const Batch& b, LoraFactors factors, double* loss = nullptr) {
  Decoder copy = decoder.fork();
  std::vector<at::Tensor> leaves;
  for (const auto& p : adapter(copy)) {
    if (factors == LoraFactors::B && p.name.ends_with("_a")) continue;
    *p.tensor = p.tensor->detach().clone().requires_grad_(true);
    leaves.push_back(*p.tensor);
  }
  const auto places = (b.targets.flatten() >= 0).nonzero().flatten();
  const auto logits = copy.logits(copy.hidden(b.ids)).flatten(0, 1).index_select(0, places);
  const std::int64_t n = logits.size(0), v = logits.size(1);
  std::vector<at::Tensor> rows;
  for (std::int64_t i = 0; i < n * v; ++i) {
    for (auto& leaf : leaves) leaf.mutable_grad() = at::Tensor();
    logits.flatten()[i].backward({}, true);
    std::vector<at::Tensor> row;
    for (const auto& leaf : leaves)
      row.push_back(leaf.grad().defined() ? leaf.grad().flatten() : at::zeros({leaf.numel()}, at::kDouble));
    rows.push_back(at::cat(row));
  }
  const auto j = at::stack(rows).view({n, v, -1});
  const auto p = at::softmax(logits.detach(), -1);
  const auto h = at::diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1);
  if (loss != nullptr)
    *loss = -p.log().gather(1, b.targets.flatten().index_select(0, places).unsqueeze(1)).mean().item<double>();
  return at::matmul(j.transpose(1, 2), at::matmul(h, j)).sum(0) / static_cast<double>(n);
}

TEST(GaussNewton, EqualsTheDenseMatrix) {
  for (const auto factors : {LoraFactors::B, LoraFactors::Both}) {
    for (const bool tied : {false, true}) {
      const Decoder decoder = tiny(.7, tied);
      const GaussNewton g = gauss_newton(decoder, batch(), factors);
      double loss = 0;
      const auto expected = dense_by_autograd(decoder, batch(), factors, &loss);
      const auto found = to_dense(g.map);
      EXPECT_LT((found - expected).abs().max().item<double>(), 1e-12 * expected.abs().max().item<double>());
      EXPECT_NEAR(g.loss, loss, 1e-12);
      EXPECT_EQ(g.tokens, 11);
      EXPECT_EQ(g.names.size(), g.map.domain().leaves.size());
    }
  }
}

TEST(GaussNewton, IsSymmetricAndPositive) {
  const GaussNewton g = gauss_newton(tiny(.7), batch(), LoraFactors::Both);
  EXPECT_TRUE(g.map.has(Property::Psd));
  EXPECT_TRUE(dot_test(g.map));
  EXPECT_EQ(check_properties(g.map), "");
  const auto matrix = to_dense(g.map);
  const auto values = at::linalg_eigvalsh((matrix + matrix.t()) / 2);
  EXPECT_GT(values.min().item<double>(), -1e-12 * values.max().item<double>());
  EXPECT_NEAR(lanczos(g.map, 3, Which::Largest).values[0].item<double>(), values.max().item<double>(), 1e-9);
}

TEST(GaussNewton, IsTheHessianOfTheLossWhereLogitsAreLinear) {
  // The Hessian is G plus the residuals' term: with targets drawn from the model that term has the mean 0, and one sees
  // G alone as the Hessian of KL(p0 || p) at p = p0.
  Decoder decoder = tiny(.7);
  const Batch b = batch();
  const GaussNewton g = gauss_newton(decoder, b);
  const auto places = (b.targets.flatten() >= 0).nonzero().flatten();
  Tensors point;
  for (const auto& p : adapter(decoder))
    if (p.name.ends_with("_b")) point.push_back(*p.tensor);
  at::Tensor fixed;
  const Function divergence = [&](const Tensors& w) -> Tensors {
    Decoder here = decoder;
    std::size_t i = 0;
    for (const auto& p : adapter(here))
      if (p.name.ends_with("_b")) *p.tensor = w[i++];
    const auto log_p = at::log_softmax(here.logits(here.hidden(b.ids)).flatten(0, 1).index_select(0, places), -1);
    if (!fixed.defined()) fixed = log_p.detach();
    return {(fixed.exp() * (fixed - log_p)).sum() / static_cast<double>(places.numel())};
  };
  const auto h = to_dense(hessian(divergence, point).jacobian), m = to_dense(g.map);
  EXPECT_LT((h - m).abs().max().item<double>(), 1e-11 * m.abs().max().item<double>());
}

TEST(GaussNewton, AtTheStartOfTrainingOnlyBCounts) {
  const Decoder start = tiny(0);
  const GaussNewton g = gauss_newton(start, batch());
  EXPECT_GT(trace(g.map), 0);
  for (const auto& name : g.names) EXPECT_THAT(name, HasSubstr("lora_b"));
  EXPECT_THAT(error_message([&] { gauss_newton(start, batch(), LoraFactors::Both); }), HasSubstr("B is zero"));
  // What the message says: the part in A is zero there.
  const auto both = dense_by_autograd(start, batch(), LoraFactors::Both);
  EXPECT_NEAR(both.trace().item<double>(), trace(g.map), 1e-12 * trace(g.map));
}

TEST(GaussNewton, TracesOfTheFactorsAddUp) {
  const GaussNewton g = gauss_newton(tiny(.7), batch(), LoraFactors::Both);
  Random random(3);
  const TraceByLeaf estimate = estimate_trace_by_leaf(g.map, 300, random);
  const auto diagonal_of = diagonal(g.map);
  double sum = 0;
  for (std::size_t i = 0; i < g.names.size(); ++i) {
    sum += estimate.leaves[i].value;
    EXPECT_NEAR(estimate.leaves[i].value, diagonal_of[i].sum().item<double>(), 5 * estimate.leaves[i].standard_error)
        << g.names[i];
  }
  EXPECT_NEAR(sum, estimate.whole.value, 1e-9 * sum);
  EXPECT_NEAR(estimate.whole.value, trace(g.map), 5 * estimate.whole.standard_error);
  EXPECT_LT(estimate.whole.standard_error, .2 * estimate.whole.value);
}

TEST(GaussNewton, Float32IsCloseToFloat64) {
  const Decoder decoder = tiny(.7);
  const auto wide = to_dense(gauss_newton(decoder, batch()).map);
  const auto narrow = to_dense(gauss_newton(decoder.to(at::kCPU, at::kFloat), batch()).map);
  EXPECT_LT((wide - narrow).abs().max().item<double>(), 1e-4 * wide.abs().max().item<double>());
}

TEST(GaussNewton, RefusesWhatItCannotDo) {
  const Decoder decoder = tiny(.7);
  EXPECT_THAT(error_message([&] { gauss_newton(decoder.to(at::kCPU, at::kBFloat16), batch()); }), HasSubstr("float32"));
  Batch empty = batch();
  empty.targets.fill_(-1);
  EXPECT_THAT(error_message([&] { gauss_newton(decoder, empty); }), HasSubstr("no target"));
  empty.targets = at::zeros({1}, at::kLong);
  EXPECT_THAT(error_message([&] { gauss_newton(decoder, empty); }), HasSubstr("different shapes"));
  Decoder bare = decoder;
  for (auto& layer : bare.layers)
    for (auto* projection : {&layer.qkv, &layer.down})
      for (auto& part : projection->parts) part.lora = {};
  EXPECT_THAT(error_message([&] { gauss_newton(bare, batch()); }), HasSubstr("no Lora"));
  Random random(1);
  EXPECT_THAT(error_message([&] { with_lora(decoder, {"queries"}, 2, 4, 0, random); }, ErrorKind::Usage),
              HasSubstr("queries"));
  EXPECT_THAT(error_message([&] { with_lora(decoder, {"q"}, 0, 4, 0, random); }), HasSubstr("rank 0"));
}

}  // namespace
}  // namespace unbend::lm
