// Linear maps of a decoder: frozen weights, optional bias, optional low-rank correction per named part.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "unbend/base/random.h"

namespace unbend::lm {

/// A low-rank correction scale * B A of a weight [out, in] (Hu et al. 2021, eq. 3). A is Kaiming-uniform, B zero at the
/// start.
struct Lora {
  at::Tensor a;  ///< [rank, in]
  at::Tensor b;  ///< [out, rank]
  double scale = 1;
  bool defined() const { return a.defined(); }
};

Lora make_lora(std::int64_t in, std::int64_t out, std::int64_t rank, double alpha, Random& random);

/// y = x W^T + bias, where W [out, in] is the row-wise concatenation of the named parts, each of which may carry a
/// Lora.
struct Projection {
  struct Part {
    std::string name;  ///< "q", "k", "v", "gate", "up", ...
    std::int64_t rows;
    Lora lora;
  };
  at::Tensor weight, bias;
  std::vector<Part> parts;

  std::int64_t in() const { return weight.size(1); }
  std::int64_t out() const { return weight.size(0); }

  /// x [.., in] in any floating type, converted to the weight's; result in the weight's type, [.., out].
  at::Tensor operator()(const at::Tensor& x) const;

  /// The weight with every Lora added, in the weight's type.
  at::Tensor merged_weight() const;
};

/// Uniform and normal tensors from an explicit generator (equal on every platform), float32.
at::Tensor random_uniform(at::IntArrayRef shape, double low, double high, Random& random);
at::Tensor random_normal(at::IntArrayRef shape, double deviation, Random& random);

}  // namespace unbend::lm
