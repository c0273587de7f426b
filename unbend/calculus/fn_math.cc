#include "unbend/calculus/fn_math.h"

#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_node.h"

namespace unbend::functional {
namespace {

enum class Op {
  Add,
  Mul,
  Where,  // of several
  Exp,
  Log,
  Sin,
  Cos,
  Tanh,
  Sinh,
  Cosh,
  Atan,
  Erf,
  Sigmoid,
  Abs,
  Sign,
  Step,
  Power,  // entry by entry
  Scale,
  Sum,
  Expand,
  Trace,
  Eye,
  Component,
  Embed,
  Stack,  // linear
};

const char* op_name(Op op) {
  static constexpr const char* kNames[] = {
      "add", "mul",  "where", "exp", "log",   "sin", "cos",    "tanh",  "sinh", "cosh",      "atan",  "erf",  "sigmoid",
      "abs", "sign", "step",  "pow", "scale", "sum", "expand", "trace", "eye",  "component", "embed", "stack"};
  return kNames[static_cast<int>(op)];
}

bool is_unary_function(Op op) { return op >= Op::Exp && op <= Op::Power; }

// op(g_1, .., g_n), point by point.
struct Apply final : Node {
  Op op;
  double number;                    // power, factor, threshold or index
  std::vector<std::int64_t> shape;  // of Expand and Embed: the result; of Trace and Eye: the axes that are paired

