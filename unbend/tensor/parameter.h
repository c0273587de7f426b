// Trainable tensors by name.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

namespace unbend {

/// A named trainable tensor, by reference into its owner.
struct Parameter {
  std::string name;
  at::Tensor* tensor;
};

/// Copies tensors by name into `parameters`; Input error (naming `where`) unless names, shapes and floating types all
/// fit and every number is finite.
void assign(const std::vector<Parameter>& parameters, const std::map<std::string, at::Tensor>& tensors,
            const std::string& where);

}  // namespace unbend
