// Primitives that move arguments about: compose, broadcast, partial.
#include <algorithm>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_math.h"
#include "unbend/calculus/fn_node.h"
#include "unbend/tensor/check.h"

namespace unbend::functional {
namespace {

struct Broadcast final : Node {
  std::vector<int> slots;

  Broadcast(const Fn& f, std::vector<SpecTree> target, std::vector<int> s, std::vector<Grid> g)
      : Node({f.type().ret, std::move(target)}, std::move(g), {f}), slots(std::move(s)) {}
  std::string name() const override { return "broadcast_arg"; }
  void key(Key& k) const override {
    k.insert(k.end(), slots.begin(), slots.end());
    for (const Spec& spec : points) {
      k.push_back(spec.shape.size());
      k.insert(k.end(), spec.shape.begin(), spec.shape.end());
      k.push_back(static_cast<std::uint64_t>(spec.dtype));
    }
    k.push_back(type.args.size());
  }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    Tensors own;
    for (const int slot : slots) {
      const Tensors part = slice(point, slot);
      own.insert(own.end(), part.begin(), part.end());
    }
    return evaluate(in[0], own, pending);
  }
  Tangent jacobian(int arg) const override {
    const auto own = std::ranges::find(slots, arg);
    if (own != slots.end()) {
      return broadcast_arg(nabla(in[0], static_cast<int>(own - slots.begin())), type.args, slots, grids);
    }
    std::vector<std::int64_t> shape = result_spec(in[0], "nabla").shape;
    const Spec& by = type.args[arg].spec();
    shape.insert(shape.end(), by.shape.begin(), by.shape.end());
    return filled(0, {shape, results[0].dtype}, type.args, grids);
  }
  Series series(const SeriesOf& of, const Series& x) const override {
    return slots.empty() ? x * 0. + Series({in[0].tensor()}) : Node::series(of, x);
  }
  Tangent push(const Tangents& d) const override { return broadcast_arg(*d[0], type.args, slots, grids); }
  Tangents pull(const Fn& c, const std::vector<bool>&) const override {
    std::vector<int> others, sorted = slots;
    std::ranges::sort(sorted);
    for (int i = 0; i < c.arity(); ++i) {
      if (!std::ranges::binary_search(sorted, i)) others.push_back(i);
    }
    const Fn rest = integrate(on(c, grids), others);  // its arguments are in the order of the target
    std::vector<int> order;                           // argument i of f is argument order[i] of rest
    for (const int slot : slots) {
      order.push_back(static_cast<int>(std::ranges::find(sorted, slot) - sorted.begin()));
    }
    return {permute_args(rest, order)};
  }
};

struct Compose final : Node {
  Compose(const std::vector<Fn>& f_and_g, std::vector<SpecTree> args, std::vector<Grid> g)
      : Node({f_and_g[0].type().ret, std::move(args)}, std::move(g), f_and_g) {}
  std::string name() const override { return "compose"; }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    Tensors own;
    for (std::size_t i = 1; i < in.size(); ++i) {
      const Tensors part = evaluate(in[i], point, pending);
      own.insert(own.end(), part.begin(), part.end());
    }
    return evaluate(in[0], own, pending);
  }
  Series series(const SeriesOf& of, const Series& x) const override {
    return in.size() == 2 ? of(in[0], of(in[1], x)) : Node::series(of, x);
  }
  std::vector<Fn> inner() const { return {in.begin() + 1, in.end()}; }

  Tangent push(const Tangents& d) const override {
    Tangents terms;
    if (d[0]) terms.push_back(compose(*d[0], inner()));
    std::vector<int> moving;
    std::vector<Fn> with_directions = inner();
    for (int i = 1; i < static_cast<int>(d.size()); ++i) {
      if (!d[i]) continue;
      moving.push_back(i - 1);
      with_directions.push_back(*d[i]);
    }
    if (!moving.empty()) terms.push_back(compose(jvp(in[0], moving), with_directions));
    return sum_of(terms);
  }

