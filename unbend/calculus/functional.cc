#include "unbend/calculus/functional.h"

#include <unordered_set>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_node.h"

namespace unbend::functional {
namespace {

// The function that is varied: f, but not the same expression.
struct Variable final : Node {
  explicit Variable(const Fn& f) : Node(f.type(), f.grids(), {f}) {}
  std::string name() const override { return "variable"; }
  bool shared() const override { return false; }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    return evaluate(in[0], point, pending);
  }
  Tangent jacobian(int arg) const override { return {}; }
  Series series(const SeriesOf& of, const Series& x) const override { return of(in[0], x); }
  Tangent push(const Tangents& d) const override { return d[0]; }  // of an outer variation
  Tangents pull(const Fn& c, const std::vector<bool>&) const override { return {c}; }
};

using Map = std::unordered_map<const Node*, Fn>;

std::vector<Fn> variables_for(const std::vector<Fn>& at) {
  require(!at.empty(), "linearize: no functions are given");
  std::vector<Fn> variables;
  for (const Fn& f : at) variables.push_back(make<Variable>(f));
  return variables;
}

// Everything below `root` that depends on one of `variables`, inputs first. Without recursion: expressions can be deep.
std::vector<Fn> dependents(const Fn& root, const std::vector<Fn>& variables) {
  std::unordered_map<const Node*, bool> depends;
  std::vector<Fn> order;
  for (const Fn& v : variables) depends[&v.node()] = true;
  std::vector<std::pair<Fn, std::size_t>> stack{{root, 0}};
  while (!stack.empty()) {
    const Fn f = stack.back().first;
    if (depends.contains(&f.node())) {
      stack.pop_back();
      continue;
    }
    if (const std::size_t next = stack.back().second++; next < f.node().in.size()) {
      stack.emplace_back(f.node().in[next], 0);
      continue;
    }
    bool any = false;
    for (const Fn& input : f.node().in) any = any || depends[&input.node()];
    depends[&f.node()] = any;
    if (any) order.push_back(f);
    stack.pop_back();
  }
  return order;
}

}  // namespace

FunctionalLinearization::FunctionalLinearization(const FunctionalOfMany& functional, const std::vector<Fn>& at)
    : variables_(variables_for(at)), value_(functional(variables_)), order_(dependents(value_, variables_)) {}

Fn FunctionalLinearization::push(const std::vector<Fn>& df) const {
  require(df.size() == variables_.size(), "push: {} directions for {} functions", df.size(), variables_.size());
  Map tangents;
  for (std::size_t i = 0; i < df.size(); ++i) {
    require(df[i].type() == variables_[i].type(), "push: a direction {} for a function {}", signature(df[i]),
            signature(variables_[i]));
    if (!is_zero(df[i])) tangents.emplace(&variables_[i].node(), df[i]);
  }
  for (const Fn& f : order_) {
    Tangents d;
    bool any = false;
    for (const Fn& input : f.node().in) {
      const auto found = tangents.find(&input.node());
      d.push_back(found == tangents.end() ? Tangent() : found->second);
      any = any || d.back();
    }
    if (!any) continue;
    if (const Tangent result = f.node().push(d)) tangents.emplace(&f.node(), *result);
  }
  const auto found = tangents.find(&value_.node());
  return found == tangents.end() ? zero(value_.type()) : found->second;
}

std::vector<std::pair<Fn, Fn>> FunctionalLinearization::cotangents(const Fn& c) const {
  require(c.type() == value_.type(), "pull: a cotangent {} for a value {}", signature(c), signature(value_));
  std::unordered_set<const Node*> varied;
  for (const Fn& v : variables_) varied.insert(&v.node());
  for (const Fn& f : order_) varied.insert(&f.node());
  Map sums;
  if (varied.contains(&value_.node())) sums.emplace(&value_.node(), c);
  std::vector<std::pair<Fn, Fn>> arrived;
  for (auto f = order_.rbegin(); f != order_.rend(); ++f) {
    const auto own = sums.find(&f->node());
    if (own == sums.end()) continue;
    const Fn cotangent = own->second;
    arrived.emplace_back(*f, cotangent);
    const std::vector<Fn>& inputs = f->node().in;
    std::vector<bool> wanted;
    for (const Fn& input : inputs) wanted.push_back(varied.contains(&input.node()));
    const Tangents parts = f->node().pull(cotangent, wanted);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!wanted[i] || !parts[i] || is_zero(*parts[i])) continue;
      const auto [entry, first] = sums.emplace(&inputs[i].node(), *parts[i]);
      if (!first) entry->second = add(entry->second, *parts[i]);
    }
  }
  for (const Fn& v : variables_) {
    const auto own = sums.find(&v.node());
    arrived.emplace_back(v, own == sums.end() ? zero(v.type()) : own->second);
  }
  return arrived;
}

std::vector<Fn> FunctionalLinearization::pull(const Fn& c) const {
  const auto arrived = cotangents(c);
  std::vector<Fn> last;
  for (std::size_t i = arrived.size() - variables_.size(); i < arrived.size(); ++i) last.push_back(arrived[i].second);
  return last;
}

FunctionalLinearization linearize(const FunctionalOfMany& functional, const std::vector<Fn>& at) {
  return {functional, at};
}

FunctionalLinearization linearize(const Functional& functional, const Fn& at) {
  return {[&](const std::vector<Fn>& f) { return functional(f[0]); }, {at}};
}

std::vector<Fn> gradients(const FunctionalOfMany& functional, const std::vector<Fn>& at) {
  const FunctionalLinearization derivative(functional, at);
  const FnType& type = derivative.value().type();
  require(type.args.empty() && type.ret == SpecTree(Spec{{}, leaves(type.ret)[0].dtype}),
          "gradient: the functional gives {}, not a number; linearize() it and pull", to_string(type));
  return derivative.pull(filled(1, type.ret.spec(), {}));
}

Fn gradient(const Functional& functional, const Fn& at) {
  return gradients([&](const std::vector<Fn>& f) { return functional(f[0]); }, {at})[0];
}

Fn second_variation(const Functional& functional, const Fn& at, const Fn& df) {
  return linearize([&](const Fn& f) { return gradient(functional, f); }, at).push(df);
}

std::vector<Fn> boundary_residual(const Functional& functional, const Fn& at) {
  const FunctionalLinearization derivative = linearize(functional, at);
  const FnType& type = derivative.value().type();
  require(type.args.empty() && !type.ret.is_tuple() && type.ret.spec().shape.empty(),
          "boundary_residual: the functional gives {}, not a number", to_string(type));
  std::unordered_map<const Node*, std::size_t> order{{&derivative.variables()[0].node(), 0}};
  const auto arrived = derivative.cotangents(filled(1, type.ret.spec(), {}));
  std::vector<Fn> residuals;
  for (auto entry = arrived.rbegin(); entry != arrived.rend(); ++entry) {  // inputs first
    const Node& node = entry->first.node();
    if (node.name() != "nabla") continue;
    const auto below = order.find(&node.in[0].node());
    require(below != order.end(),
            "boundary_residual: a derivative is taken of an expression in f; write it in terms of f and nabla(f)");
    order[&node] = below->second + 1;
    require(residuals.size() == below->second, "boundary_residual: f has more than one argument that is derived by");
    residuals.push_back(entry->second);
  }
  return residuals;
}

}  // namespace unbend::functional
