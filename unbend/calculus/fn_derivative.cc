// Primitives that differentiate with respect to arguments.
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_math.h"
#include "unbend/calculus/fn_node.h"
#include "unbend/tensor/check.h"

namespace unbend::functional {
namespace {

using torch::autograd::grad;

Spec jacobian_spec(const Fn& f, int arg) {
  Spec spec = result_spec(f, "nabla");
  const Spec& by = f.type().args[arg].spec();
  spec.shape.insert(spec.shape.end(), by.shape.begin(), by.shape.end());
  return spec;
}

// The graph below is kept: others of the same evaluation use it too.
Tensors pull_back(const Tensors& values, const Tensors& inputs, const Tensors& cotangents, bool create_graph) {
  Tensors live, seeds;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!values[i].requires_grad()) continue;
    live.push_back(values[i]);
    seeds.push_back(cotangents[i]);
  }
  Tensors result(inputs.size());
  if (!live.empty()) result = grad(live, inputs, seeds, true, create_graph, true);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!result[i].defined()) result[i] = at::zeros_like(inputs[i]);
  }
  return result;
}

std::vector<std::size_t> leaf_indices(const Node& f, const std::vector<int>& args) {
  std::vector<std::size_t> wanted;
  for (const int arg : args) {
    for (std::size_t i = f.offsets[arg]; i < f.offsets[arg + 1]; ++i) wanted.push_back(i);
  }
  return wanted;
}

Tensors chosen(const Tensors& all, const std::vector<std::size_t>& indices) {
  Tensors some;
  for (const std::size_t i : indices) some.push_back(all[i]);
  return some;
}

void check_not_stopped(const Fn& f, const char* what) {
  require(!f.node().stopped,
          "{}: {} has a stop_gradient inside, whose derivative by points is lost; apply stop_gradient last", what,
          signature(f));
}

struct Nabla final : Node {
  int arg;
  Nabla(const Fn& f, int a) : Node({jacobian_spec(f, a), f.type().args}, f.grids(), {f}), arg(a) {}
  std::string name() const override { return "nabla"; }
  bool own_derivative() const override { return true; }
  void key(Key& k) const override { k.push_back(arg); }

  // Points are independent: the gradient of the sum over points of one entry is that entry's row at every point.
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    const Node& f = in[0].node();
    const std::size_t index = f.offsets[arg];
    const auto batch = batch_of(point, f.points);
    const Tensors x = evaluate.separate(f.points, point, {index}, batch);
    const at::Tensor y = evaluate(in[0], x, true)[0];
    const Spec& from = f.results[0];
    if (!y.requires_grad()) return {at::zeros(results[0].shape, y.options())};
    const at::Tensor rows = from.shape.empty() ? y.unsqueeze(-1) : y.flatten(-from.dims());
    Tensors columns;
    for (std::int64_t j = 0; j < rows.size(-1); ++j) {
      const at::Tensor row = rows.select(-1, j);
      columns.push_back(pull_back({row}, {x[index]}, {at::ones_like(row)}, pending)[0]);
    }
    const auto axis = static_cast<std::int64_t>(batch.size());
    if (from.shape.empty()) return {columns[0]};
    std::vector<std::int64_t> sizes = batch;
    sizes.insert(sizes.end(), results[0].shape.begin(), results[0].shape.end());
    return {at::stack(columns, axis).reshape(sizes)};
  }

  Series series(const SeriesOf& of, const Series& x) const override {
    return at_series(of(in[0], Series::variable(x.c[0], x.order() + 1)).padded(x.order() + 1).slope(), x);
  }
  Tangent push(const Tangents& d) const override { return nabla(*d[0], arg); }
  Tangents pull(const Fn& c, const std::vector<bool>&) const override { return {-divergence(c, arg)}; }
};

struct Jvp final : Node {
  std::vector<int> args;
  Jvp(const Fn& f, std::vector<int> a, std::vector<SpecTree> all, std::vector<Grid> g)
      : Node({f.type().ret, std::move(all)}, std::move(g), {f}), args(std::move(a)) {}
  std::string name() const override { return "jvp"; }
  bool own_derivative() const override { return true; }
  void key(Key& k) const override { k.insert(k.end(), args.begin(), args.end()); }

