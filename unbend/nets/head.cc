// Losses on the output head, and the head's layout.
#include "unbend/nets/head.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "unbend/nets/head_chunk.h"
#include "unbend/nets/head_plain.h"

namespace unbend {
namespace {

using namespace chunked;

template <class C>
C log_add(C a, C b) {
  const C high = std::max(a, b);
  return high == kLowest<C> ? high : high + std::log(std::exp(a - high) + std::exp(b - high));
}

struct LossAndGradient {
  DistillationLoss loss;
  at::Tensor gradient;  // [N, M], of the loss in hidden, if wanted
};

template <class T>
LossAndGradient distill(const at::Tensor& hidden, const FrozenHead& head, const at::Tensor& next_tensor,
                        const at::Tensor& ids_tensor, const at::Tensor& log_probs_tensor, double kl_weight,
                        double ce_weight, bool with_gradient) {
  using C = Compute<T>;
  const int64_t tokens = hidden.size(0), teacher = ids_tensor.size(1), width = head.width();
  const auto options = hidden.options().dtype(c10::CppTypeToScalarType<C>::value);
  const int64_t* const next = next_tensor.const_data_ptr<int64_t>();
  const int32_t* const ids = ids_tensor.const_data_ptr<int32_t>();
  const float* const log_probs = log_probs_tensor.const_data_ptr<float>();
  LossAndGradient result;
  result.loss.cross_entropy = at::zeros({tokens}, options);
  result.loss.divergence = at::zeros({tokens}, options);
  C* const cross_entropy = result.loss.cross_entropy.template data_ptr<C>();
  C* const divergence = result.loss.divergence.template data_ptr<C>();
  const int64_t counted = std::count_if(next, next + tokens, [](int64_t id) { return id >= 0; });
  if (with_gradient) result.gradient = at::zeros({tokens, width}, hidden.options());

  at::Tensor kept;  // logits of a chunk, if there is a gradient to compute
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t count = std::min(kTokens, tokens - first);
    const Chunk<T> chunk(head, hidden, first, count);
    const int64_t n = chunk.n;
    if (with_gradient && !kept.defined()) kept = at::empty({chunk.panels() * kPanel * n}, options);
    C* const all_logits = kept.defined() ? kept.template data_ptr<C>() : nullptr;

    std::vector<Wanted> wanted;
    std::vector<int64_t> next_as_teacher(count, -1);  // which of the teacher's tokens is the next one
    for (int64_t c = 0; c < count; ++c) {
      const int64_t t = first + c;
      if (next[t] < 0) continue;
      wanted.push_back({next[t], c, teacher});
      for (int64_t k = 0; k < teacher; ++k) {
        const int64_t id = ids[t * teacher + k];
        if (id >= 0) wanted.push_back({id, c, k});
        if (id == next[t]) next_as_teacher[c] = k;
      }
    }
    std::sort(wanted.begin(), wanted.end());
    std::vector<C> picked(n * (teacher + 1), kLowest<C>);

    // Pass 1. The teacher's tokens are taken out of the logits, so that the sums are of all others: the tail is never
    // the difference of two numbers close to 1.
    std::vector<Stats<C>> slices(kSlices, Stats<C>(n));
    chunk.for_slices([&](int64_t slice, int64_t begin, int64_t end) {
      std::vector<C> tile(all_logits ? 0 : kTile * n);
      for (int64_t row = begin; row < end; row += kTile) {
        const int64_t rows = std::min(kTile, end - row);
        C* const z = all_logits ? all_logits + row * n : tile.data();
        chunk.logits(row, rows, z);
        const auto [from, to] = within(wanted, row, row + rows);
        for (auto w = from; w != to; ++w) picked[w->column * (teacher + 1) + w->k] = z[(w->row - row) * n + w->column];
        for (auto w = from; w != to; ++w) {
          if (w->k < teacher) z[(w->row - row) * n + w->column] = kLowest<C>;
        }
        accumulate<C>(z, rows, n, row, slices[slice], nullptr);
      }
    });
    Stats<C> others(n);
    for (const auto& slice : slices) merge(slice, others);

    // Per token: the losses, and the gradient's factor of exp(z - shift) for tokens that the teacher does not name:
    // s_j (ce + kl (1 - p_tail / s_tail)) with s_j = s_tail exp(z_j - lse of the tail), which never divides by s_tail.
    std::vector<C> shift(n, 0), factor(n, 0), lse(n, 0);
    for (int64_t c = 0; c < count; ++c) {
      const int64_t t = first + c;
      const C* const z = &picked[c * (teacher + 1)];
      const C tail = others.max[c] == kLowest<C> ? kLowest<C> : others.max[c] + std::log(others.sum[c]);
      if (tail != kLowest<C>) shift[c] = tail;
      if (next[t] < 0) continue;
      lse[c] = tail;
      double p_tail = 1;
      for (int64_t k = 0; k < teacher; ++k) {
        if (ids[t * teacher + k] < 0) continue;
        lse[c] = log_add(lse[c], z[k]);
        p_tail -= std::exp(static_cast<double>(log_probs[t * teacher + k]));
      }
      require(teacher == 0 || p_tail > -1e-3, "distillation_loss: the teacher's probabilities at position {} sum to {}",
              t, 1 - p_tail);
      // Float32 log-probabilities say nothing about a tail below their rounding.
      if (p_tail < 1e-7 || tail == kLowest<C>) p_tail = 0;
      const double s_tail = std::exp(static_cast<double>(tail - lse[c]));
      double kl = 0;
      if (teacher > 0) {
        for (int64_t k = 0; k < teacher; ++k) {
          const double log_p = log_probs[t * teacher + k];
          if (ids[t * teacher + k] >= 0 && std::isfinite(log_p)) kl += std::exp(log_p) * (log_p - (z[k] - lse[c]));
        }
        if (p_tail > 0) kl += p_tail * (std::log(p_tail) - static_cast<double>(tail - lse[c]));
      }
      divergence[t] = static_cast<C>(kl);
      cross_entropy[t] = lse[c] - z[teacher];
      factor[c] =
          static_cast<C>((ce_weight + (teacher > 0 ? kl_weight : 0)) * s_tail - (teacher > 0 ? kl_weight * p_tail : 0));
    }
    if (!with_gradient) continue;

    // Pass 2. The gradient in the logits, in the product's type, and at once its product with the weight.
    const auto sums = at::zeros({kSlices, width, n}, options);
    chunk.for_slices([&](int64_t slice, int64_t begin, int64_t end) {
      const hn::ScalableTag<C> d;
      const int64_t lanes = hn::Lanes(d);
      C* const sum = sums.template data_ptr<C>() + slice * width * n;
      std::vector<T> gradient(kPanel * n);
      const auto place = [&](int64_t r, int64_t c) -> T& {
        return gradient[kGroup<T> == 2 ? (r / 2 * n + c) * 2 + r % 2 : r * n + c];
      };
      for (int64_t row = begin; row < end; row += kPanel) {
        const int64_t rows = std::min(kPanel, end - row), even_rows = round_up(rows, 2);
        for (int64_t r = rows; r < even_rows; ++r) std::fill_n(all_logits + (row + r) * n, n, kLowest<C>);
        for (int64_t r = 0; r < even_rows; r += 2) {
          for (int64_t c = 0; c < n; c += lanes) {
            const auto value = [&](int64_t i) {
              const auto z = hn::Sub(load(d, all_logits + (row + i) * n + c), load(d, &shift[c]));
              return hn::Mul(hn::Exp(d, z), load(d, &factor[c]));
            };
            if constexpr (kGroup<T> == 2) {
              store_pairs(d, value(r), value(r + 1), &gradient[(r / 2 * n + c) * 2]);
            } else {
              store(d, value(r), &gradient[r * n + c]), store(d, value(r + 1), &gradient[(r + 1) * n + c]);
            }
          }
        }
        const auto [from, to] = within(wanted, row, row + rows);
        for (auto w = from; w != to; ++w) {
          const int64_t c = w->column, t = first + c;
          const C z = picked[c * (teacher + 1) + w->k];
          if (w->k < teacher) {
            const C p = std::exp(static_cast<C>(log_probs[t * teacher + w->k])), s = std::exp(z - lse[c]);
            const C own = w->k == next_as_teacher[c] ? static_cast<C>(ce_weight) : 0;
            place(w->row - row, c) =
                static_cast<T>(static_cast<C>(ce_weight + kl_weight) * s - static_cast<C>(kl_weight) * p - own);
          } else if (next_as_teacher[c] < 0) {
            place(w->row - row, c) = static_cast<T>(std::exp(z - shift[c]) * factor[c] - static_cast<C>(ce_weight));
          }
        }
        multiply(width, n, even_rows, head.transposed.const_data_ptr<T>() + row / kPanel * width * kPanelStride,
                 kPanelStride, gradient.data(), n, sum, n, row != begin);
      }
    });
    result.gradient.narrow(0, first, count)
        .copy_(sums.sum(0).narrow(1, 0, count).t() / static_cast<double>(std::max<int64_t>(counted, 1)));
  }
  result.loss.loss = (result.loss.divergence * kl_weight + result.loss.cross_entropy * ce_weight).sum() /
                     static_cast<double>(std::max<int64_t>(counted, 1));
  return result;
}

// Its pull: linear in the cotangent of the loss, so that its own backward there is the push.
struct WithGradientPull : torch::autograd::Function<WithGradientPull> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& gradient, const at::Tensor& d_loss) {
    context->save_for_backward({gradient, d_loss});
    return gradient * d_loss.to(gradient.scalar_type());
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list direction) {
    if (context->needs_input_grad(0)) fail_computation("distillation_loss: second derivatives are not offered");
    const auto saved = context->get_saved_variables();
    return {{}, {}, (saved[0] * direction[0]).sum().to(saved[1].scalar_type())};
  }
};

