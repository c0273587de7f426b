#include "unbend/lm/gauss_newton.h"

#include <torch/types.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"
#include "unbend/calculus/linearize.h"
#include "unbend/lm/lora.h"

namespace unbend::lm {
namespace {

/// The Lora factors that are variables, by reference into `decoder`.
std::vector<Parameter> variables(Decoder& decoder, LoraFactors factors) {
  std::vector<Parameter> chosen;
  for (const auto& p : adapter(decoder))
    if (p.name.ends_with(".lora_b") || (factors == LoraFactors::Both && p.name.ends_with(".lora_a")))
      chosen.push_back(p);
  return chosen;
}

}  // namespace

Decoder with_lora(const Decoder& decoder, const std::vector<std::string>& targets, std::int64_t rank, double alpha,
                  double b_scale, Random& random) {
  check_lora_targets(targets);
  require(!targets.empty() && b_scale >= 0, "with_lora: {} targets, and B of deviation {}", targets.size(), b_scale);
  Decoder copy = decoder.fork();
  for (auto& layer : copy.layers) {
    for (auto* projection : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      for (auto& part : projection->parts) part.lora = {};
      add_lora(*projection, targets, rank, alpha, random);
      for (auto& part : projection->parts) {
        if (!part.lora.defined()) continue;
        const auto options = copy.embedding.options().dtype(copy.residual_type());
        part.lora.a = part.lora.a.to(options);
        if (b_scale > 0)
          part.lora.b = random_normal(part.lora.b.sizes(), b_scale / std::sqrt(static_cast<double>(rank)), random);
        part.lora.b = part.lora.b.to(options);
      }
    }
  }
  return copy;
}

GaussNewton gauss_newton(const Decoder& decoder, const Batch& batch, LoraFactors factors) {
  require(decoder.type() == at::kFloat || decoder.type() == at::kDouble,
          "gauss_newton: weights in {} are too coarse for derivatives of derivatives: load them as float32",
          toString(decoder.type()));
  require(batch.targets.defined() && batch.targets.sizes() == batch.ids.sizes(),
          "gauss_newton: ids and targets have different shapes");
  const auto places = (batch.targets.flatten() >= 0).nonzero().flatten();
  const std::int64_t tokens = places.numel(), width = decoder.config.hidden;
  require(tokens > 0, "gauss_newton: the batch has no target");

  Decoder at_point = decoder.fork();
  std::vector<std::string> names;
  Tensors point;
  bool moved = false;
  for (const auto& p : variables(at_point, factors)) {
    names.push_back(p.name);
    point.push_back(p.tensor->detach());
    moved = moved || (p.name.ends_with(".lora_b") && p.tensor->any().item<bool>());
  }
  require(!point.empty(), "gauss_newton: the decoder has no Lora; with_lora() gives it one");
  require(factors == LoraFactors::B || moved,
          "gauss_newton: B is zero in every Lora, so that the derivative in A is zero: take B alone, or a point where "
          "it is not zero");
  // The head is constant and linear: it belongs to the middle factor, so that no logits are recorded.
  const Function hidden = [&](const Tensors& values) -> Tensors {
    Decoder here = at_point;
    const auto slots = variables(here, factors);
    for (std::size_t i = 0; i < slots.size(); ++i) *slots[i].tensor = values[i];
    return {here.hidden(batch.ids).view({-1, width}).index_select(0, places)};
  };
  const Linearization l = linearize(hidden, point);

  const at::NoGradGuard no_gradients;
  const auto head = decoder.head.to(decoder.residual_type());
  const auto log_p = at::log_softmax(at::mm(l.value[0], head.t()), -1);
  const double loss =
      -log_p.gather(1, batch.targets.flatten().index_select(0, places).unsqueeze(1)).mean().item<double>();
  const auto p = log_p.exp();
  const VectorFunction curvature = [head, p, tokens](const Tensors& v) -> Tensors {
    const auto weighted = at::mm(v[0], head.t()) * p;
    const auto centred = weighted - p * weighted.sum(1, true);
    return {at::mm(centred, head) / static_cast<double>(tokens)};
  };
  const Space space = l.jacobian.codomain();
  const LinearMap middle = function_map(space, space, curvature, curvature, {Property::Psd});
  return {declare(adjoint(l.jacobian) * middle * l.jacobian, {Property::Psd}), std::move(names), loss, tokens};
}

}  // namespace unbend::lm
