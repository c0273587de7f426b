#include "unbend/tangent/attack.h"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

void check(const at::Tensor& inputs, const at::Tensor& labels, const AttackOptions& options) {
  check_floating(inputs, "attack: inputs");
  require(inputs.dim() >= 1 && inputs.size(0) > 0, "attack: no inputs");
  check_finite(inputs, "attack: inputs");
  check_shape(labels, {inputs.size(0)}, "attack: labels");
  require(std::isfinite(options.radius) && options.radius >= 0, "attack: a radius of {}", options.radius);
  require(std::isfinite(options.step) && options.step >= 0, "attack: a step of {}", options.step);
  require(options.iterations >= 0, "attack: {} iterations", options.iterations);
  require(options.low < options.high, "attack: a range from {} to {}", options.low, options.high);
  const auto [low, high] = at::aminmax(inputs);
  require(low.item<double>() >= options.low && high.item<double>() <= options.high,
          "attack: inputs from {:.4g} to {:.4g} lie outside their range, {:g} to {:g}", low.item<double>(),
          high.item<double>(), options.low, options.high);
}

at::Tensor objective_of(const at::Tensor& logits, const at::Tensor& labels, AttackObjective objective) {
  require(logits.dim() == 2 && logits.size(1) >= 2, "attack: logits of shape {}, expected [inputs, classes]",
          shape_string(logits.sizes()));
  if (objective == AttackObjective::CrossEntropy) return at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum);
  const auto right = labels.unsqueeze(1);
  const auto others = logits.scatter(1, right, -INFINITY).amax(1);
  return (others - logits.gather(1, right).squeeze(1)).sum();
}

}  // namespace

at::Tensor attacked(const Classifier& logits, const at::Tensor& inputs, const at::Tensor& labels,
                    AttackObjective objective, const AttackOptions& options, Random& random) {
  check(inputs, labels, options);
  const double step = options.step > 0 ? options.step : options.radius / 3;
  const auto clean = inputs.detach();
  const auto low = (clean - options.radius).clamp_min(options.low);
  const auto high = (clean + options.radius).clamp_max(options.high);
  auto changed = clean;
  if (options.random_start) {
    auto noise = at::empty(clean.sizes(), at::kDouble);
    auto* numbers = noise.mutable_data_ptr<double>();
    for (int64_t i = 0; i < noise.numel(); ++i) numbers[i] = options.radius * (2 * random.uniform() - 1);
    changed = (clean + noise.to(clean.options())).clamp(low, high);
  }
  for (int i = 0; i < options.iterations; ++i) {
    const at::AutoGradMode with_gradients(true);
    const auto x = changed.detach().requires_grad_();
    const auto value = objective_of(logits(x), labels, objective);
    const auto gradient = torch::autograd::grad({value}, {x})[0];
    if (!at::isfinite(gradient).all().item<bool>()) fail_computation("attack: gradients are not finite");
    changed = (changed + step * gradient.sign()).clamp(low, high).detach();
  }
  return changed;
}

double accuracy(const Classifier& logits, const at::Tensor& inputs, const at::Tensor& labels) {
  const at::NoGradGuard no_grad;
  check_shape(labels, {inputs.size(0)}, "accuracy: labels");
  return (logits(inputs).argmax(1) == labels).to(at::kDouble).mean().item<double>();
}

Robustness robustness(const Classifier& logits, const at::Tensor& inputs, const at::Tensor& labels,
                      const AttackOptions& options, Random& random) {
  const auto left = [&](AttackObjective objective) {
    return accuracy(logits, attacked(logits, inputs, labels, objective, options, random), labels);
  };
  const double cross_entropy = left(AttackObjective::CrossEntropy);
  return {cross_entropy, left(AttackObjective::Margin)};
}

}  // namespace unbend