// The loss again, with the gradient that was computed beside it.
struct WithGradient : torch::autograd::Function<WithGradient> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden, const at::Tensor& loss,
                            const at::Tensor& gradient) {
    context->save_for_backward({hidden, gradient});
    return loss.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list d_loss) {
    const auto saved = context->get_saved_variables();
    return {WithGradientPull::apply(saved[0], saved[1], d_loss[0]), {}, {}};
  }
};

}  // namespace

FrozenHead freeze_head(const at::Tensor& weight_any) {
  require(weight_any.dim() == 2 && weight_any.size(0) >= 1 && weight_any.size(1) >= 1,
          "freeze_head: weight must be [V, M], not {}", weight_any.sizes());
  auto dtype = weight_any.scalar_type();
  require(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16,
          "freeze_head: weight is {}, not float32, float64 or bfloat16", c10::toString(dtype));
  if (weight_any.is_cpu() && dtype == at::kBFloat16 && (!simd::kHasBFloat16Products || weight_any.size(1) % 2 != 0))
    dtype = at::kFloat;
  const at::NoGradGuard no_gradients;
  FrozenHead head;
  head.weight = weight_any.detach().to(dtype).contiguous();
  if (!head.weight.is_cpu()) return head;
  const int64_t vocabulary = head.vocabulary(), width = head.width(), panels = round_up(vocabulary, kPanel) / kPanel;
  head.transposed = at::zeros({panels, width, kPanelStride}, head.weight.options());
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t rows = std::min(kPanel, vocabulary - p * kPanel);
    head.transposed[p].narrow(1, 0, rows).copy_(head.weight.narrow(0, p * kPanel, rows).t());
  }
  return head;
}

