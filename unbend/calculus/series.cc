#include "unbend/calculus/series.h"

#include "unbend/base/error.h"
#include "unbend/calculus/fn_node.h"

namespace unbend::functional {
namespace {

using Code = std::function<Series(const Series&)>;

struct SeriesLeaf final : Node {
  std::shared_ptr<const Code> code;
  LeafOptions options;
  int order;

  SeriesLeaf(std::shared_ptr<const Code> c, LeafOptions o, int k)
      : Node({Spec{}, {Spec{}}}, o.grids, {}), code(std::move(c)), options(std::move(o)), order(k) {}
  std::string name() const override { return options.name; }
  bool own_parameters() const override { return !options.parameters.empty(); }
  void key(Key& k) const override {
    k.push_back(key_of(code.get()));
    k.push_back(order);
  }
  Tensors eval(Evaluator&, const Tensors& point, bool) const override {
    const Series value = (*code)(Series::variable(point[0], order));
    // A constant is a series of one coefficient.
    return {(value.order() < order ? at::zeros_like(point[0]) : value.derivative(order)).expand_as(point[0])};
  }
  Tangent jacobian(int) const override { return make<SeriesLeaf>(code, options, order + 1); }
  Tangent push(const Tangents&) const override { return {}; }
  Tangents pull(const Fn&, const std::vector<bool>&) const override { return {}; }
  Series series(const SeriesOf&, const Series& x) const override {
    if (order == 0) return (*code)(x);
    Series local = (*code)(Series::variable(x.c[0], x.order() + order)).padded(x.order() + order);
    for (int i = 0; i < order; ++i) local = local.slope();
    return at_series(local, x);
  }
};

}  // namespace

Series Node::series(const SeriesOf&, const Series&) const {
  fail_input("'{}' has no Taylor series here; make the function of series_leaf()s and arithmetic", name());
}

Fn series_leaf(Code code, LeafOptions options) {
  require(options.grids.size() <= 1, "'{}': {} grids for 1 argument", options.name, options.grids.size());
  return make<SeriesLeaf>(std::make_shared<const Code>(std::move(code)), std::move(options), 0);
}

Tensors derivatives(const Fn& f, const at::Tensor& x, int order) {
  require(f.type() == FnType{Spec{}, {Spec{}}}, "derivatives: {} is not R -> R in f64", signature(f));
  require(order >= 0, "derivatives: the order {} is negative", order);
  struct Entry {
    Series at, value;  // `at` keeps its tensors' addresses taken
  };
  std::unordered_map<Key, Entry, KeyHash> memo;
  const SeriesOf of = [&](const Fn& g, const Series& at) {
    Key key{key_of(&g.node())};
    for (const at::Tensor& c : at.c) key.push_back(key_of(c.unsafeGetTensorImpl()));
    if (const auto found = memo.find(key); found != memo.end()) return found->second.value;
    Series value = g.node().series(of, at);
    memo.emplace(std::move(key), Entry{at, value});
    return value;
  };
  const Series value = of(f, Series::variable(x, order)).padded(order);
  Tensors all;
  for (int k = 0; k <= order; ++k) all.push_back(value.derivative(k).expand_as(x));
  return all;
}

}  // namespace unbend::functional