  // Twice in reverse: the pull is linear in its cotangent, and its pull is the push.
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    const Node& f = in[0].node();
    const auto batch = batch_of(point, points);
    const auto wanted = leaf_indices(f, args);
    const auto border = point.begin() + static_cast<std::ptrdiff_t>(f.points.size());
    const Tensors x = evaluate.separate(f.points, {point.begin(), border}, wanted, batch);
    Tensors directions(border, point.end());
    for (std::size_t i = 0; i < directions.size(); ++i) {
      directions[i] = expand_batch(directions[i], f.points[wanted[i]], batch);
    }
    Tensors y = evaluate(in[0], x, true), seeds;
    for (const at::Tensor& value : y) seeds.push_back(at::zeros_like(value).requires_grad_(true));
    const Tensors pulled = pull_back(y, chosen(x, wanted), seeds, true);
    return pull_back(pulled, seeds, directions, pending);
  }

  Tangent push(const Tangents& d) const override { return jvp(*d[0], args); }
  Tangents pull(const Fn&, const std::vector<bool>&) const override {
    fail_input("jvp: its pull to f is undefined (it would integrate over all directions)");
  }
};

struct Transpose final : Node {
  std::vector<int> args;
  bool unpack;
  mutable std::atomic<bool> checked = false;  // that f is linear, once

  Transpose(const Fn& f, std::vector<int> a, bool u, FnType type, std::vector<Grid> g)
      : Node(std::move(type), std::move(g), {f}), args(std::move(a)), unpack(u) {}
  std::string name() const override { return "linear_transpose"; }
  bool own_derivative() const override { return true; }
  void key(Key& k) const override {
    k.insert(k.end(), args.begin(), args.end());
    k.push_back(unpack);
  }

  // Whether f is a jvp in just its directions: then one reverse pass of what it differentiates does.
  const Jvp* of_jvp() const {
    const auto* push = dynamic_cast<const Jvp*>(&in[0].node());
    if (!push) return nullptr;
    std::vector<int> directions(push->args.size());
    std::iota(directions.begin(), directions.end(), push->in[0].arity());
    return args == directions ? push : nullptr;
  }

  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    const Node& f = in[0].node();
    const auto batch = batch_of(point, points);
    const std::size_t count = point.size() - f.results.size();
    const Tensors rest(point.begin(), point.begin() + static_cast<std::ptrdiff_t>(count));
    Tensors cotangents(point.begin() + static_cast<std::ptrdiff_t>(count), point.end());
    for (std::size_t i = 0; i < cotangents.size(); ++i) {
      cotangents[i] = expand_batch(cotangents[i], f.results[i], batch);
    }
    if (const Jvp* push = of_jvp()) {
      const Node& g = push->in[0].node();
      const auto wanted = leaf_indices(g, push->args);
      const Tensors x = evaluate.separate(g.points, rest, wanted, batch);
      return pull_back(expanded(evaluate(push->in[0], x, true), f.results, batch), chosen(x, wanted), cotangents,
                       pending);
    }
    const auto wanted = leaf_indices(f, args);
    const auto at_slots = [&](const std::function<at::Tensor(const Spec&)>& value) {
      Tensors full;
      auto next = rest.begin();
      for (std::size_t i = 0; i < f.points.size(); ++i) {
        full.push_back(std::ranges::find(wanted, i) == wanted.end() ? *next++ : value(f.points[i]));
      }
      return full;
    };
    if (!checked.exchange(true)) check_linear(evaluate, at_slots);
    const Tensors x = at_slots([&](const Spec& spec) {
      return expand_batch(at::zeros(spec.shape, spec.dtype), spec, batch).clone().requires_grad_(true);
    });
    return pull_back(expanded(evaluate(in[0], x, true), f.results, batch), chosen(x, wanted), cotangents, pending);
  }

  static Tensors expanded(Tensors values, const std::vector<Spec>& specs, at::IntArrayRef batch) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = expand_batch(values[i], specs[i], batch);
    return values;
  }

  // f(2 u) = 2 f(u) and f(u) + f(v) = f(u + v) for fixed u and v that no nonlinear function is likely to satisfy.
  template <class AtSlots>
  void check_linear(Evaluator& evaluate, const AtSlots& at_slots) const {
    const auto value = [&](double a, double b) {
      return evaluate(in[0], at_slots([&](const Spec& spec) {
                        const auto ramp = at::arange(spec.numel(), at::TensorOptions(spec.dtype)).view(spec.shape);
                        return a * (ramp + .7).sin() + b * (ramp * 1.3 + .4).cos();
                      }),
                      false);
    };
    const Tensors u = value(1, 0), v = value(0, 1), both = value(2, -3);
    for (std::size_t i = 0; i < u.size(); ++i) {
      const auto difference = (both[i] - 2 * u[i] + 3 * v[i]).abs();
      const auto scale = both[i].abs() + 2 * u[i].abs() + 3 * v[i].abs();
      const double tolerance = u[i].scalar_type() == at::kDouble ? 1e-9 : 1e-3;
      require(difference.le(tolerance * scale + 1e-300).all().item<bool>(),
              "linear_transpose: {} ({}) is not linear in argument{} {}", signature(in[0]), in[0].node().name(),
              args.size() > 1 ? "s" : "", fmt::join(args, ", "));
    }
  }

  Tangent push(const Tangents& d) const override { return linear_transpose(*d[0], args, unpack); }

  // f -> f^T transposes, at each of the other arguments, a matrix; so does its adjoint.
  Tangents pull(const Fn& c, const std::vector<bool>&) const override {
    const int others = in[0].arity() - static_cast<int>(args.size());
    std::vector<int> slots(c.arity() - others);
    std::iota(slots.begin(), slots.end(), others);
    const Fn back = linear_transpose(c, slots, args.size() > 1);  // (rest.., args..) -> f.ret
    std::vector<int> order;                                       // argument i of f is argument order[i] of back
    int rest = 0;
    for (int i = 0; i < in[0].arity(); ++i) {
      const auto own = std::ranges::find(args, i);
      order.push_back(own == args.end() ? rest++ : others + static_cast<int>(own - args.begin()));
    }
    return {permute_args(back, order)};
  }
};

}  // namespace

