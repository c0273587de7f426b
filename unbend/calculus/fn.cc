#include "unbend/calculus/fn.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <mutex>
#include <typeinfo>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_node.h"
#include "unbend/tensor/check.h"

namespace unbend::functional {
namespace {

// All nodes that are alive, so that equal ones are one. It changes no result, only how often something is computed.
struct Table {
  std::mutex mutex;
  std::unordered_map<Key, std::weak_ptr<const Node>, KeyHash> nodes;
  std::size_t swept = 1024;  // size after which expired entries are removed
};

Table& table() {
  static Table instance;
  return instance;
}

Tensors checked_points(const Fn& f, const Tensors& points) {
  const std::vector<Spec>& specs = f.node().points;
  require(points.size() == specs.size(), "a function {} takes {} tensors, not {}", signature(f), specs.size(),
          points.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const at::Tensor& t = points[i];
    require(t.defined() && t.dim() >= specs[i].dims() && t.sizes().slice(batch_dims(t, specs[i])) == specs[i].shape &&
                t.scalar_type() == specs[i].dtype,
            "a function {} takes points {} with batch axes before, not {} of {}", signature(f), to_string(specs[i]),
            t.defined() ? shape_string(t.sizes()) : "nothing",
            t.defined() ? c10::toString(t.scalar_type()) : "nothing");
  }
  return points;
}

Tensors evaluate(const Fn& f, const Tensors& given, Evaluator::Observer observer = {}) {
  Tensors points = checked_points(f, given);
  const Node& node = f.node();
  const bool pending =
      at::GradMode::is_enabled() &&
      (node.parametric || std::ranges::any_of(points, [](const auto& t) { return t.requires_grad(); }));
  const bool differentiates = pending || node.differentiates;
  if (differentiates) {
    for (at::Tensor& t : points) {
      if (!pending || !t.requires_grad()) t = t.detach().requires_grad_(node.differentiates);
    }
  }
  const at::AutoGradMode mode(differentiates);
  Tensors values = Evaluator(node.differentiates, std::move(observer))(f, points, pending);
  const auto batch = batch_of(points, node.points);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = expand_batch(values[i], node.results[i], batch);  // a result may depend on few points
    if (!pending) values[i] = values[i].detach();
  }
  return values;
}

}  // namespace

Fn intern(std::shared_ptr<Node> node) {
  node->points = leaves(node->type.args);
  node->results = leaves(node->type.ret);
  node->offsets = {0};
  for (const SpecTree& arg : node->type.args) node->offsets.push_back(node->offsets.back() + leaves(arg).size());
  node->differentiates = node->own_derivative();
  node->parametric = node->own_parameters();
  node->stopped = node->own_stop();
  for (const Fn& input : node->in) {
    node->differentiates = node->differentiates || input.node().differentiates;
    node->parametric = node->parametric || input.node().parametric;
    node->stopped = node->stopped || input.node().stopped;
  }
  if (!node->shared()) return Fn(std::move(node));

  Key key{typeid(*node).hash_code()};
  for (const Fn& input : node->in) key.push_back(key_of(&input.node()));
  key.push_back(0);
  for (const Grid& grid : node->grids) key.push_back(key_of(grid.id()));
  node->key(key);
  Table& all = table();
  const std::lock_guard lock(all.mutex);
  auto& entry = all.nodes[key];
  if (auto existing = entry.lock()) return Fn(std::move(existing));
  entry = node;
  if (all.nodes.size() > 2 * all.swept) {
    std::erase_if(all.nodes, [](const auto& item) { return item.second.expired(); });
    all.swept = std::max<std::size_t>(1024, all.nodes.size());
  }
  return Fn(std::move(node));
}

Node::Node(FnType t, std::vector<Grid> g, std::vector<Fn> i)
    : type(std::move(t)), grids(std::move(g)), in(std::move(i)) {
  grids.resize(type.args.size());
}

// A long chain must not be destroyed by recursion.
Node::~Node() {
  std::vector<Fn> pending = std::move(in);
  while (!pending.empty()) {
    const Fn last = std::move(pending.back());
    pending.pop_back();
    if (last.shared().use_count() != 1) continue;
    auto& inputs = const_cast<Node&>(last.node()).in;  // NOLINT: nobody else has it
    std::move(inputs.begin(), inputs.end(), std::back_inserter(pending));
    inputs.clear();
  }
}

Tensors Node::slice(const Tensors& point, int index) const {
  return {point.begin() + static_cast<std::ptrdiff_t>(offsets[index]),
          point.begin() + static_cast<std::ptrdiff_t>(offsets[index + 1])};
}

