// Leaves: the user's code, identity, constants; and tuples of functions.
#include <algorithm>
#include <bit>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_math.h"
#include "unbend/calculus/fn_node.h"
#include "unbend/tensor/check.h"

namespace unbend::functional {
namespace {

struct Leaf final : Node {
  std::function<Tensors(const Tensors&)> code;
  LeafOptions options;

  Leaf(std::function<Tensors(const Tensors&)> c, FnType t, LeafOptions o)
      : Node(std::move(t), o.grids, {}), code(std::move(c)), options(std::move(o)) {}
  std::string name() const override { return options.name; }
  bool shared() const override { return false; }  // code cannot be compared
  bool own_parameters() const override { return !options.parameters.empty(); }
  Tangent push(const Tangents&) const override { return {}; }
  Tangents pull(const Fn&, const std::vector<bool>&) const override { return {}; }

  Tensors eval(Evaluator&, const Tensors& point, bool) const override {
    const auto batch = batch_of(point, points);
    const std::int64_t n = c10::multiply_integers(batch);
    const bool flat = batch.size() == 1;
    Tensors rows;
    for (std::size_t i = 0; i < point.size(); ++i) {
      const at::Tensor t = expand_batch(point[i], points[i], batch);
      rows.push_back(flat ? t : t.reshape(with_batch({n}, points[i])));
    }
    Tensors values = code(rows);
    require(values.size() == results.size(), "'{}' gives {} tensors; its type {} promises {}", options.name,
            values.size(), to_string(type), results.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto expected = with_batch({n}, results[i]);
      require(values[i].defined() && values[i].sizes() == expected,
              "'{}' gives a tensor {} for {} points; a batch of {} is {} (leaves compute all points at once)",
              options.name, values[i].defined() ? shape_string(values[i].sizes()) : "that is undefined", n,
              to_string(results[i]), shape_string(expected));
      require(values[i].scalar_type() == results[i].dtype, "'{}' gives {}; its type {} promises otherwise",
              options.name, c10::toString(values[i].scalar_type()), to_string(type));
      if (!flat) values[i] = values[i].reshape(with_batch(batch, results[i]));
    }
    return values;
  }

  static std::vector<std::int64_t> with_batch(std::vector<std::int64_t> batch, const Spec& spec) {
    batch.insert(batch.end(), spec.shape.begin(), spec.shape.end());
    return batch;
  }
};

struct Identity final : Node {
  explicit Identity(const Spec& spec) : Node({spec, {spec}}, {}, {}) {}
  std::string name() const override { return "identity"; }
  void key(Key& k) const override {
    k.insert(k.end(), points[0].shape.begin(), points[0].shape.end());
    k.push_back(static_cast<std::uint64_t>(points[0].dtype));
  }
  Tensors eval(Evaluator&, const Tensors& point, bool) const override { return point; }
  Series series(const SeriesOf&, const Series& x) const override { return x; }
  Tangent jacobian(int) const override {
    if (!points[0].shape.empty()) return {};
    return filled(1, points[0], type.args, grids);
  }
  Tangent push(const Tangents&) const override { return {}; }
  Tangents pull(const Fn&, const std::vector<bool>&) const override { return {}; }
};

struct Constant final : Node {
  at::Tensor value;
  std::optional<double> number;  // that fills it