  Tangents pull(const Fn& c, const std::vector<bool>& wanted) const override {
    Tangents result(in.size());
    if (wanted[0]) {
      fail_input(
          "compose: the pull to the outer function {} needs the inverses of its inner functions; they are undefined "
          "unless these are arguments in some order, or substitute(f, g, g_inverse) names them",
          signature(in[0]));
    }
    std::vector<int> moving;
    for (int i = 1; i < static_cast<int>(in.size()); ++i) {
      if (wanted[i]) moving.push_back(i - 1);
    }
    std::vector<Fn> with_cotangent = inner();
    with_cotangent.push_back(c);
    const Fn all = compose(vjp(in[0], moving), with_cotangent);
    const std::vector<Fn> each = moving.size() == 1 ? std::vector<Fn>{all} : split(all);
    for (std::size_t i = 0; i < moving.size(); ++i) result[moving[i] + 1] = each[i];
    return result;
  }
};

// f(g) for a map whose inverse is known: the density c moves with it.
struct Substitution final : Node {
  explicit Substitution(const Fn& f, const Fn& g, const Fn& inverse)
      : Node({f.type().ret, g.type().args}, g.grids(), {f, g, inverse}) {}
  std::string name() const override { return "substitute"; }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    return evaluate(in[0], evaluate(in[1], point, pending), pending);
  }
  Tangent push(const Tangents& d) const override {
    require(!d[1] && !d[2], "substitute: g and its inverse must not depend on the function that is varied");
    return substitute(*d[0], in[1], in[2]);
  }
  Tangents pull(const Fn& c, const std::vector<bool>& wanted) const override {
    require(!wanted[1] && !wanted[2], "substitute: g and its inverse must not depend on the function that is varied");
    const Spec& spec = in[2].node().points[0];
    const Fn jacobian = nabla(in[2]);
    const std::int64_t d = spec.numel();
    const Fn volume = spec.shape.empty()
                          ? abs(jacobian)
                          : leaf(
                                [d](const at::Tensor& j) {
                                  return at::linalg_det(j.reshape({-1, d, d})).abs();
                                },
                                jacobian.type().ret.spec(), Spec{{}, spec.dtype}, {.name = "det"})(jacobian);
    return {compose(c, {in[2]}) * volume, {}, {}};
  }
};

struct Partial final : Node {
  Tensors values;
  std::vector<int> args;
  Partial(const Fn& f, Tensors v, std::vector<int> a, std::vector<SpecTree> rest, std::vector<Grid> g)
      : Node({f.type().ret, std::move(rest)}, std::move(g), {f}), values(std::move(v)), args(std::move(a)) {}
  std::string name() const override { return "partial"; }
  bool own_parameters() const override {
    return std::ranges::any_of(values, [](const at::Tensor& t) { return t.requires_grad(); });
  }
  void key(Key& k) const override {
    k.insert(k.end(), args.begin(), args.end());
    for (const at::Tensor& t : values) k.push_back(key_of(t.unsafeGetTensorImpl()));
  }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    const Node& f = in[0].node();
    Tensors full;
    auto value = values.begin();
    auto rest = point.begin();
    for (int i = 0; i < in[0].arity(); ++i) {
      auto& source = std::ranges::find(args, i) != args.end() ? value : rest;
      for (std::size_t k = f.offsets[i]; k < f.offsets[i + 1]; ++k) full.push_back(*source++);
    }
    return evaluate(in[0], full, pending);
  }
  Tangent push(const Tangents& d) const override { return partial(*d[0], values, args); }
  Tangents pull(const Fn&, const std::vector<bool>&) const override {
    fail_input(
        "partial: the pull of f at given values is a Dirac delta at them, which is not a function; integrate f against "
        "a "
        "test function instead, or use push");
  }
};

// Attaches grids.
struct On final : Node {
  On(const Fn& f, std::vector<Grid> g) : Node(f.type(), std::move(g), {f}) {}
  std::string name() const override { return "on"; }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    return evaluate(in[0], point, pending);
  }
  Series series(const SeriesOf& of, const Series& x) const override { return of(in[0], x); }
  Tangent push(const Tangents& d) const override { return on(*d[0], grids); }
  Tangents pull(const Fn& c, const std::vector<bool>&) const override { return {c}; }
};

