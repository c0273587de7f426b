#include "unbend/calculus/space.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

std::vector<int64_t> with_front(int64_t many, at::IntArrayRef shape) {
  std::vector<int64_t> full{many};
  full.insert(full.end(), shape.begin(), shape.end());
  return full;
}

at::TensorOptions options_of(const Leaf& leaf) { return at::TensorOptions().dtype(leaf.dtype).device(leaf.device); }

// `draw` makes float32, float64 or complex numbers on the CPU from a shape and options.
template <class Draw>
Tensors draw_leaves(const Space& space, int64_t many, const Draw& draw) {
  Tensors x;
  for (const Leaf& leaf : space.leaves) {
    const auto type = at::isComplexType(leaf.dtype) ? leaf.dtype : leaf.dtype == at::kDouble ? at::kDouble : at::kFloat;
    x.push_back(draw(many > 0 ? with_front(many, leaf.shape) : leaf.shape, at::TensorOptions().dtype(type))
                    .to(options_of(leaf)));
  }
  return x;
}

at::Tensor as_reals(const at::Tensor& x) { return x.is_complex() ? at::view_as_real(x.resolve_conj()) : x; }

void check_leaf(const at::Tensor& x, const Leaf& leaf, at::IntArrayRef shape, size_t i, std::string_view what) {
  require(x.defined(), "{}: tensor {} is undefined", what, i);
  require(shape == leaf.shape && x.scalar_type() == leaf.dtype && x.device() == leaf.device,
          "{}: tensor {} is {} {} on {}, expected {} {} on {}", what, i, at::toString(x.scalar_type()),
          shape_string(shape), x.device().str(), at::toString(leaf.dtype), shape_string(leaf.shape), leaf.device.str());
}

void check_count(const Tensors& x, const Space& space, std::string_view what) {
  require(x.size() == space.leaves.size(), "{} has {} tensors, expected {}: {}", what, x.size(), space.leaves.size(),
          to_string(space));
}

}  // namespace

int64_t Leaf::numel() const {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

int64_t Space::dim() const {
  int64_t n = 0;
  for (const Leaf& leaf : leaves) n += leaf.numel();
  return n;
}

at::ScalarType Space::dtype() const {
  const bool wide = std::ranges::any_of(leaves, [](const Leaf& leaf) { return leaf.dtype == at::kDouble; });
  return wide ? at::kDouble : at::kFloat;
}

at::Device Space::device() const {
  if (leaves.empty()) return at::kCPU;
  for (const Leaf& leaf : leaves) {
    require(leaf.device == leaves[0].device, "the space {} is on several devices ({} and {}): a flat vector needs one",
            to_string(*this), leaves[0].device.str(), leaf.device.str());
  }
  return leaves[0].device;
}

Space space_of(const Tensors& x) {
  Space space;
  for (const at::Tensor& t : x) space.leaves.push_back({t.sizes().vec(), t.scalar_type(), t.device()});
  return space;
}

Space concatenate(const std::vector<Space>& spaces) {
  Space all;
  for (const Space& space : spaces) all.leaves.insert(all.leaves.end(), space.leaves.begin(), space.leaves.end());
  return all;
}

std::string to_string(const Space& space) {
  std::string text;
  for (const Leaf& leaf : space.leaves) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", at::toString(leaf.dtype), shape_string(leaf.shape));
    if (!leaf.device.is_cpu()) text += " on " + leaf.device.str();
  }
  return "{" + text + "}";
}

void check_vector(const Tensors& x, const Space& space, std::string_view what) {
  check_count(x, space, what);
  for (size_t i = 0; i < x.size(); ++i) check_leaf(x[i], space.leaves[i], x[i].sizes(), i, what);
}

int64_t check_vectors(const Tensors& x, const Space& space, std::string_view what) {
  check_count(x, space, what);
  int64_t many = -1;
  for (size_t i = 0; i < x.size(); ++i) {
    require(x[i].defined() && x[i].dim() >= 1, "{}: tensor {} must have a leading axis of vectors", what, i);
    check_leaf(x[i], space.leaves[i], x[i].sizes().slice(1), i, what);
    if (many < 0) many = x[i].size(0);
    require(x[i].size(0) == many, "{}: tensor {} has {} vectors, but tensor 0 has {}", what, i, x[i].size(0), many);
  }
  return std::max<int64_t>(many, 0);
}

Tensors zeros(const Space& space) {
  Tensors x;
  for (const Leaf& leaf : space.leaves) x.push_back(at::zeros(leaf.shape, options_of(leaf)));
  return x;
}

Tensors random_normals(const Space& space, Random& random, int64_t many) {
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(random.bits());
  return draw_leaves(space, many, [&](at::IntArrayRef shape, at::TensorOptions options) {
    return at::randn(shape, generator, options);
  });
}

Tensors random_signs(const Space& space, Random& random, int64_t many) {
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(random.bits());
  return draw_leaves(space, many, [&](at::IntArrayRef shape, at::TensorOptions options) {
    return at::randint(0, 2, shape, generator, options).mul_(2).sub_(1);
  });
}

void flatten_into(const Tensors& x, const Space& space, const at::Tensor& flat) {
  int64_t offset = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t n = space.leaves[i].numel();
    flat.narrow(0, offset, n).view(space.leaves[i].shape).copy_(x[i]);
    offset += n;
  }
}

at::Tensor flatten(const Tensors& x, const Space& space) {
  const auto type = space.dtype();
  if (x.size() == 1) return x[0].reshape({-1}).to(type).contiguous();
  auto flat = at::empty({space.dim()}, at::TensorOptions().dtype(type).device(space.device()));
  flatten_into(x, space, flat);
  return flat;
}

Tensors unflatten(const at::Tensor& flat, const Space& space) {
  Tensors x;
  int64_t offset = 0;
  for (const Leaf& leaf : space.leaves) {
    x.push_back(flat.narrow(0, offset, leaf.numel()).view(leaf.shape).to(leaf.dtype));
    offset += leaf.numel();
  }
  return x;
}

at::Tensor flatten_many(const Tensors& x, const Space& space) {
  Tensors parts;
  for (size_t i = 0; i < x.size(); ++i)
    parts.push_back(x[i].reshape({x[i].size(0), space.leaves[i].numel()}).to(space.dtype()));
  return parts.size() == 1 ? parts[0].contiguous() : at::cat(parts, 1);
}

Tensors unflatten_many(const at::Tensor& flat, const Space& space) {
  Tensors x;
  int64_t offset = 0;
  for (const Leaf& leaf : space.leaves) {
    x.push_back(flat.narrow(1, offset, leaf.numel()).reshape(with_front(flat.size(0), leaf.shape)).to(leaf.dtype));
    offset += leaf.numel();
  }
  return x;
}

Tensors select(const Tensors& many, int64_t i) {
  Tensors x;
  for (const at::Tensor& t : many) x.push_back(t.select(0, i));
  return x;
}

double inner(const Tensors& a, const Tensors& b) {
  const at::NoGradGuard no_gradients;
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto x = as_reals(a[i]), y = as_reals(b[i]);
    const auto type = x.scalar_type() == at::kDouble || y.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    sum += at::dot(x.reshape({-1}).to(type), y.reshape({-1}).to(type)).item<double>();
  }
  return sum;
}

double norm(const Tensors& x) { return std::sqrt(inner(x, x)); }

}  // namespace unbend
