#include "unbend/nets/network_sweep.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <utility>

#include "unbend/base/error.h"
#include "unbend/calculus/linearize.h"

namespace unbend {
namespace {

using Step = GatedChain::Step;

// rows * gate; in place where nobody else has the rows and no graph is made.
at::Tensor gated(const at::Tensor& rows, const at::Tensor& gate, bool fresh) {
  const bool per_sample = gate.dim() == 2;  // factors are of all samples
  const bool fits = !per_sample || rows.size(0) >= gate.size(0);
  const bool in_place = fresh && fits && !rows.requires_grad() && !gate.requires_grad();
  const auto wide = per_sample ? gate.unsqueeze(1) : gate;
  return in_place ? rows.mul_(wide) : rows * wide;
}

}  // namespace

size_t GatedChain::affine() const {
  const auto gate = std::ranges::find(steps, Step::Kind::Gate, &Step::kind);
  return static_cast<size_t>(gate - steps.begin());
}

at::Tensor GatedChain::push(at::Tensor rows, size_t first) const {
  bool fresh = false;
  for (size_t i = first; i < steps.size(); ++i) {
    const auto& [kind, values] = steps[i];
    rows = kind == Step::Kind::Matrix ? at::matmul(rows, values.t()) : gated(rows, values, fresh);
    fresh = true;
  }
  return rows;
}

at::Tensor GatedChain::matrix(size_t first) const {
  at::Tensor rows;
  bool fresh = false;
  for (size_t i = steps.size(); i-- > first;) {
    const auto& [kind, values] = steps[i];
    if (!rows.defined()) {
      if (kind == Step::Kind::Matrix)
        rows = values.unsqueeze(0);
      else
        rows = kind == Step::Kind::Gate ? at::diag_embed(values)
                                        : at::diag_embed(values.expand({value.size(1)})).unsqueeze(0);
      continue;
    }
    if (kind == Step::Kind::Matrix)
      rows = at::matmul(rows, values);
    else
      rows = gated(rows, values, fresh);
    fresh = true;
  }
  return rows.defined() ? rows : at::eye(value.size(1), value.options()).unsqueeze(0);
}

at::Tensor GatedChain::leading() const {
  at::Tensor product;  // [width, inputs]
  for (size_t i = 0; i < affine(); ++i) {
    const auto& [kind, values] = steps[i];
    if (kind == Step::Kind::Matrix)
      product = product.defined() ? at::matmul(values, product) : values;
    else
      product = product.defined() ? (values.dim() == 0 ? product * values : product * values.unsqueeze(1))
                                  : at::diag(values.expand({inputs}));
  }
  return product;
}

std::optional<GatedChain> gated_chain(const Network& network, const at::Tensor& x) {
  GatedChain chain;
  auto h = x;
  for (size_t i = 0; i < network.nodes.size(); ++i) {
    const auto& [operation, inputs, name] = network.nodes[i];
    if (inputs.size() != 1 || inputs[0] != static_cast<int>(i)) return std::nullopt;
    if (const auto* reshape = std::get_if<Reshape>(&operation)) {
      if (i != 0 || reshape->shape != std::vector<int64_t>{-1}) return std::nullopt;
      h = x.flatten(1);
      continue;
    }
    if (h.dim() != 2) return std::nullopt;
    if (const auto* layer = std::get_if<Linear>(&operation)) {
      if (h.size(1) != layer->weight.size(1))
        fail_input("layer '{}' takes {} numbers per sample, not {}", name, layer->weight.size(1), h.size(1));
      chain.steps.push_back({Step::Kind::Matrix, layer->weight});
    } else if (const auto* f = std::get_if<Elementwise>(&operation)) {
      if (f->function != Activation::Identity) chain.steps.push_back({Step::Kind::Gate, f->derivative(h)});
    } else if (const auto* affine = std::get_if<ChannelAffine>(&operation)) {
      const auto& s = affine->scale;
      if (s.numel() != 1 && s.numel() != h.size(1)) return std::nullopt;
      const auto factor = s.to(h.scalar_type());
      chain.steps.push_back({Step::Kind::Factor, s.numel() == 1 ? factor.reshape({}) : factor});
    } else {
      return std::nullopt;
    }
    h = value_of(operation, {h});
  }
  if (h.dim() != 2) return std::nullopt;
  chain.value = h, chain.inputs = x.numel() / std::max<int64_t>(x.size(0), 1);
  return chain;
}

at::Tensor sample_jacobians(const std::function<at::Tensor(const at::Tensor&)>& f, const at::Tensor& x,
                            bool create_graph, at::Tensor& value) {
  const at::AutoGradMode with_gradients(true);
  const auto leaf = x.detach().requires_grad_();
  value = f(leaf).flatten(1);
  require(value.requires_grad(), "the output does not depend on the input in a way that can be differentiated");
  // One by one: batching rules are slower where values are large, as in convolutions.
  std::vector<at::Tensor> rows;
  for (int64_t i = 0; i < value.size(1); ++i) {
    const auto row = torch::autograd::grad({value.select(1, i).sum()}, {leaf}, {}, true, create_graph, true)[0];
    rows.push_back(row.defined() ? row.flatten(1) : at::zeros_like(x).flatten(1));
  }
  if (!create_graph) value = value.detach();
  return at::stack(rows, 1);
}

at::Tensor sample_pushes(const std::function<at::Tensor(const at::Tensor&)>& f, const at::Tensor& x,
                         const at::Tensor& vectors, at::Tensor& value) {
  const auto l = linearize([&](const Tensors& in) { return Tensors{f(in[0])}; }, {x});
  value = l.value[0].flatten(1);
  const auto batch = x.size(0), r = vectors.size(-1);
  const auto each = vectors.expand({batch, x.numel() / batch, r});
  std::vector<at::Tensor> columns;
  for (int64_t j = 0; j < r; ++j)
    columns.push_back(l.jacobian.push({each.select(2, j).reshape(x.sizes())})[0].flatten(1));
  return at::stack(columns, 2);
}

}  // namespace unbend