Fn::Fn(double number) : node_(filled(number, Spec{}, {}).shared()) {}

const FnType& Fn::type() const { return node_->type; }
const std::vector<Grid>& Fn::grids() const { return node_->grids; }
int Fn::arity() const { return static_cast<int>(node_->type.args.size()); }

Tensors Fn::operator()(const Tensors& points) const { return evaluate(*this, points); }

at::Tensor Fn::operator()(const at::Tensor& points) const {
  result_spec(*this, "a call with one tensor");
  return evaluate(*this, {points})[0];
}

double Fn::operator()(double x) const { return (*this)(at::scalar_tensor(x, at::kDouble)).item<double>(); }

double Fn::operator()(double x, double y) const {
  result_spec(*this, "a call with two numbers");
  return evaluate(*this, {at::scalar_tensor(x, at::kDouble), at::scalar_tensor(y, at::kDouble)})[0].item<double>();
}

Fn Fn::operator()(const Fn& g) const { return compose(*this, {g}); }
Fn Fn::operator()(const Fn& g, const Fn& h) const { return compose(*this, {g, h}); }

at::Tensor Fn::tensor() const {
  result_spec(*this, "tensor()");
  return evaluate(*this, {})[0];
}

double Fn::value() const {
  const Spec& spec = result_spec(*this, "value()");
  require(spec.shape.empty(), "value(): the result of {} is not a number", signature(*this));
  return tensor().item<double>();
}

std::string signature(const Fn& f) { return to_string(f.type()); }

std::optional<std::string> first_nan(const Fn& f, const Tensors& points) {
  std::optional<std::string> found;
  const auto has_nan = [](const Tensors& all) {
    return std::ranges::any_of(all, [](const at::Tensor& t) { return at::isnan(t).any().item<bool>(); });
  };
  evaluate(f, points, [&](const Node& node, const Tensors& point, const Tensors& values) {
    if (!found && has_nan(values) && !has_nan(point)) found = node.name();
  });
  return found;
}

// ---- Checks and batches

void check_args(const std::vector<int>& args, const Fn& f, const char* what) {
  for (std::size_t i = 0; i < args.size(); ++i) {
    require(args[i] >= 0 && args[i] < f.arity(), "{}: there is no argument {} in {}", what, args[i], signature(f));
    require(std::find(args.begin(), args.begin() + static_cast<std::ptrdiff_t>(i), args[i]) ==
                args.begin() + static_cast<std::ptrdiff_t>(i),
            "{}: argument {} is given twice", what, args[i]);
  }
}

const Spec& result_spec(const Fn& f, const char* what) {
  require(!f.type().ret.is_tuple(), "{}: the result of {} is a tuple; split() it first", what, signature(f));
  return f.type().ret.spec();
}

std::int64_t batch_dims(const at::Tensor& t, const Spec& spec) { return t.dim() - spec.dims(); }

std::vector<std::int64_t> batch_of(const Tensors& point, const std::vector<Spec>& specs) {
  std::vector<std::int64_t> batch;
  for (std::size_t i = 0; i < point.size(); ++i) {
    const auto own = point[i].sizes().slice(0, batch_dims(point[i], specs[i]));
    if (own == at::IntArrayRef(batch)) continue;
    batch = at::infer_size(batch, own);
  }
  return batch;
}

at::Tensor expand_batch(const at::Tensor& t, const Spec& spec, at::IntArrayRef batch) {
  if (t.sizes().slice(0, batch_dims(t, spec)) == batch) return t;
  std::vector<std::int64_t> sizes = batch.vec();
  sizes.insert(sizes.end(), spec.shape.begin(), spec.shape.end());
  return t.expand(sizes);
}

at::Tensor weighted_sum(const at::Tensor& values, const Spec& spec, const at::Tensor& weights, std::int64_t depth) {
  const auto w = weights.to(values.scalar_type());
  if (batch_dims(values, spec) <= depth) return values * w.sum();
  if (values.size(0) == 1 && w.size(0) != 1) return values.select(0, 0) * w.sum();
  return at::tensordot(w, values, {0}, {0});
}

std::vector<Grid> merged_grids(const std::vector<Fn>& functions) {
  std::vector<Grid> grids;
  for (const Fn& f : functions) {
    grids.resize(std::max(grids.size(), f.grids().size()));
    for (std::size_t i = 0; i < f.grids().size(); ++i) {
      if (!grids[i]) grids[i] = f.grids()[i];
    }
  }
  return grids;
}

}  // namespace unbend::functional
