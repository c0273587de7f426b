#include "unbend/lm/projection.h"

#include <cmath>

#include "unbend/base/error.h"

namespace unbend::lm {

at::Tensor random_uniform(at::IntArrayRef shape, double low, double high, Random& random) {
  auto out = at::empty(shape, at::kFloat);
  auto* data = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) data[i] = static_cast<float>(low + (high - low) * random.uniform());
  return out;
}

at::Tensor random_normal(at::IntArrayRef shape, double deviation, Random& random) {
  auto out = at::empty(shape, at::kFloat);
  auto* data = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) data[i] = static_cast<float>(deviation * random.normal());
  return out;
}

Lora make_lora(std::int64_t in, std::int64_t out, std::int64_t rank, double alpha, Random& random) {
  require(rank > 0 && rank <= std::min(in, out), "LoRA rank {} does not fit a weight [{}, {}]: use 1 to {}", rank, out,
          in, std::min(in, out));
  const double bound = 1 / std::sqrt(static_cast<double>(in));  // Kaiming uniform with a = sqrt(5)
  return {random_uniform({rank, in}, -bound, bound, random), at::zeros({out, rank}), alpha / static_cast<double>(rank)};
}

at::Tensor Projection::operator()(const at::Tensor& x) const {
  const auto input = x.to(weight.scalar_type());
  auto y = at::linear(input, weight, bias);
  std::vector<at::Tensor> down, up;
  bool any = false;
  for (const auto& part : parts) {
    any = any || part.lora.defined();
    up.push_back(part.lora.defined() ? part.lora.b * part.lora.scale
                                     : at::empty({part.rows, 0}, weight.options().dtype(at::kFloat)));
    if (part.lora.defined()) down.push_back(part.lora.a);
  }
  if (!any) return y;
  // One thin product for all parts: the ups are blocks of a block-diagonal matrix.
  const auto a = at::cat(down).to(weight.scalar_type());
  const auto b = at::block_diag(up).to(weight.scalar_type());
  return y + at::linear(at::linear(input, a), b);
}

at::Tensor Projection::merged_weight() const {
  auto merged = weight.to(at::kFloat, false, true);
  std::int64_t row = 0;
  for (const auto& part : parts) {
    if (part.lora.defined()) merged.narrow(0, row, part.rows).add_(at::mm(part.lora.b, part.lora.a), part.lora.scale);
    row += part.rows;
  }
  return merged.to(weight.scalar_type());
}

}  // namespace unbend::lm