Fn nabla(const Fn& f, int arg) {
  check_args({arg}, f, "nabla");
  result_spec(f, "nabla");
  require(!f.type().args[arg].is_tuple(), "nabla: argument {} of {} is a tuple", arg, signature(f));
  if (const Tangent known = f.node().jacobian(arg)) return *known;
  check_not_stopped(f, "nabla");
  return make<Nabla>(f, arg);
}

Fn nabla(const Fn& f, const std::vector<int>& args) {
  check_args(args, f, "nabla");
  std::vector<Fn> parts;
  for (const int arg : args) parts.push_back(nabla(f, arg));
  return zip(parts);
}

Fn divergence(const Fn& f, int arg) {
  check_args({arg}, f, "divergence");
  require(!f.type().args[arg].is_tuple(), "divergence: argument {} of {} is a tuple", arg, signature(f));
  return trace(nabla(f, arg), f.type().args[arg].spec().dims());
}

Fn laplacian(const Fn& f, int arg) { return divergence(nabla(f, arg), arg); }

Fn jvp(const Fn& f, const std::vector<int>& args) {
  check_args(args, f, "jvp");
  require(!args.empty(), "jvp: no arguments are given");
  check_not_stopped(f, "jvp");
  std::vector<SpecTree> all = f.type().args;
  std::vector<Grid> grids = f.grids();
  for (const int arg : args) all.push_back(f.type().args[arg]);
  grids.resize(all.size());
  return make<Jvp>(f, args, std::move(all), std::move(grids));
}

Fn vjp(const Fn& f, const std::vector<int>& args) {
  std::vector<int> directions(args.size());
  std::iota(directions.begin(), directions.end(), f.arity());
  return linear_transpose(jvp(f, args), directions);
}

Fn linear_transpose(const Fn& f, const std::vector<int>& args, bool unpack) {
  check_args(args, f, "linear_transpose");
  require(!args.empty(), "linear_transpose: no arguments are given");
  check_not_stopped(f, "linear_transpose");
  std::vector<SpecTree> items, rest;
  std::vector<Grid> grids;
  for (const int arg : args) items.push_back(f.type().args[arg]);
  for (int i = 0; i < f.arity(); ++i) {
    if (std::ranges::find(args, i) != args.end()) continue;
    rest.push_back(f.type().args[i]);
    grids.push_back(f.grids()[i]);
  }
  if (unpack && f.type().ret.is_tuple()) {
    rest.insert(rest.end(), f.type().ret.items().begin(), f.type().ret.items().end());
  } else {
    rest.push_back(f.type().ret);
  }
  grids.resize(rest.size());
  const SpecTree ret = items.size() == 1 ? items[0] : SpecTree(items);
  return make<Transpose>(f, args, unpack, FnType{ret, rest}, std::move(grids));
}

}  // namespace unbend::functional
