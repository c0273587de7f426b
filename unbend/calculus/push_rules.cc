#include "unbend/calculus/push_rules.h"

#include <ATen/ExpandUtils.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <typeindex>
#include <unordered_map>
#include <unordered_set>

namespace unbend {
namespace {

// NOLINTNEXTLINE(google-build-using-namespace): the operations' names
using namespace torch::autograd::generated;
using torch::autograd::Node;
using torch::autograd::SavedVariable;

at::Tensor saved(const SavedVariable& variable, Node& operation) { return variable.unpack(operation.getptr()); }

bool is_one(const at::Scalar& number) { return number.toDouble() == 1; }
at::Tensor scaled(const at::Tensor& t, const at::Scalar& factor) { return is_one(factor) ? t : at::mul(t, factor); }

// a + factor b, in whichever is own; undefined ones are zero.
at::Tensor sum(at::Tensor a, at::Tensor b, const at::Scalar& factor = 1) {
  if (!b.defined()) return a;
  if (!a.defined()) return scaled(b, factor);
  if (a.scalar_type() == b.scalar_type()) {
    if (at::is_expandable_to(b.sizes(), a.sizes()) && is_own(a)) return a.add_(b, factor);
    if (at::is_expandable_to(a.sizes(), b.sizes()) && is_own(b) && is_one(factor)) return b.add_(a);
  }
  return at::add(a, b, factor);
}

// dy of y = beta self + alpha left right, of matrices or of batches of them.
template <class Left, class Right>
at::Tensor product(const at::Tensor& dself, const at::Tensor& dleft, const at::Tensor& dright, const Left& left,
                   const Right& right, const at::Scalar& beta, const at::Scalar& alpha) {
  at::Tensor y;
  const auto add = [&](const at::Tensor& a, const at::Tensor& b) {
    const bool many = a.dim() == 3;
    if (y.defined() && is_own(y)) {
      many ? y.baddbmm_(a, b, 1, alpha) : y.addmm_(a, b, 1, alpha);
    } else if (!y.defined() && dself.defined()) {
      y = many ? at::baddbmm(dself, a, b, beta, alpha) : at::addmm(dself, a, b, beta, alpha);
    } else {
      y = sum(std::move(y), scaled(many ? at::bmm(a, b) : at::mm(a, b), alpha));
    }
  };
  if (dleft.defined()) add(dleft, right());
  if (dright.defined()) add(left(), dright);
  return y.defined() ? y : scaled(dself, beta);
}

using Rules = std::unordered_map<std::type_index, PushRule>;

template <class Operation>
void reshaped(Rules& rules) {
  rules[typeid(Operation)] = [](Node&, Tangents& t) { t.out[0] = t.in[0].reshape(t.shape); };
}

template <class Operation>
void same(Rules& rules) {
  rules[typeid(Operation)] = [](Node&, Tangents& t) { t.out[0] = std::move(t.in[0]); };
}

// Captureless functions of the operation's own type.
template <class Operation, class Rule>
void rule(Rules& rules, Rule) {
  rules[typeid(Operation)] = [](Node& node, Tangents& t) { Rule{}(static_cast<Operation&>(node), t); };
}

void add_products(Rules& rules) {
  rule<MmBackward0>(rules, [](MmBackward0& o, Tangents& t) {
    t.out[0] = product(
        {}, t.in[0], t.in[1], [&] { return saved(o.self_, o); }, [&] { return saved(o.mat2_, o); }, 1, 1);
  });
  rule<AddmmBackward0>(rules, [](AddmmBackward0& o, Tangents& t) {
    t.out[0] = product(
        t.in[0], t.in[1], t.in[2], [&] { return saved(o.mat1_, o); }, [&] { return saved(o.mat2_, o); }, o.beta,
        o.alpha);
  });
  rule<BmmBackward0>(rules, [](BmmBackward0& o, Tangents& t) {
    t.out[0] = product(
        {}, t.in[0], t.in[1], [&] { return saved(o.self_, o); }, [&] { return saved(o.mat2_, o); }, 1, 1);
  });
  rule<BaddbmmBackward0>(rules, [](BaddbmmBackward0& o, Tangents& t) {
    t.out[0] = product(
        t.in[0], t.in[1], t.in[2], [&] { return saved(o.batch1_, o); }, [&] { return saved(o.batch2_, o); }, o.beta,
        o.alpha);
  });
}

void add_arithmetic(Rules& rules) {
  rule<AddBackward0>(
      rules, [](AddBackward0& o, Tangents& t) { t.out[0] = sum(std::move(t.in[0]), std::move(t.in[1]), o.alpha); });
  rule<SubBackward0>(
      rules, [](SubBackward0& o, Tangents& t) { t.out[0] = sum(std::move(t.in[0]), std::move(t.in[1]), -o.alpha); });
  same<AddBackward1>(rules);  // of a number
  same<SubBackward1>(rules);
  rule<MulBackward0>(rules, [](MulBackward0& o, Tangents& t) {
    at::Tensor y;
    if (t.in[0].defined()) y = times(std::move(t.in[0]), saved(o.other_, o));
    if (t.in[1].defined()) {
      const auto self = saved(o.self_, o);
      if (!y.defined())
        y = times(std::move(t.in[1]), self);
      else if (is_own(y) && y.sizes() == t.shape)
        y.addcmul_(self, t.in[1]);
      else
        y = at::addcmul(y, self, t.in[1]);
    }
    t.out[0] = std::move(y);
  });
  rule<MulBackward1>(rules, [](MulBackward1& o, Tangents& t) { t.out[0] = at::mul(t.in[0], o.other); });
  rule<DivBackward0>(rules, [](DivBackward0& o, Tangents& t) {
    const auto other = saved(o.other_, o);
    at::Tensor top = std::move(t.in[0]);
    if (t.in[1].defined()) top = sum(std::move(top), at::mul(saved(o.self_, o) / other, t.in[1]), -1);
    t.out[0] = at::div(top, other);
  });
  rule<DivBackward1>(rules, [](DivBackward1& o, Tangents& t) { t.out[0] = at::div(t.in[0], o.other); });
  rule<SoftmaxBackward0>(rules, [](SoftmaxBackward0& o, Tangents& t) {  // its Jacobian is symmetric
    const auto y = saved(o.result_, o);
    t.out[0] = at::_softmax_backward_data(t.in[0].to(y.scalar_type()), y, o.dim, y.scalar_type());
  });
  // y = n weight + bias, n = (x - mean) inverse; dn = inverse (dx - mean(dx) - n mean(n dx)), which is symmetric: the
  // share of dx is the weight times a pull without weight.
  rule<NativeLayerNormBackward0>(rules, [](NativeLayerNormBackward0& o, Tangents& t) {
    const auto x = saved(o.input_, o), mean = saved(o.result1_, o), inverse = saved(o.result2_, o);
    const auto shape = C10_AS_INTARRAYREF_SLOW(o.normalized_shape);
    at::Tensor y;
    if (t.in[1].defined()) y = at::sub(x, mean).mul_(inverse).to(x.scalar_type()) * t.in[1];
    y = sum(std::move(y), t.in[2]);
    if (t.in[0].defined()) {
      auto dn = std::get<0>(
          at::native_layer_norm_backward(t.in[0].contiguous(), x, shape, mean, inverse, {}, {}, {true, false, false}));
      const auto weight = saved(o.weight_, o);
      if (!weight.defined())
        y = sum(std::move(y), std::move(dn));
      else if (y.defined())
        y = is_own(y) && y.sizes() == dn.sizes() ? y.addcmul_(dn, weight) : at::addcmul(y, dn, weight);
      else
        y = times(std::move(dn), weight);
    }
    t.out[0] = std::move(y);
  });
}

void add_views(Rules& rules) {
  reshaped<ViewBackward0>(rules);
  reshaped<UnsafeViewBackward0>(rules);
  reshaped<ReshapeAliasBackward0>(rules);
  reshaped<SqueezeBackward0>(rules);
  reshaped<SqueezeBackward1>(rules);
  reshaped<SqueezeBackward2>(rules);
  reshaped<UnsqueezeBackward0>(rules);
  same<AliasBackward0>(rules);
  same<CloneBackward0>(rules);
  same<ExpandBackward0>(rules);  // expanded as all results are
  same<ToCopyBackward0>(rules);  // and converted
  rule<TBackward0>(rules, [](TBackward0&, Tangents& t) { t.out[0] = t.in[0].t(); });
  rule<TransposeBackward0>(rules,
                           [](TransposeBackward0& o, Tangents& t) { t.out[0] = t.in[0].transpose(o.dim0, o.dim1); });
  rule<PermuteBackward0>(rules, [](PermuteBackward0& o, Tangents& t) { t.out[0] = t.in[0].permute(o.dims); });
  rule<SelectBackward0>(rules,
                        [](SelectBackward0& o, Tangents& t) { t.out[0] = t.in[0].select_symint(o.dim, o.index); });
  rule<SliceBackward0>(
      rules, [](SliceBackward0& o, Tangents& t) { t.out[0] = t.in[0].slice_symint(o.dim, o.start, o.end, o.step); });
  rule<UnbindBackward0>(rules, [](UnbindBackward0& o, Tangents& t) { t.out = t.in[0].unbind(o.dim); });
  rule<SplitBackward0>(rules,
                       [](SplitBackward0& o, Tangents& t) { t.out = t.in[0].split_symint(o.split_size, o.dim); });
  rule<SplitWithSizesBackward0>(rules, [](SplitWithSizesBackward0& o, Tangents& t) {
    t.out = t.in[0].split_with_sizes_symint(o.split_sizes, o.dim);
  });
}

template <class... Operations>
std::unordered_set<std::type_index> types() {
  return {std::type_index(typeid(Operations))...};
}

}  // namespace

PushRule push_rule(const Node& operation) {
  static const Rules rules = [] {
    Rules all;
    add_products(all), add_arithmetic(all), add_views(all);
    return all;
  }();
  const auto found = rules.find(typeid(operation));
  return found == rules.end() ? nullptr : found->second;
}

bool is_pointwise(const Node& operation) {
  static const auto pointwise =
      types<AbsBackward0, AtanBackward0, ClampBackward1, ClampMinBackward0, ClampMaxBackward0, CosBackward0,
            CoshBackward0, EluBackward0, ErfBackward0, Exp2Backward0, ExpBackward0, Expm1Backward0, GeluBackward0,
            HardsigmoidBackward0, HardswishBackward0, HardtanhBackward0, LeakyReluBackward0, Log1PBackward0,
            LogBackward0, LogSigmoidBackward0, MishBackward0, NegBackward0, PowBackward0, ReciprocalBackward0,
            ReluBackward0, RsqrtBackward0, SigmoidBackward0, SiluBackward0, SinBackward0, SinhBackward0,
            SoftplusBackward0, SqrtBackward0, TanBackward0, TanhBackward0, ThresholdBackward0>();
  return pointwise.contains(typeid(operation));
}

bool is_own(const at::Tensor& t) {
  return t.use_count() == 1 && !t._is_zerotensor() && t.has_storage() && t.storage().use_count() == 1 &&
         t.is_non_overlapping_and_dense();
}

at::Tensor times(at::Tensor t, const at::Tensor& factor) {
  const bool alike = at::is_expandable_to(factor.sizes(), t.sizes()) && t.scalar_type() == factor.scalar_type();
  return alike && is_own(t) ? t.mul_(factor) : at::mul(t, factor);
}

}  // namespace unbend
