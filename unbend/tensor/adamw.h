// AdamW (Loshchilov and Hutter, 2019) on LibTorch's fused kernel.
#pragma once

#include <ATen/ATen.h>

#include <limits>
#include <map>
#include <string>
#include <vector>

namespace unbend {

/// Parameters that share their settings: leaves of one device, all float32 or all float64.
struct ParameterGroup {
  std::vector<at::Tensor> parameters;
  double lr = 1e-3;
  double weight_decay = 0.01;  ///< decoupled: p -= lr * weight_decay * p
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
};

/// Scales all gradients (undefined ones are left out) by min(1, max_norm / (norm + 1e-6)) unless the norm is not
/// finite. Returns their common 2-norm before scaling.
double clip_grad_norm(const std::vector<at::Tensor>& parameters, double max_norm);

/// The arithmetic of torch.optim.AdamW. Repeats bit for bit with the same number of threads.
class AdamW {
 public:
  /// Input error for parameters that do not require gradients, repeat, or have other types.
  explicit AdamW(std::vector<ParameterGroup> groups);

  /// One update with every group's lr times `lr_factor`, after clipping to `max_norm`. Parameters without gradient stay
  /// as they are. If any gradient is not finite nothing changes, skipped() counts it, and the result is false.
  bool step(double lr_factor = 1, double max_norm = std::numeric_limits<double>::infinity());
  void zero_grad();

  double grad_norm() const { return grad_norm_; }  ///< before clipping, at the last step()
  std::int64_t skipped() const { return skipped_; }
  const std::vector<ParameterGroup>& groups() const { return groups_; }

  /// All that a resumed run needs, the parameters and settings apart: "GROUP.INDEX.exp_avg" and so on, "skipped".
  /// The tensors are the live ones, not copies.
  std::map<std::string, at::Tensor> state() const;

  /// Input error, with nothing changed, unless names and shapes are those of state().
  void load_state(const std::map<std::string, at::Tensor>& state);

 private:
  struct Moments {
    std::vector<at::Tensor> exp_avg, exp_avg_sq, step;  // one each per parameter; `step` is a float32 scalar
  };
  std::vector<at::Tensor> parameters() const;

  std::vector<ParameterGroup> groups_;
  std::vector<Moments> moments_;
  std::int64_t skipped_ = 0;
  double grad_norm_ = 0;
};

}  // namespace unbend
