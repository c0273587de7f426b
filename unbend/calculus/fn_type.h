// Types of functions: what goes in, what comes out.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

namespace unbend::functional {

using Tensors = std::vector<at::Tensor>;

/// Shape and type of one tensor, without the axes of a batch of points.
struct Spec {
  std::vector<std::int64_t> shape = {};
  at::ScalarType dtype = at::kDouble;

  std::int64_t dims() const { return static_cast<std::int64_t>(shape.size()); }
  std::int64_t numel() const;
  bool operator==(const Spec&) const = default;
};

/// A float64 tensor of that shape; none: a number.
Spec real(std::vector<std::int64_t> shape = {});

/// A Spec, or a tuple of SpecTrees. Values of it are passed as the flat list of its leaves, in order.
class SpecTree {
 public:
  SpecTree(Spec spec = {}) : spec_(std::move(spec)) {}                                        // NOLINT: by design
  explicit SpecTree(std::vector<SpecTree> items) : tuple_(true), items_(std::move(items)) {}  ///< a tuple

  bool is_tuple() const { return tuple_; }
  const Spec& spec() const { return spec_; }  ///< of a leaf
  const std::vector<SpecTree>& items() const { return items_; }
  bool operator==(const SpecTree&) const = default;

 private:
  bool tuple_ = false;
  Spec spec_;
  std::vector<SpecTree> items_;
};

std::vector<Spec> leaves(const SpecTree& tree);
std::vector<Spec> leaves(const std::vector<SpecTree>& trees);

/// The arguments of a function play the part of continuous indices, its result the part of an array's element.
struct FnType {
  SpecTree ret;
  std::vector<SpecTree> args;
  bool operator==(const FnType&) const = default;
};

std::string to_string(const SpecTree& tree);  ///< "f64[3]", "f64", "(f64, f32[2])"
std::string to_string(const FnType& type);    ///< "(f64[3], f64) -> f64"

}  // namespace unbend::functional