struct Stop final : Node {
  explicit Stop(const Fn& f) : Node(f.type(), f.grids(), {f}) {}
  std::string name() const override { return "stop_gradient"; }
  bool own_stop() const override { return true; }
  Tangent jacobian(int arg) const override { return stop_gradient(nabla(in[0], arg)); }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool) const override {
    Tensors values = evaluate(in[0], point, false);
    for (at::Tensor& t : values) t = t.detach();
    return values;
  }
  Tangent push(const Tangents&) const override { return {}; }
  Tangents pull(const Fn&, const std::vector<bool>&) const override { return {Tangent()}; }
};

}  // namespace

Fn compose(const Fn& f, const std::vector<Fn>& g, bool share) {
  require(static_cast<int>(g.size()) == f.arity() && !g.empty(), "compose: {} takes {} functions, not {}", signature(f),
          f.arity(), g.size());
  if (!share) {
    std::vector<SpecTree> all;
    std::vector<Grid> grids;
    for (const Fn& h : g) {
      all.insert(all.end(), h.type().args.begin(), h.type().args.end());
      grids.insert(grids.end(), h.grids().begin(), h.grids().end());
    }
    std::vector<Fn> broadcast;
    int begin = 0;
    for (const Fn& h : g) {
      std::vector<int> slots(h.arity());
      std::iota(slots.begin(), slots.end(), begin);
      begin += h.arity();
      broadcast.push_back(broadcast_arg(h, all, slots, grids));
    }
    return compose(f, broadcast);
  }
  std::vector<int> slots;  // of inner functions that are arguments
  for (std::size_t i = 0; i < g.size(); ++i) {
    require(g[i].type().ret == f.type().args[i], "compose: argument {} of {} cannot take the result of {}", i,
            signature(f), signature(g[i]));
    require(g[i].type().args == g[0].type().args,
            "compose: inner functions share their arguments, but {} and {} have different ones", signature(g[0]),
            signature(g[i]));
    const auto* broadcast = dynamic_cast<const Broadcast*>(&g[i].node());
    if (is_identity(g[i])) slots.push_back(0);
    if (broadcast && is_identity(broadcast->in[0])) slots.push_back(broadcast->slots[0]);
  }
  std::vector<int> distinct = slots;
  std::ranges::sort(distinct);
  const bool only_arguments = slots.size() == g.size() && std::ranges::adjacent_find(distinct) == distinct.end();
  std::vector<Grid> grids = merged_grids(g);
  if (only_arguments) return broadcast_arg(f, g[0].type().args, slots, grids);
  if (is_identity(f)) return g[0];
  if (const auto number = uniform_value(f)) return filled(*number, f.type().ret.spec(), g[0].type().args, grids);
  std::vector<Fn> in{f};
  in.insert(in.end(), g.begin(), g.end());
  return make<Compose>(in, g[0].type().args, grids);
}

Fn substitute(const Fn& f, const Fn& g, const Fn& g_inverse) {
  for (const Fn* map : {&g, &g_inverse}) {
    require(map->arity() == 1 && f.arity() == 1 && map->type().args == f.type().args &&
                map->type().ret == f.type().args[0] && !map->type().ret.is_tuple(),
            "substitute: {} needs maps of its argument onto itself, not {}", signature(f), signature(*map));
  }
  return make<Substitution>(f, g, g_inverse);
}

Fn on(const Fn& f, const std::vector<Grid>& grids) {
  if (grids.empty()) return f;
  require(static_cast<int>(grids.size()) == f.arity(), "on: {} grids for {}", grids.size(), signature(f));
  std::vector<Grid> all = f.grids();
  bool changed = false;
  for (std::size_t i = 0; i < grids.size(); ++i) {
    if (!grids[i] || grids[i].id() == all[i].id()) continue;
    const SpecTree& arg = f.type().args[i];
    require(!arg.is_tuple() && grids[i].nodes().sizes().slice(1) == arg.spec().shape,
            "on: a grid with nodes {} cannot serve argument {} of {}", shape_string(grids[i].nodes().sizes()), i,
            signature(f));
    all[i] = grids[i];
    changed = true;
  }
  return changed ? make<On>(f, all) : f;
}