  Constant(at::Tensor v, std::optional<double> n, std::vector<SpecTree> args, std::vector<Grid> g)
      : Node({Spec{v.sizes().vec(), v.scalar_type()}, std::move(args)}, std::move(g), {}),
        value(std::move(v)),
        number(n) {}
  std::string name() const override { return "constant"; }
  bool own_parameters() const override { return value.requires_grad(); }
  void key(Key& k) const override {
    for (const Spec& spec : points) {
      k.push_back(spec.shape.size());
      k.insert(k.end(), spec.shape.begin(), spec.shape.end());
      k.push_back(static_cast<std::uint64_t>(spec.dtype));
    }
    k.push_back(number.has_value());
    if (!number) {
      k.push_back(key_of(value.unsafeGetTensorImpl()));
      return;
    }
    k.push_back(std::bit_cast<std::uint64_t>(*number));
    k.insert(k.end(), results[0].shape.begin(), results[0].shape.end());
    k.push_back(static_cast<std::uint64_t>(results[0].dtype));
  }
  Tensors eval(Evaluator&, const Tensors&, bool) const override { return {value}; }
  Series series(const SeriesOf&, const Series& x) const override { return x * 0. + Series({value}); }
  Tangent jacobian(int arg) const override {
    std::vector<std::int64_t> shape = results[0].shape;
    const Spec& by = type.args[arg].spec();
    shape.insert(shape.end(), by.shape.begin(), by.shape.end());
    return filled(0, {shape, results[0].dtype}, type.args, grids);
  }
  Tangent push(const Tangents&) const override { return {}; }
  Tangents pull(const Fn&, const std::vector<bool>&) const override { return {}; }
};

struct Split final : Node {
  int index;
  Split(const Fn& f, int i) : Node({f.type().ret.items()[i], f.type().args}, f.grids(), {f}), index(i) {}
  std::string name() const override { return "split"; }
  void key(Key& k) const override { k.push_back(index); }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    const auto& items = in[0].type().ret.items();
    std::size_t begin = 0;
    for (int i = 0; i < index; ++i) begin += leaves(items[i]).size();
    const Tensors all = evaluate(in[0], point, pending);
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(begin);
    return {first, first + static_cast<std::ptrdiff_t>(results.size())};
  }
  Tangent push(const Tangents& d) const override { return split(*d[0])[index]; }
  Tangents pull(const Fn& c, const std::vector<bool>&) const override {
    const auto& items = in[0].type().ret.items();
    std::vector<Fn> parts;
    for (int i = 0; i < static_cast<int>(items.size()); ++i) {
      parts.push_back(i == index ? c : zero({items[i], type.args}));
    }
    return {zip(parts)};
  }
};

struct Zip final : Node {
  Zip(const std::vector<Fn>& fs, std::vector<SpecTree> rets)
      : Node({SpecTree(std::move(rets)), fs[0].type().args}, merged_grids(fs), fs) {}
  std::string name() const override { return "zip"; }
  Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const override {
    Tensors all;
    for (const Fn& f : in) {
      const Tensors part = evaluate(f, point, pending);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  Tangent push(const Tangents& d) const override {
    std::vector<Fn> parts;
    for (std::size_t i = 0; i < d.size(); ++i) parts.push_back(d[i] ? *d[i] : zero(in[i].type()));
    return zip(parts);
  }
  Tangents pull(const Fn& c, const std::vector<bool>&) const override {
    const std::vector<Fn> parts = split(c);
    return {parts.begin(), parts.end()};
  }
};

void check_leaf(const FnType& type, const LeafOptions& options) {
  for (const auto& trees : {std::vector<SpecTree>{type.ret}, type.args}) {
    for (const Spec& spec : leaves(trees)) {
      require(at::isFloatingType(spec.dtype), "'{}': a function of {} cannot be differentiated; use f64 or f32",
              options.name, to_string(spec));
    }
  }
  require(options.grids.empty() || options.grids.size() == type.args.size(), "'{}': {} grids for {} arguments",
          options.name, options.grids.size(), type.args.size());
  for (std::size_t i = 0; i < options.grids.size(); ++i) {
    if (options.grids[i]) on(argument(type.args, static_cast<int>(i)), options.grids);  // checks the shapes
  }
}

}  // namespace

Fn leaf(std::function<Tensors(const Tensors&)> code, FnType type, LeafOptions options) {
  require(!type.args.empty(), "'{}': a leaf has at least one argument; constant() has none", options.name);
  check_leaf(type, options);
  return make<Leaf>(std::move(code), std::move(type), std::move(options));
}

Fn leaf(std::function<at::Tensor(const at::Tensor&)> code, Spec argument, Spec result, LeafOptions options) {
  return leaf([code = std::move(code)](const Tensors& x) { return Tensors{code(x[0])}; },
              FnType{std::move(result), {std::move(argument)}}, std::move(options));
}

Fn identity(Spec spec) { return make<Identity>(std::move(spec)); }

Fn argument(const std::vector<SpecTree>& args, int index) {
  require(index >= 0 && index < static_cast<int>(args.size()), "argument: there is no argument {} of {}", index,
          args.size());
  require(!args[index].is_tuple(), "argument: argument {} is a tuple {}", index, to_string(args[index]));
  return broadcast_arg(identity(args[index].spec()), args, {index});
}

std::vector<Fn> arguments(int count) {
  std::vector<Fn> all;
  for (int i = 0; i < count; ++i) all.push_back(argument(std::vector<SpecTree>(count), i));
  return all;
}

bool is_identity(const Fn& f) { return dynamic_cast<const Identity*>(&f.node()) != nullptr; }

Fn constant(at::Tensor value, std::vector<SpecTree> args) {
  check_floating(value, "constant");
  return make<Constant>(std::move(value), std::nullopt, std::move(args), std::vector<Grid>{});
}

Fn filled(double number, const Spec& spec, std::vector<SpecTree> args, std::vector<Grid> grids) {
  return make<Constant>(at::full(spec.shape, number, spec.dtype), number, std::move(args), std::move(grids));
}

Fn zero(const FnType& type) {
  if (!type.ret.is_tuple()) return filled(0, type.ret.spec(), type.args);
  std::vector<Fn> parts;
  for (const SpecTree& item : type.ret.items()) parts.push_back(zero({item, type.args}));
  return zip(parts);
}

std::optional<double> uniform_value(const Fn& f) {
  const auto* node = dynamic_cast<const Constant*>(&f.node());
  return node ? node->number : std::nullopt;
}

bool is_zero(const Fn& f) {
  if (const auto* tuple = dynamic_cast<const Zip*>(&f.node())) return std::ranges::all_of(tuple->in, is_zero);
  return uniform_value(f) == std::optional<double>(0);
}

Tangent sum_of(const Tangents& terms) {
  Tangent total;
  for (const Tangent& term : terms) {
    if (term) total = total ? add(*total, *term) : term;
  }
  return total;
}

std::vector<Fn> split(const Fn& f) {
  require(f.type().ret.is_tuple(), "split: the result of {} is not a tuple", signature(f));
  if (const auto* zipped = dynamic_cast<const Zip*>(&f.node())) return zipped->in;
  std::vector<Fn> parts;
  for (int i = 0; i < static_cast<int>(f.type().ret.items().size()); ++i) parts.push_back(make<Split>(f, i));
  return parts;
}

Fn zip(const std::vector<Fn>& functions) {
  require(!functions.empty(), "zip: no functions");
  std::vector<SpecTree> rets;
  for (const Fn& f : functions) {
    require(f.type().args == functions[0].type().args, "zip: {} and {} have different arguments",
            signature(functions[0]), signature(f));
    rets.push_back(f.type().ret);
  }
  return make<Zip>(functions, std::move(rets));
}

}  // namespace unbend::functional