  Apply(Op o, const Spec& result, const std::vector<Fn>& g, double n, std::vector<std::int64_t> s)
      : Node({result, g[0].type().args}, merged_grids(g), g), op(o), number(n), shape(std::move(s)) {}
  std::string name() const override { return op_name(op); }
  void key(Key& k) const override {
    k.push_back(static_cast<std::uint64_t>(op));
    k.push_back(std::bit_cast<std::uint64_t>(number));
    k.insert(k.end(), shape.begin(), shape.end());
  }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override;
  Series series(const SeriesOf& of, const Series& x) const override;
  Tangent push(const Tangents& d) const override;
  Tangents pull(const Fn& c, const std::vector<bool>& wanted) const override;
  Fn derivative() const;
  at::Tensor combine(const Tensors& x) const;
  at::Tensor reshaped(const at::Tensor& x) const;
};

Fn apply(Op op, const std::vector<Fn>& g, const Spec& result, double number = 0, std::vector<std::int64_t> shape = {}) {
  return make<Apply>(op, result, g, number, std::move(shape));
}

Fn unary(Op op, const Fn& f, double number = 0) { return apply(op, {f}, result_spec(f, op_name(op)), number); }
Fn scale(const Fn& f, double factor) {
  if (const auto value = uniform_value(f)) {
    return filled(factor * *value, f.type().ret.spec(), f.type().args, f.grids());
  }
  if (f.type().ret.is_tuple()) {
    std::vector<Fn> parts;
    for (const Fn& part : split(f)) parts.push_back(scale(part, factor));
    return zip(parts);
  }
  return factor == 1 ? f : unary(Op::Scale, f, factor);
}

Fn paired_identity(const Fn& f, std::vector<std::int64_t> axes) {
  Spec result = result_spec(f, "eye");
  for (int twice = 0; twice < 2; ++twice) result.shape.insert(result.shape.end(), axes.begin(), axes.end());
  return apply(Op::Eye, {f}, result, 0, std::move(axes));
}

Fn embed(const Fn& f, std::int64_t index, const Spec& result) {
  return apply(Op::Embed, {f}, result, static_cast<double>(index), result.shape);
}

// Ones of trailing axes, so that numbers broadcast against tensors.
at::Tensor with_axes(const at::Tensor& t, std::int64_t missing) {
  if (missing == 0) return t;
  std::vector<std::int64_t> sizes = t.sizes().vec();
  sizes.insert(sizes.end(), missing, 1);
  return t.view(sizes);
}

at::Tensor unary_value(Op op, const at::Tensor& x, double number) {
  switch (op) {
    case Op::Exp: return x.exp();
    case Op::Log: return x.log();
    case Op::Sin: return x.sin();
    case Op::Cos: return x.cos();
    case Op::Tanh: return x.tanh();
    case Op::Sinh: return x.sinh();
    case Op::Cosh: return x.cosh();
    case Op::Atan: return x.atan();
    case Op::Erf: return x.erf();
    case Op::Sigmoid: return x.sigmoid();
    case Op::Abs: return x.abs();
    case Op::Sign: return x.sign();
    case Op::Step: return (x > number).to(x.scalar_type());
    case Op::Power:
      if (number == -1) return x.reciprocal();
      if (number == .5) return x.sqrt();
      if (number == 2) return x * x;
      return x.pow(number);
    default: return x * number;  // Scale
  }
}

}  // namespace

at::Tensor Apply::reshaped(const at::Tensor& x) const {
  const Spec& from = in[0].type().ret.spec();
  const std::int64_t k = from.dims();
  std::vector<std::int64_t> batch = x.sizes().slice(0, x.dim() - k).vec();
  const auto with = [&](std::vector<std::int64_t> tail) {
    std::vector<std::int64_t> sizes = batch;
    sizes.insert(sizes.end(), tail.begin(), tail.end());
    return sizes;
  };
  switch (op) {
    case Op::Sum: return k == 0 ? x : x.flatten(-k).sum(-1);
    case Op::Expand: return with_axes(x, static_cast<std::int64_t>(shape.size())).expand(with(shape));
    case Op::Trace: {
      const std::int64_t n = c10::multiply_integers(shape);
      std::vector<std::int64_t> tail = results[0].shape;
      tail.insert(tail.end(), {n, n});
      return x.reshape(with(tail)).diagonal(0, -2, -1).sum(-1);
    }
    case Op::Eye: {
      const std::int64_t n = c10::multiply_integers(shape);
      return (with_axes(x, 2) * at::eye(n, x.options())).reshape(with(results[0].shape));
    }
    case Op::Component: return k == 0 ? x : x.flatten(-k).select(-1, static_cast<std::int64_t>(number));
    default: {  // Embed
      auto unit = at::zeros({results[0].numel()}, x.options());
      unit[static_cast<std::int64_t>(number)] = 1;
      return (x.unsqueeze(-1) * unit).reshape(with(shape));
    }
  }
}

at::Tensor Apply::combine(const Tensors& x) const {
  const std::int64_t dims = results[0].dims();
  Tensors fitted;
  for (std::size_t i = 0; i < x.size(); ++i) fitted.push_back(with_axes(x[i], dims - in[i].type().ret.spec().dims()));
  switch (op) {
    case Op::Add: return fitted[0] + fitted[1];
    case Op::Mul: return fitted[0] * fitted[1];
    default: return at::where(fitted[0] > 0, fitted[1], fitted[2]);
  }
}

Tensors Apply::eval(Evaluator& evaluate, const Tensors& point, bool pending) const {
  Tensors x;
  for (const Fn& g : in) x.push_back(evaluate(g, point, pending)[0]);
  if (op == Op::Stack) return {at::stack(at::broadcast_tensors(x), -1)};
  if (op <= Op::Where) return {combine(x)};
  if (is_unary_function(op) || op == Op::Scale) return {unary_value(op, x[0], number)};
  return {reshaped(x[0])};
}

Series Apply::series(const SeriesOf& of, const Series& x) const {
  const Series a = of(in[0], x);
  switch (op) {
    case Op::Add: return a + of(in[1], x);
    case Op::Mul: return a * of(in[1], x);
    case Op::Scale: return a * number;
    case Op::Exp: return functional::exp(a);
    case Op::Log: return functional::log(a);
    case Op::Sin: return functional::sin(a);
    case Op::Cos: return functional::cos(a);
    case Op::Tanh: return functional::tanh(a);
    case Op::Sinh: return functional::sinh(a);
    case Op::Cosh: return functional::cosh(a);
    case Op::Atan: return functional::atan(a);
    case Op::Erf: return functional::erf(a);
    case Op::Sigmoid: return functional::sigmoid(a);
    case Op::Power: return number == 2 ? a * a : functional::pow(a, number);
    case Op::Sum: return a;  // of a number
    default: return Node::series(of, x);
  }
}

// Of a function that acts entry by entry.
Fn Apply::derivative() const {
  const Fn& x = in[0];
  const Fn self = make<Apply>(op, results[0], in, number, shape);
  switch (op) {
    case Op::Exp: return self;
    case Op::Log: return pow(x, -1);
    case Op::Sin: return cos(x);
    case Op::Cos: return -sin(x);
    case Op::Tanh: return 1 - square(self);
    case Op::Sinh: return cosh(x);
    case Op::Cosh: return sinh(x);
    case Op::Atan: return pow(1 + square(x), -1);
    case Op::Erf: return 2 / std::sqrt(std::numbers::pi) * exp(-square(x));
    case Op::Sigmoid: return self * (1 - self);
    case Op::Abs: return sign(x);
    case Op::Power: return number * pow(x, number - 1);
    default: return filled(0, results[0], type.args, grids);  // Sign, Step
  }
}

Tangent Apply::push(const Tangents& d) const {
  switch (op) {
    case Op::Add: return sum_of({d[0], d[1]});
    case Op::Mul: return sum_of({d[0] ? Tangent(*d[0] * in[1]) : Tangent(), d[1] ? Tangent(in[0] * *d[1]) : Tangent()});
    case Op::Where:
      if (!d[1] && !d[2]) return {};
      return where(in[0], d[1] ? *d[1] : zero(in[1].type()), d[2] ? *d[2] : zero(in[2].type()));
    case Op::Sign:
    case Op::Step: return {};
    case Op::Stack: {
      std::vector<Fn> parts;
      for (std::size_t i = 0; i < in.size(); ++i) parts.push_back(d[i] ? *d[i] : zero(in[i].type()));
      return stack(parts);
    }
    default: break;
  }
  if (is_unary_function(op)) return derivative() * *d[0];
  return apply(op, {*d[0]}, results[0], number, shape);  // linear
}

Tangents Apply::pull(const Fn& c, const std::vector<bool>& wanted) const {
  // A number beside a tensor takes the sum over the entries.
  const auto fit = [&](const Fn& f, std::size_t i) { return in[i].type().ret == f.type().ret ? f : sum(f); };
  switch (op) {
    case Op::Add: return {wanted[0] ? Tangent(fit(c, 0)) : Tangent(), wanted[1] ? Tangent(fit(c, 1)) : Tangent()};
    case Op::Mul:
      return {wanted[0] ? Tangent(fit(c * in[1], 0)) : Tangent(), wanted[1] ? Tangent(fit(c * in[0], 1)) : Tangent()};
    case Op::Where: {
      const Fn none = zero(c.type());
      return {{},
              wanted[1] ? Tangent(fit(where(in[0], c, none), 1)) : Tangent(),
              wanted[2] ? Tangent(fit(where(in[0], none, c), 2)) : Tangent()};
    }
    case Op::Sign:
    case Op::Step: return {Tangent()};
    case Op::Scale: return {scale(c, number)};
    case Op::Sum: return {expand(c, in[0].type().ret.spec().shape)};
    case Op::Expand: return {sum(c)};
    case Op::Trace: return {paired_identity(c, shape)};
    case Op::Eye: return {trace(c, static_cast<std::int64_t>(shape.size()))};
    case Op::Component: return {embed(c, static_cast<std::int64_t>(number), in[0].type().ret.spec())};
    case Op::Embed: return {component(c, static_cast<std::int64_t>(number))};
    case Op::Stack: {
      Tangents parts;
      for (std::size_t i = 0; i < in.size(); ++i) parts.emplace_back(component(c, static_cast<std::int64_t>(i)));
      return parts;
    }
    default: return {c * derivative()};
  }
}

namespace {

// Brings operands to the same arguments, and numbers to the type beside them.
std::vector<Fn> matched(std::vector<Fn> operands, const char* what) {
  const Fn* leader = &operands[0];
  for (const Fn& f : operands) {
    if (f.arity() > leader->arity()) leader = &f;
  }
  const std::vector<SpecTree> args = leader->type().args;
  const auto dtype = leaves(leader->type().ret)[0].dtype;
  const std::string first = signature(*leader);
  for (Fn& f : operands) {
    if (f.arity() > 0 || args.empty()) {
      require(f.type().args == args, "{}: {} and {} have different arguments", what, first, signature(f));
      continue;
    }
    const auto number = uniform_value(f);
    f = number ? filled(*number, {result_spec(f, what).shape, dtype}, args) : broadcast_arg(f, args, {});
  }
  return operands;
}

Fn binary(Op op, const Fn& f, const Fn& g) {
  std::vector<Fn> both = matched({f, g}, op_name(op));
  const Spec a = result_spec(both[0], op_name(op)), b = result_spec(both[1], op_name(op));
  require(a.dtype == b.dtype && (a.shape == b.shape || a.shape.empty() || b.shape.empty()),
          "{}: the results of {} and {} do not go together", op_name(op), signature(f), signature(g));
  const Spec& result = a.shape.empty() ? b : a;
  const auto x = uniform_value(both[0]), y = uniform_value(both[1]);
  const auto keeps = [&](const Fn& other) { return other.type().ret == SpecTree(result); };
  if (x && y) return filled(op == Op::Add ? *x + *y : *x * *y, result, both[0].type().args, merged_grids(both));
  for (const auto& [number, other] : {std::pair{x, both[1]}, {y, both[0]}}) {
    if (!number) continue;
    if (op == Op::Add && *number == 0 && keeps(other)) return on(other, merged_grids(both));
    if (op == Op::Mul && *number == 0) return filled(0, result, other.type().args, merged_grids(both));
    if (op == Op::Mul && keeps(other)) return on(scale(other, *number), merged_grids(both));
  }
  return apply(op, both, result);
}

}  // namespace

Fn add(const Fn& f, const Fn& g) {
  if (!f.type().ret.is_tuple()) return binary(Op::Add, f, g);
  require(f.type() == g.type(), "add: {} and {} have different types", signature(f), signature(g));
  const std::vector<Fn> a = split(f), b = split(g);
  std::vector<Fn> parts;
  for (std::size_t i = 0; i < a.size(); ++i) parts.push_back(add(a[i], b[i]));
  return zip(parts);
}

Fn operator+(const Fn& f, const Fn& g) { return add(f, g); }
Fn operator-(const Fn& f, const Fn& g) { return add(f, -g); }
Fn operator*(const Fn& f, const Fn& g) {
  const auto a = uniform_value(f), b = uniform_value(g);
  if (a && g.type().ret.is_tuple()) return scale(g, *a);
  if (b && f.type().ret.is_tuple()) return scale(f, *b);
  return binary(Op::Mul, f, g);
}
Fn operator/(const Fn& f, const Fn& g) {
  if (const auto number = uniform_value(g))
    return f * filled(1 / *number, g.type().ret.spec(), g.type().args, g.grids());
  return f * pow(g, -1);
}
Fn operator-(const Fn& f) { return scale(f, -1); }

Fn exp(const Fn& f) { return unary(Op::Exp, f); }
Fn log(const Fn& f) { return unary(Op::Log, f); }
Fn sin(const Fn& f) { return unary(Op::Sin, f); }
Fn cos(const Fn& f) { return unary(Op::Cos, f); }
Fn tanh(const Fn& f) { return unary(Op::Tanh, f); }
Fn sinh(const Fn& f) { return unary(Op::Sinh, f); }
Fn cosh(const Fn& f) { return unary(Op::Cosh, f); }
Fn atan(const Fn& f) { return unary(Op::Atan, f); }
Fn erf(const Fn& f) { return unary(Op::Erf, f); }
Fn sigmoid(const Fn& f) { return unary(Op::Sigmoid, f); }
Fn abs(const Fn& f) { return unary(Op::Abs, f); }
Fn sign(const Fn& f) { return unary(Op::Sign, f); }
Fn step(const Fn& f, double threshold) { return unary(Op::Step, f, threshold); }
Fn sqrt(const Fn& f) { return pow(f, .5); }
Fn square(const Fn& f) { return pow(f, 2); }

Fn pow(const Fn& f, double power) {
  const Spec& spec = result_spec(f, "pow");
  if (const auto number = uniform_value(f)) return filled(std::pow(*number, power), spec, f.type().args, f.grids());
  if (power == 0) return filled(1, spec, f.type().args, f.grids());
  return power == 1 ? f : unary(Op::Power, f, power);
}

Fn where(const Fn& mask, const Fn& a, const Fn& b) {
  const std::vector<Fn> all = matched({mask, a, b}, "where");
  Spec result = result_spec(all[0], "where");
  for (const Fn& f : all) {
    const Spec& spec = result_spec(f, "where");
    if (result.shape.empty()) result = spec;
    require(spec.shape.empty() || spec.shape == result.shape, "where: the results of {}, {} and {} do not go together",
            signature(mask), signature(a), signature(b));
  }
  return apply(Op::Where, all, {result.shape, result_spec(all[1], "where").dtype});
}

Fn sum(const Fn& f) {
  const Spec& spec = result_spec(f, "sum");
  return spec.shape.empty() ? f : apply(Op::Sum, {f}, {{}, spec.dtype});
}

Fn dot(const Fn& f, const Fn& g) { return sum(f * g); }

Fn expand(const Fn& f, std::vector<std::int64_t> shape) {
  const Spec& spec = result_spec(f, "expand");
  require(spec.shape.empty(), "expand: the result of {} is not a number", signature(f));
  if (shape.empty()) return f;
  if (const auto number = uniform_value(f)) return filled(*number, {shape, spec.dtype}, f.type().args, f.grids());
  return apply(Op::Expand, {f}, {shape, spec.dtype}, 0, shape);
}

Fn component(const Fn& f, std::int64_t index) {
  const Spec& spec = result_spec(f, "component");
  require(index >= 0 && index < spec.numel(), "component: there is no entry {} in the result of {}", index,
          signature(f));
  if (spec.shape.empty()) return f;
  return apply(Op::Component, {f}, {{}, spec.dtype}, static_cast<double>(index));
}

Fn stack(const std::vector<Fn>& numbers) {
  require(!numbers.empty(), "stack: no functions");
  const std::vector<Fn> all = matched(numbers, "stack");
  for (const Fn& f : all) {
    require(result_spec(f, "stack").shape.empty() && f.type().ret == all[0].type().ret,
            "stack: {} and {} do not both give numbers of one type", signature(all[0]), signature(f));
  }
  const auto n = static_cast<std::int64_t>(all.size());
  return apply(Op::Stack, all, {{n}, all[0].type().ret.spec().dtype});
}

Fn trace(const Fn& f, std::int64_t dims) {
  const Spec& spec = result_spec(f, "trace");
  const std::int64_t rest = spec.dims() - 2 * dims;
  if (dims == 0) return f;
  const auto middle = spec.shape.begin() + rest;
  require(rest >= 0 && std::equal(middle, middle + dims, middle + dims),
          "trace: the result of {} does not end in twice the same {} axes", signature(f), dims);
  return apply(Op::Trace, {f}, {{spec.shape.begin(), middle}, spec.dtype}, 0, {middle, middle + dims});
}

}  // namespace unbend::functional
