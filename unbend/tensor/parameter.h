// Trainable tensors by name.
#pragma once

#include <ATen/ATen.h>

#include <string>

namespace unbend {

/// A named trainable tensor, by reference into its owner.
struct Parameter {
  std::string name;
  at::Tensor* tensor;
};

}  // namespace unbend
