// Marginal propagation: scale^alpha of every value, through |weights|^alpha.
#include <algorithm>
#include <cmath>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/tangent/stable_distribution.h"

namespace unbend {
namespace {

at::Tensor raised(const at::Tensor& weights, double alpha) {
  if (alpha == 2) return weights.square();
  return alpha == 1 ? weights.abs() : at::pow(weights.abs(), alpha);
}

// An average of q independent values has the power sum p / q^alpha.
at::Tensor averaged(const at::Tensor& mean_of_powers, int64_t q, double alpha) {
  return mean_of_powers * std::pow(static_cast<double>(q), 1 - alpha);
}

at::Tensor through_pool(const Pooling& pool, const at::Tensor& m, const at::Tensor& p, double alpha) {
  const auto dims = static_cast<int64_t>(pool.kernel.size());
  auto size = pool.kernel;
  int64_t cells = 1;
  for (int64_t d = 0; d < dims; ++d) {
    if (size[d] == 0) size[d] = m.size(d - dims);
    cells *= size[d];
  }
  if (!pool.maximum) return averaged(pool(p), cells, alpha);
  // The winner's power.
  at::Tensor winners;
  if (dims == 1)
    winners = std::get<1>(at::max_pool1d_with_indices(m, size, pool.stride, pool.padding, pool.dilation, pool.ceil));
  else if (dims == 2)
    winners = std::get<1>(at::max_pool2d_with_indices(m, size, pool.stride, pool.padding, pool.dilation, pool.ceil));
  else
    winners = std::get<1>(at::max_pool3d_with_indices(m, size, pool.stride, pool.padding, pool.dilation, pool.ceil));
  const auto kept = m.dim() - dims;
  return p.flatten(kept).gather(kept, winners.flatten(kept)).view(winners.sizes());
}

// The Jacobian of a row, w_i / sigma (delta_ij - (1 + h_i h_j) / M) with the normalised row h.
at::Tensor through_norm(const LayerNorm& norm, const at::Tensor& m, const at::Tensor& p, double alpha) {
  const auto width = m.size(-1);
  const auto centred = m - m.mean(-1, true);
  const auto inverse = at::rsqrt(centred.square().mean(-1, true) + norm.eps);
  const auto h = centred * inverse;
  const auto jacobian = norm.weight.unsqueeze(-1) * inverse.unsqueeze(-1) *
                        (at::eye(width, m.options()) - (1 + h.unsqueeze(-1) * h.unsqueeze(-2)) / width);
  return at::matmul(raised(jacobian, alpha), p.unsqueeze(-1)).squeeze(-1);
}

at::Tensor through(const Operation& operation, const std::vector<at::Tensor>& m, const std::vector<at::Tensor>& p,
                   double alpha) {
  if (const auto* o = std::get_if<Linear>(&operation)) return at::linear(p[0], raised(o->weight, alpha));
  if (const auto* o = std::get_if<Elementwise>(&operation)) return p[0] * raised(o->derivative(m[0]), alpha);
  if (const auto* o = std::get_if<Convolution>(&operation)) {
    auto powers = *o;
    powers.weight = raised(o->weight, alpha), powers.bias = at::Tensor();
    return powers(p[0]);
  }
  if (const auto* o = std::get_if<ChannelAffine>(&operation)) {
    const auto scale = raised(o->scale, alpha);
    return value_of(ChannelAffine{scale, at::zeros({}, scale.options()), o->dimension}, {p[0]});
  }
  if (const auto* o = std::get_if<LayerNorm>(&operation)) return through_norm(*o, m[0], p[0], alpha);
  if (const auto* o = std::get_if<Pooling>(&operation)) return through_pool(*o, m[0], p[0], alpha);
  if (const auto* o = std::get_if<MeanOver>(&operation)) {
    int64_t cells = 1;
    for (const auto d : o->dimensions) cells *= p[0].size(d);
    return averaged(value_of(operation, p), cells, alpha);
  }
  return value_of(operation, p);  // reshapes, sums and concatenations of independent values
}

// Whether what the operation makes of powers depends on the values, and so on the sample.
bool depends_on_values(const Operation& operation) {
  const auto* pool = std::get_if<Pooling>(&operation);
  return std::holds_alternative<Elementwise>(operation) || std::holds_alternative<LayerNorm>(operation) ||
         (pool && pool->maximum);
}

}  // namespace

Propagated propagate_marginal(const Network& network, const at::Tensor& x, const Noise& noise) {
  check_noise(x, noise);
  require(noise.scale.defined(),
          "marginal propagation takes independent noise: use the full form for correlated noise");
  const double alpha = noise.law.alpha;
  std::vector<at::Tensor> means(network.nodes.size() + 1), powers(network.nodes.size() + 1);
  powers[0] = raised(noise.scale.to(x.scalar_type()), alpha).expand(x.sizes());
  const auto location = run(network, x, [&](int value, const at::Tensor& m) {
    means[value] = m;
    if (value == 0) return;
    const auto& node = network.nodes[value - 1];
    std::vector<at::Tensor> m_in, p_in;
    for (const int input : node.inputs) m_in.push_back(means[input]), p_in.push_back(powers[input]);
    // Up to the first activation, noise that is the same for all samples stays that: one stands for all.
    const bool same = x.size(0) > 1 && !depends_on_values(node.operation) &&
                      std::ranges::all_of(p_in, [](const at::Tensor& p) { return p.stride(0) == 0; });
    if (same)
      for (auto& p : p_in) p = p.narrow(0, 0, 1);
    powers[value] = through(node.operation, m_in, p_in, alpha);
    if (same) powers[value] = powers[value].expand(m.sizes());
  });
  if (!at::isfinite(location.detach()).all().item<bool>())
    fail_computation("the network's output is not finite for this input");
  return {noise.law, location.flatten(1), {}, {}, powers.back().flatten(1)};
}

}  // namespace unbend
