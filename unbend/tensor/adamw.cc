#include "unbend/tensor/adamw.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

// The kernel walks memory, so gradients need their parameter's strides.
std::vector<at::Tensor> gradients(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> grads;
  for (const auto& p : parameters) {
    if (!p.grad().defined()) continue;
    if (p.grad().strides() != p.strides()) p.mutable_grad() = at::empty_like(p).copy_(p.grad());
    grads.push_back(p.grad());
  }
  return grads;
}

}  // namespace

double clip_grad_norm(const std::vector<at::Tensor>& parameters, double max_norm) {
  require(max_norm > 0, "clip_grad_norm: max_norm is {}, expected a positive number", max_norm);
  const at::NoGradGuard no_grad;
  const auto grads = gradients(parameters);
  double sum = 0;
  for (const auto& norm : grads.empty() ? std::vector<at::Tensor>() : at::_foreach_norm(grads))
    sum += std::pow(norm.item<double>(), 2);
  const double norm = std::sqrt(sum), factor = max_norm / (norm + 1e-6);
  if (std::isfinite(norm) && factor < 1) at::_foreach_mul_(grads, factor);
  return norm;
}

AdamW::AdamW(std::vector<ParameterGroup> groups) : groups_(std::move(groups)) {
  std::set<const void*> seen;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const auto& group = groups_[g];
    require(
        group.lr >= 0 && group.weight_decay >= 0 && group.eps >= 0 && group.beta1 >= 0 && group.beta1 < 1 &&
            group.beta2 >= 0 && group.beta2 < 1,
        "AdamW: group {} has lr {}, weight_decay {}, betas {} and {}, eps {}: none may be negative, betas are below 1",
        g, group.lr, group.weight_decay, group.beta1, group.beta2, group.eps);
    Moments moments;
    for (std::size_t i = 0; i < group.parameters.size(); ++i) {
      const auto& p = group.parameters[i];
      const auto name = fmt::format("AdamW: parameter {}.{}", g, i);
      check_floating(p, name);
      check_same_type(p, name, group.parameters[0], fmt::format("parameter {}.0", g));
      require(p.scalar_type() == at::kFloat || p.scalar_type() == at::kDouble, "{} is {}, expected Float or Double",
              name, at::toString(p.scalar_type()));
      require(p.is_leaf() && p.requires_grad(), "{} is not a leaf that requires a gradient", name);
      require(p.is_non_overlapping_and_dense(), "{} does not own dense memory", name);
      require(seen.insert(p.unsafeGetTensorImpl()).second, "{} comes twice", name);
      moments.exp_avg.push_back(at::zeros_like(p));
      moments.exp_avg_sq.push_back(at::zeros_like(p));
      moments.step.push_back(at::zeros({}, p.options().dtype(at::kFloat)));
    }
    moments_.push_back(std::move(moments));
  }
}

std::vector<at::Tensor> AdamW::parameters() const {
  std::vector<at::Tensor> all;
  for (const auto& group : groups_) all.insert(all.end(), group.parameters.begin(), group.parameters.end());
  return all;
}

bool AdamW::step(double lr_factor, double max_norm) {
  const at::NoGradGuard no_grad;
  grad_norm_ = clip_grad_norm(parameters(), max_norm);
  if (!std::isfinite(grad_norm_)) {
    ++skipped_;
    return false;
  }
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const auto& group = groups_[g];
    std::vector<at::Tensor> parameters, exp_avg, exp_avg_sq, step;
    for (std::size_t i = 0; i < group.parameters.size(); ++i) {
      if (!group.parameters[i].grad().defined()) continue;
      parameters.push_back(group.parameters[i]);
      exp_avg.push_back(moments_[g].exp_avg[i]);
      exp_avg_sq.push_back(moments_[g].exp_avg_sq[i]);
      step.push_back(moments_[g].step[i]);
    }
    if (parameters.empty()) continue;
    at::_foreach_add_(step, 1);
    at::_fused_adamw_(parameters, gradients(parameters), exp_avg, exp_avg_sq, {}, step, group.lr * lr_factor,
                      group.beta1, group.beta2, group.weight_decay, group.eps, /*amsgrad=*/false, /*maximize=*/false);
  }
  return true;
}

void AdamW::zero_grad() {
  for (const auto& p : parameters()) p.mutable_grad().reset();
}

std::map<std::string, at::Tensor> AdamW::state() const {
  std::map<std::string, at::Tensor> out{{"skipped", at::scalar_tensor(skipped_, at::kLong)}};
  for (std::size_t g = 0; g < groups_.size(); ++g)
    for (std::size_t i = 0; i < groups_[g].parameters.size(); ++i) {
      out[fmt::format("{}.{}.exp_avg", g, i)] = moments_[g].exp_avg[i];
      out[fmt::format("{}.{}.exp_avg_sq", g, i)] = moments_[g].exp_avg_sq[i];
      out[fmt::format("{}.{}.step", g, i)] = moments_[g].step[i];
    }
  return out;
}

void AdamW::load_state(const std::map<std::string, at::Tensor>& state) {
  const at::NoGradGuard no_grad;
  const auto own = this->state();
  require(state.size() == own.size(), "AdamW: the state has {} tensors, expected {}: it belongs to other parameters",
          state.size(), own.size());
  for (const auto& [name, t] : own) {
    const auto found = state.find(name);
    require(
        found != state.end() && found->second.sizes() == t.sizes() && found->second.scalar_type() == t.scalar_type(),
        "AdamW: the state has no {} of shape {} and type {}: it belongs to other parameters", name,
        shape_string(t.sizes()), at::toString(t.scalar_type()));
  }
  for (auto& [name, t] : own) t.copy_(state.at(name));
  skipped_ = state.at("skipped").item<std::int64_t>();
}

}  // namespace unbend
