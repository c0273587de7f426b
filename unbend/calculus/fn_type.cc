#include "unbend/calculus/fn_type.h"

#include <fmt/ranges.h>

#include "unbend/base/error.h"

namespace unbend::functional {
namespace {

std::string dtype_string(at::ScalarType type) {
  if (type == at::kDouble) return "f64";
  if (type == at::kFloat) return "f32";
  return c10::toString(type);
}

std::string joined(const std::vector<SpecTree>& trees) {
  std::vector<std::string> parts;
  for (const SpecTree& tree : trees) parts.push_back(to_string(tree));
  return fmt::format("({})", fmt::join(parts, ", "));
}

void collect(const SpecTree& tree, std::vector<Spec>& found) {
  if (!tree.is_tuple()) {
    found.push_back(tree.spec());
    return;
  }
  for (const SpecTree& item : tree.items()) collect(item, found);
}

}  // namespace

std::int64_t Spec::numel() const {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

Spec real(std::vector<std::int64_t> shape) { return {std::move(shape), at::kDouble}; }

std::vector<Spec> leaves(const SpecTree& tree) {
  std::vector<Spec> found;
  collect(tree, found);
  return found;
}

std::vector<Spec> leaves(const std::vector<SpecTree>& trees) {
  std::vector<Spec> found;
  for (const SpecTree& tree : trees) collect(tree, found);
  return found;
}

std::string to_string(const SpecTree& tree) {
  if (tree.is_tuple()) return joined(tree.items());
  const Spec& spec = tree.spec();
  if (spec.shape.empty()) return dtype_string(spec.dtype);
  return fmt::format("{}[{}]", dtype_string(spec.dtype), fmt::join(spec.shape, ", "));
}

std::string to_string(const FnType& type) { return fmt::format("{} -> {}", joined(type.args), to_string(type.ret)); }

}  // namespace unbend::functional