Fn broadcast_arg(const Fn& f, const std::vector<SpecTree>& target, const std::vector<int>& slots,
                 const std::vector<Grid>& grids) {
  require(static_cast<int>(slots.size()) == f.arity(), "broadcast_arg: {} has {} arguments, but {} slots are given",
          signature(f), f.arity(), slots.size());
  std::vector<Grid> all = grids;
  all.resize(target.size());
  bool same = f.type().args == target;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    require(slots[i] >= 0 && slots[i] < static_cast<int>(target.size()) &&
                std::count(slots.begin(), slots.end(), slots[i]) == 1,
            "broadcast_arg: slots are distinct and below {}", target.size());
    require(f.type().args[i] == target[slots[i]],
            "broadcast_arg: argument {} of {} is not the target's {}, which is {}", i, signature(f), slots[i],
            to_string(target[slots[i]]));
    if (!all[slots[i]]) all[slots[i]] = f.grids()[i];
    same = same && slots[i] == static_cast<int>(i);
  }
  if (same) return on(f, all);
  if (const auto number = uniform_value(f)) return filled(*number, f.type().ret.spec(), target, all);
  if (const auto* inner = dynamic_cast<const Broadcast*>(&f.node())) {
    std::vector<int> through;
    for (const int slot : inner->slots) through.push_back(slots[slot]);
    return broadcast_arg(inner->in[0], target, through, all);
  }
  return make<Broadcast>(f, target, slots, all);
}

Fn broadcast_arg(const Fn& f, const Fn& target, const std::vector<int>& slots) {
  return broadcast_arg(f, target.type().args, slots, target.grids());
}

Fn permute_args(const Fn& f, const std::vector<int>& order) {
  check_args(order, f, "permute_args");
  require(static_cast<int>(order.size()) == f.arity(), "permute_args: {} indices for {}", order.size(), signature(f));
  std::vector<SpecTree> target;
  std::vector<int> slots(order.size());
  for (std::size_t j = 0; j < order.size(); ++j) {
    target.push_back(f.type().args[order[j]]);
    slots[order[j]] = static_cast<int>(j);
  }
  return broadcast_arg(f, target, slots);
}

Fn partial(const Fn& f, const Tensors& values, const std::vector<int>& args) {
  check_args(args, f, "partial");
  require(std::ranges::is_sorted(args), "partial: arguments in rising order");
  std::vector<SpecTree> rest, given;
  std::vector<Grid> grids;
  for (int i = 0; i < f.arity(); ++i) {
    const bool fixed = std::ranges::find(args, i) != args.end();
    (fixed ? given : rest).push_back(f.type().args[i]);
    if (!fixed) grids.push_back(f.grids()[i]);
  }
  const std::vector<Spec> specs = leaves(given);
  require(values.size() == specs.size(), "partial: {} values for {} tensors of {}", values.size(), specs.size(),
          signature(f));
  for (std::size_t i = 0; i < specs.size(); ++i) {
    require(values[i].sizes() == specs[i].shape && values[i].scalar_type() == specs[i].dtype,
            "partial: value {} must be {}, not {} of {}", i, to_string(specs[i]), shape_string(values[i].sizes()),
            c10::toString(values[i].scalar_type()));
  }
  return make<Partial>(f, values, args, std::move(rest), std::move(grids));
}

Fn value_at(const Fn& f, const Tensors& values) {
  std::vector<int> all(f.arity());
  std::iota(all.begin(), all.end(), 0);
  return partial(f, values, all);
}

Fn value_at(const Fn& f, double x) {
  require(f.arity() == 1 && !f.type().args[0].is_tuple(), "value_at: {} is not a function of a number", signature(f));
  return value_at(f, Tensors{at::scalar_tensor(x, f.type().args[0].spec().dtype)});
}

Fn stop_gradient(const Fn& f) { return make<Stop>(f); }

}  // namespace unbend::functional
