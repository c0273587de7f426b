// The vector spaces that linear maps go between: trees of real tensors with fixed shapes.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/tensor/tree.h"

namespace unbend {

/// One tensor of a space.
struct Leaf {
  std::vector<int64_t> shape = {};
  at::ScalarType dtype = at::kDouble;
  at::Device device = at::kCPU;

  int64_t numel() const;
  bool operator==(const Leaf&) const = default;
};

/// A vector of the space is a Tensors with one tensor per leaf; its inner product is the sum over all elements. Many
/// vectors at once are a Tensors whose tensors have one more axis in front, of the same size K in all leaves.
struct Space {
  std::vector<Leaf> leaves;

  int64_t dim() const;           ///< number of elements of all leaves
  at::ScalarType dtype() const;  ///< widest dtype of the leaves, at least float32: what flat vectors have
  at::Device device() const;     ///< throws Error (Input) if the leaves are on several devices
  bool operator==(const Space&) const = default;
};

Space space_of(const Tensors& x);
Space concatenate(const std::vector<Space>& spaces);

/// "{float32 [2, 3], float32 [3]}".
std::string to_string(const Space& space);

/// x is one vector of the space, or `many` (K then is returned). Throws Error (Input) that names `what`.
void check_vector(const Tensors& x, const Space& space, std::string_view what);
int64_t check_vectors(const Tensors& x, const Space& space, std::string_view what);

Tensors zeros(const Space& space);
/// Independent standard normal entries, and independent entries of +1 or -1; K vectors if `many` is positive.
Tensors random_normals(const Space& space, Random& random, int64_t many = 0);
Tensors random_signs(const Space& space, Random& random, int64_t many = 0);

/// One contiguous vector [n] of the space's widest dtype, and back (views where the dtype is the leaf's).
at::Tensor flatten(const Tensors& x, const Space& space);
Tensors unflatten(const at::Tensor& flat, const Space& space);
/// The same into a tensor [n] that exists.
void flatten_into(const Tensors& x, const Space& space, const at::Tensor& flat);
/// The same for K vectors: [K, n].
at::Tensor flatten_many(const Tensors& x, const Space& space);
Tensors unflatten_many(const at::Tensor& flat, const Space& space);

/// Vector `i` of many.
Tensors select(const Tensors& many, int64_t i);

/// Sum of products, accumulated in float64 for float64 leaves and in float32 sums per leaf otherwise.
double inner(const Tensors& a, const Tensors& b);
double norm(const Tensors& x);

}  // namespace unbend
