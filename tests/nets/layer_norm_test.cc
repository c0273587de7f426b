// LayerNorm's triple against LibTorch's own.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "unbend/base/error.h"
#include "unbend/nets/layers.h"

namespace unbend {
namespace {

using torch::autograd::grad;
using Tensors = std::vector<at::Tensor>;

at::Tensor normal(at::IntArrayRef sizes, uint64_t seed, at::ScalarType type) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble).to(type);
}

using Norm = at::Tensor (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&, double);

at::Tensor definition(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, double eps) {
  return at::layer_norm(x, w.sizes(), w, b, eps);
}

// Value, pull, push, second derivatives of <c, y> along directions; `wanted` of x, weight, bias have gradients.
Tensors derivatives(Norm norm, at::ScalarType type, const std::vector<int>& wanted) {
  Tensors all{normal({3, 5, 12}, 1, type), normal({12}, 2, type), normal({12}, 3, type)}, leaves, directions;
  for (const int i : wanted) {
    leaves.push_back(all[i].requires_grad_());
    directions.push_back(normal(all[i].sizes(), 10 + i, type));
  }
  const auto y = norm(all[0], all[1], all[2], 1e-5);
  const auto c = normal(y.sizes(), 5, type).requires_grad_();
  const Tensors pulled = grad({y}, leaves, {c}, true, true);
  const Tensors pushed = grad(pulled, {c}, directions, true, false, true);
  Tensors results{y, pushed[0]};
  results.insert(results.end(), pulled.begin(), pulled.end());
  at::Tensor along = at::zeros({}, type);
  for (size_t i = 0; i < leaves.size(); ++i) along = along + (pulled[i] * directions[i]).sum();
  const Tensors second = grad({along}, leaves, {}, true, false, true);
  for (size_t i = 0; i < leaves.size(); ++i)
    results.push_back(second[i].defined() ? second[i] : at::zeros_like(leaves[i]));
  return results;
}

TEST(LayerNorm, EqualsItsDefinitionInAllDerivatives) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    for (const auto& wanted : std::vector<std::vector<int>>{{0, 1, 2}, {0}, {1, 2}, {0, 1}, {0, 2}, {1}}) {
      const Tensors ours = derivatives(layer_norm, type, wanted), expected = derivatives(definition, type, wanted);
      for (size_t i = 0; i < ours.size(); ++i) {
        const double bound = type == at::kDouble ? 1e-12 : 1e-4;
        EXPECT_TRUE(at::allclose(ours[i], expected[i], bound, bound)) << "result " << i << " of " << wanted.size();
      }
    }
  }
}

TEST(LayerNorm, RefusesOtherShapes) {
  const auto x = at::ones({2, 3});
  EXPECT_THROW(layer_norm(x, at::ones({2}), at::ones({2}), 1e-5), Error);
  EXPECT_THROW(layer_norm(x, at::ones({3}), at::ones({2}), 1e-5), Error);
}

}  // namespace
}  // namespace unbend
