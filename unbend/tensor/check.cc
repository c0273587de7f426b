#include "unbend/tensor/check.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend {
namespace {

std::string dims_string(at::IntArrayRef shape) {
  std::string text;
  for (const auto size : shape)
    text += (text.empty() ? "" : ", ") + (size < 0 ? std::string("any") : std::to_string(size));
  return "[" + text + "]";
}

void check_defined(const at::Tensor& t, std::string_view name) {
  require(t.defined(), "{} is an undefined tensor", name);
}

// "[3, 17]" for the flat index of an element.
std::string index_string(std::int64_t flat, at::IntArrayRef shape) {
  std::vector<std::int64_t> index(shape.size());
  for (auto i = shape.size(); i-- > 0; flat /= shape[i]) index[i] = flat % shape[i];
  return dims_string(index);
}

}  // namespace

std::string shape_string(at::IntArrayRef shape) { return dims_string(shape); }

void check_shape(const at::Tensor& t, std::initializer_list<std::int64_t> shape, std::string_view name) {
  check_defined(t, name);
  const auto fits = [](std::int64_t wanted, std::int64_t size) { return wanted < 0 || wanted == size; };
  require(std::ranges::equal(shape, t.sizes(), fits), "{} has shape {}, expected {}", name, dims_string(t.sizes()),
          dims_string({shape.begin(), shape.size()}));
}

void check_dims(const at::Tensor& t, std::int64_t dims, std::string_view name) {
  check_defined(t, name);
  require(t.dim() == dims, "{} has shape {}, expected {} dimensions", name, dims_string(t.sizes()), dims);
}

void check_dtype(const at::Tensor& t, at::ScalarType type, std::string_view name) {
  check_defined(t, name);
  require(t.scalar_type() == type, "{} is {}, expected {}", name, at::toString(t.scalar_type()), at::toString(type));
}

void check_floating(const at::Tensor& t, std::string_view name) {
  check_defined(t, name);
  require(t.is_floating_point(), "{} is {}, expected a floating-point tensor", name, at::toString(t.scalar_type()));
}

void check_same_type(const at::Tensor& a, std::string_view a_name, const at::Tensor& b, std::string_view b_name) {
  check_defined(a, a_name);
  check_defined(b, b_name);
  require(a.scalar_type() == b.scalar_type() && a.device() == b.device(), "{} is {} on {}, but {} is {} on {}", a_name,
          at::toString(a.scalar_type()), a.device().str(), b_name, at::toString(b.scalar_type()), b.device().str());
}

void check_finite(const at::Tensor& t, std::string_view name) {
  check_floating(t, name);
  const at::NoGradGuard no_grad;
  const auto bad = at::isfinite(t).logical_not().flatten();
  const auto count = bad.sum().item<std::int64_t>();
  if (count == 0) return;
  const auto first = bad.to(at::kByte).argmax().item<std::int64_t>();
  const auto value = t.flatten()[first].item<double>();
  fail_input("{} has {} of {} values that are not finite, the first ({}) at {}", name, count, t.numel(),
             std::isnan(value) ? "NaN"
             : value > 0       ? "inf"
                               : "-inf",
             index_string(first, t.sizes()));
}

void check_indices(const at::Tensor& t, std::int64_t bound, std::string_view name) {
  check_defined(t, name);
  require(at::isIntegralType(t.scalar_type(), false), "{} is {}, expected integers", name,
          at::toString(t.scalar_type()));
  if (t.numel() == 0) return;
  const auto [least, most] = t.aminmax();
  require(least.item<std::int64_t>() >= 0 && most.item<std::int64_t>() < bound,
          "{} has values from {} to {}, expected [0, {})", name, least.item<std::int64_t>(), most.item<std::int64_t>(),
          bound);
}

}  // namespace unbend
