// Primitives that integrate.
#include <algorithm>
#include <bit>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_math.h"
#include "unbend/calculus/fn_node.h"

namespace unbend::functional {
namespace {

template <class T>
std::vector<T> without(std::vector<T> all, int index) {
  all.erase(all.begin() + index);
  return all;
}

struct Integrate final : Node {
  int arg;
  Grid rule;

  Integrate(const Fn& f, int a)
      : Node({f.type().ret, without(f.type().args, a)}, without(f.grids(), a), {f}), arg(a), rule(f.grids()[a]) {}
  std::string name() const override { return "integrate"; }
  void key(Key& k) const override {
    k.push_back(arg);
    k.push_back(key_of(rule.id()));
  }

  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    std::int64_t depth = 0;
    for (std::size_t i = 0; i < point.size(); ++i) depth = std::max(depth, batch_dims(point[i], points[i]));
    const Node& f = in[0].node();
    Tensors full = point;
    full.insert(full.begin() + static_cast<std::ptrdiff_t>(f.offsets[arg]),
                evaluate.nodes(rule, f.type.args[arg].spec(), depth));
    Tensors values = evaluate(in[0], full, pending);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = weighted_sum(values[i], results[i], rule.weights(), depth);
    }
    return values;
  }

  Tangent push(const Tangents& d) const override { return integrate(*d[0], arg, rule); }
  Tangents pull(const Fn& c, const std::vector<bool>&) const override {
    std::vector<int> rest(in[0].arity());
    std::iota(rest.begin(), rest.end(), 0);
    return {broadcast_arg(c, in[0], without(rest, arg))};
  }
};

struct Antiderivative final : Node {
  double a, b;
  std::int64_t n;
  bool from_left;
  Grid rule;  // on [0, 1]

  Antiderivative(const Fn& f, double start, double end, std::int64_t count, bool left)
      : Node(f.type(), f.grids(), {f}),
        a(start),
        b(end),
        n(count),
        from_left(left),
        rule(gauss_legendre(count, 0, 1)) {}
  std::string name() const override { return "antiderivative"; }
  void key(Key& k) const override {
    k.push_back(std::bit_cast<std::uint64_t>(a));
    k.push_back(std::bit_cast<std::uint64_t>(b));
    k.push_back(static_cast<std::uint64_t>(2 * n) + static_cast<std::uint64_t>(from_left));
  }

  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    const at::Tensor& x = point[0];
    const at::Tensor t = evaluate.nodes(rule, points[0], x.dim());
    const at::Tensor length = from_left ? x - a : b - x;
    const at::Tensor inner = from_left ? a + length * t : b - length * t;
    Tensors values = evaluate(in[0], {inner}, pending);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const at::Tensor mean = weighted_sum(values[i], results[i], rule.weights(), x.dim());
      std::vector<std::int64_t> sizes = length.sizes().vec();
      sizes.insert(sizes.end(), results[i].shape.size(), 1);
      values[i] = length.view(sizes) * mean;
    }
    return values;
  }

  Tangent push(const Tangents& d) const override { return antiderivative(*d[0], a, b, n, from_left); }
  Tangents pull(const Fn& c, const std::vector<bool>&) const override {
    return {antiderivative(c, a, b, n, !from_left)};
  }
};

}  // namespace

Fn integrate(const Fn& f, const std::vector<int>& args) {
  check_args(args, f, "integrate");
  std::vector<int> falling = args;
  std::ranges::sort(falling, std::greater());
  Fn result = f;
  for (const int arg : falling) {
    require(static_cast<bool>(f.grids()[arg]),
            "integrate: argument {} of {} has no grid; give one to integrate, or attach it with on()", arg,
            signature(f));
    result = make<Integrate>(result, arg);
  }
  return result;
}

Fn integrate(const Fn& f) {
  std::vector<int> all(f.arity());
  std::iota(all.begin(), all.end(), 0);
  return integrate(f, all);
}

Fn integrate(const Fn& f, const Grid& grid) { return integrate(f, std::vector<Grid>{grid}); }
Fn integrate(const Fn& f, const std::vector<Grid>& grids) { return integrate(on(f, grids)); }

Fn integrate(const Fn& f, int arg, const Grid& grid) {
  check_args({arg}, f, "integrate");
  std::vector<Grid> grids(f.arity());
  grids[arg] = grid;
  return integrate(on(f, grids), std::vector<int>{arg});
}

Fn antiderivative(const Fn& f, double a, double b, std::int64_t n, bool from_left) {
  require(f.arity() == 1 && !f.type().args[0].is_tuple() && f.type().args[0].spec().shape.empty(),
          "antiderivative: {} is not a function of one number", signature(f));
  require(a < b, "antiderivative: [{}, {}] is not an interval", a, b);
  return make<Antiderivative>(f, a, b, n, from_left);
}

Fn braket(const Fn& l, const Fn& r) {
  require(l.type() == r.type(), "braket: {} and {} have different types", signature(l), signature(r));
  if (!l.type().ret.is_tuple()) return integrate(dot(l, r));
  const std::vector<Fn> a = split(l), b = split(r);
  Fn total = braket(a[0], b[0]);
  for (std::size_t i = 1; i < a.size(); ++i) total = total + braket(a[i], b[i]);
  return total;
}

}  // namespace unbend::functional
