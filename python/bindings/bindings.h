// The Python module, in parts. Everything here takes and gives flat lists of tensors: python/unbend/ puts them into the
// shapes that callers use.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

namespace unbend {

/// Work runs without the interpreter's lock; Python functions that it calls take it again.
using Released = pybind11::call_guard<pybind11::gil_scoped_release>;

/// What code without LibTorch gives: [n], float64.
inline at::Tensor tensor(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

void bind_maps(pybind11::module_& module);
void bind_solvers(pybind11::module_& module);
void bind_spectra(pybind11::module_& module);
void bind_mixers(pybind11::module_& module);
void bind_networks(pybind11::module_& module);
void bind_parameterization(pybind11::module_& module);
void bind_transport(pybind11::module_& module);
void bind_optimize(pybind11::module_& module);
void bind_forecast(pybind11::module_& module);

}  // namespace unbend
