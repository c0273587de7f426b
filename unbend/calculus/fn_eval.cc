// Evaluation with a memo.
#include "unbend/calculus/fn_node.h"

namespace unbend::functional {

std::size_t KeyHash::operator()(const Key& key) const {
  std::uint64_t hash = 0x9E3779B97F4A7C15ULL;
  for (const std::uint64_t word : key) {
    hash = (hash ^ word) * 0xBF58476D1CE4E5B9ULL;
    hash ^= hash >> 29;
  }
  return hash;
}

Tensors Evaluator::operator()(const Fn& f, const Tensors& point, bool pending) {
  const Node& node = f.node();
  Key key{key_of(&node)};
  for (const at::Tensor& t : point) key.push_back(key_of(t.unsafeGetTensorImpl()));
  if (const auto found = memo_.find(key); found != memo_.end() && (found->second.complete || !pending)) {
    return found->second.values;
  }
  Tensors values = node.eval(*this, point, pending);
  if (observer_) observer_(node, point, values);
  memo_.insert_or_assign(std::move(key), Entry{point, values, pending || !node.differentiates});
  return values;
}

at::Tensor Evaluator::nodes(const Grid& grid, const Spec& spec, std::int64_t depth) {
  at::Tensor& known =
      nodes_[{key_of(grid.id()), static_cast<std::uint64_t>(depth), static_cast<std::uint64_t>(spec.dtype)}];
  if (!known.defined()) {
    std::vector<std::int64_t> sizes{grid.size()};
    sizes.insert(sizes.end(), depth, 1);
    sizes.insert(sizes.end(), spec.shape.begin(), spec.shape.end());
    known = grid.nodes().to(spec.dtype).detach().view(sizes);
    if (differentiates_) known.requires_grad_(true);
  }
  return known;
}

Tensors Evaluator::separate(const std::vector<Spec>& specs, const Tensors& point,
                            const std::vector<std::size_t>& wanted, at::IntArrayRef batch) {
  const auto whole = [&](std::size_t i) { return point[i].sizes().slice(0, batch_dims(point[i], specs[i])) == batch; };
  // The only tensor of a point needs no copy: nothing else can depend on it.
  if (point.size() == 1 && point[0].requires_grad() && whole(0)) return point;
  const auto key_for = [&](const Tensors& p) {
    Key key{wanted.begin(), wanted.end()};
    key.push_back(~std::uint64_t{0});
    for (const at::Tensor& t : p) key.push_back(key_of(t.unsafeGetTensorImpl()));
    key.insert(key.end(), batch.begin(), batch.end());
    return key;
  };
  Key key = key_for(point);
  if (const auto found = separated_.find(key); found != separated_.end()) return found->second.second;
  Tensors copies = point;
  for (const std::size_t i : wanted) {
    const at::Tensor t = expand_batch(point[i], specs[i], batch);
    copies[i] = t.requires_grad() ? at::alias(t) : t.detach().requires_grad_(true);
  }
  separated_.emplace(std::move(key), std::pair{point, copies});
  separated_.emplace(key_for(copies), std::pair{copies, copies});
  return copies;
}

}  // namespace unbend::functional