DistillationLoss distillation_loss(const at::Tensor& hidden, const FrozenHead& head, const TokenTargets& targets,
                                   double kl_weight, double ce_weight) {
  check_hidden("distillation_loss", hidden, head);
  const int64_t tokens = hidden.size(0);
  check_next("distillation_loss", targets.next, tokens, head.vocabulary());
  require(std::isfinite(kl_weight) && std::isfinite(ce_weight),
          "distillation_loss: weights must be finite, not {} and {}", kl_weight, ce_weight);
  auto ids = at::empty({tokens, 0}, hidden.options().dtype(at::kInt));
  auto log_probs = at::empty({tokens, 0}, hidden.options().dtype(at::kFloat));
  if (targets.ids.defined()) {
    ids = targets.ids.contiguous(), log_probs = targets.log_probs.detach().contiguous();
    require(ids.dim() == 2 && ids.size(0) == tokens && ids.scalar_type() == at::kInt &&
                log_probs.sizes() == ids.sizes() && log_probs.scalar_type() == at::kFloat,
            "distillation_loss: ids and log_probs must be int32 and float32 [{}, K], not {} {} and {} {}", tokens,
            c10::toString(ids.scalar_type()), ids.sizes(), c10::toString(log_probs.scalar_type()), log_probs.sizes());
    if (ids.numel() > 0) {
      const int low = ids.min().item<int>(), high = ids.max().item<int>();
      require(low >= -1 && high < head.vocabulary(),
              "distillation_loss: teacher ids from {} to {} are not within -1 to {}", low, high, head.vocabulary() - 1);
    }
  }
  if (!hidden.is_cpu())
    return plain::distillation_loss(hidden, head, {targets.next, ids, log_probs}, kl_weight, ce_weight);
  const bool with_gradient = hidden.requires_grad() && at::GradMode::is_enabled();
  auto result = [&] {
    const at::NoGradGuard no_gradients;
    return dispatch(head, [&](auto type) {
      return distill<decltype(type)>(hidden.detach(), head, targets.next.contiguous(), ids, log_probs, kl_weight,
                                     ce_weight, with_gradient);
    });
  }();
  if (with_gradient) result.loss.loss = WithGradient::apply(hidden, result.loss.loss, result.gradient);
  return result.loss;
}

}  // namespace unbend
