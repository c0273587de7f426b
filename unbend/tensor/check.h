// Checks of a caller's tensors. Every failure is an Input error that names the argument and what it is.
#pragma once

#include <ATen/ATen.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace unbend {

/// "[2, 16, 64]"; "[]" for a scalar.
std::string shape_string(at::IntArrayRef shape);

/// `t` is defined and has this shape; -1 stands for any size.
void check_shape(const at::Tensor& t, std::initializer_list<std::int64_t> shape, std::string_view name);
void check_dims(const at::Tensor& t, std::int64_t dims, std::string_view name);

void check_dtype(const at::Tensor& t, at::ScalarType type, std::string_view name);
void check_floating(const at::Tensor& t, std::string_view name);
void check_same_type(const at::Tensor& a, std::string_view a_name, const at::Tensor& b, std::string_view b_name);

/// No NaN and no infinity; the message gives how many there are and where the first one is. Reads the whole tensor.
void check_finite(const at::Tensor& t, std::string_view name);

/// Integers in [0, bound), for example token ids.
void check_indices(const at::Tensor& t, std::int64_t bound, std::string_view name);

}  // namespace unbend
