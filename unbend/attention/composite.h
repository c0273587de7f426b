// Second derivatives of fused kernels through their definition in plain tensor operations.
#pragma once

#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <vector>

namespace unbend {

/// The backward of a pull. With pull_i = sum_r cotangents_r . d results_r / d inputs_i for results =
/// definition(inputs), returns the gradients of sum_i pull_i . directions_i, first those in the inputs, then those in
/// the cotangents (these are the push). Undefined cotangents and directions count as zero; results that need no
/// gradient are undefined.
inline std::vector<at::Tensor> pull_backward(
    const std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>& definition,
    const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& cotangents,
    const std::vector<at::Tensor>& directions) {
  const at::AutoGradMode with_gradients(true);
  std::vector<at::Tensor> leaves, cotangent_leaves, used_results, used_cotangents,
      gradients(inputs.size() + cotangents.size());
  for (const auto& x : inputs) leaves.push_back(x.detach().requires_grad_());
  const auto results = definition(leaves);
  for (size_t r = 0; r < cotangents.size(); ++r) {
    if (!cotangents[r].defined()) continue;
    used_results.push_back(results[r]);
    used_cotangents.push_back(cotangents[r].detach().requires_grad_());
  }
  if (used_results.empty()) return gradients;
  const auto pulled = torch::autograd::grad(used_results, leaves, used_cotangents, true, true, true);
  at::Tensor along;
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (!pulled[i].defined() || !directions[i].defined()) continue;
    const auto term = (pulled[i] * directions[i].detach()).sum();
    along = along.defined() ? along + term.to(along.scalar_type()) : term;
  }
  if (!along.defined() || !along.requires_grad()) return gradients;
  auto wanted = leaves;
  wanted.insert(wanted.end(), used_cotangents.begin(), used_cotangents.end());
  const auto second = torch::autograd::grad({along}, wanted, {}, std::nullopt, false, true);
  std::copy_n(second.begin(), inputs.size(), gradients.begin());
  auto next = second.begin() + static_cast<std::ptrdiff_t>(inputs.size());
  for (size_t r = 0; r < cotangents.size(); ++r) {
    if (cotangents[r].defined()) gradients[inputs.size() + r] = *next++;
  }
  return gradients;
}

}  // namespace unbend
