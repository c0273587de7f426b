// Function transforms of PyTorch (torch.func.grad, jvp, vmap), which see into tensor operations and not into kernels.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/DispatchKeySet.h>

namespace unbend {

/// Whether one of the tensors belongs to a transform: then only plain operations will do, without questions about
/// values, which under vmap have no one answer. Undefined tensors do not.
template <class... Tensors>
bool under_transform(const Tensors&... tensors) {
  constexpr c10::DispatchKeySet kTransforms(
      {c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::FuncTorchBatched});
  return ((tensors.defined() && tensors.key_set().has_any(kTransforms)) || ...);
}

}  // namespace unbend
