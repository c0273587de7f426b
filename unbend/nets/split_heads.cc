// From the output of a fused projection to rotated heads, one pass each way.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "unbend/attention/simd.h"
#include "unbend/base/error.h"
#include "unbend/nets/fused_plain.h"

namespace unbend {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

using namespace simd;

// `to` = v, or += v.
template <bool kAdd, class D, class To, class Load, class Store>
HWY_INLINE void put(D d, hn::Vec<D> v, To* to, const Load& load, const Store& store) {
  store(kAdd ? hn::Add(load(to), v) : v, to);
}

// One head of one token: `to` = (+=) `from`, its pairs turned by the table's angles times `direction` (1 or -1).
template <bool kAdd, class From, class To, class C>
void rotate(const From* from, To* to, const C* cos, const C* sin, int64_t width, RotaryPairs pairs, C direction) {
  const int64_t half = width / 2;
  if (pairs == RotaryPairs::Halves) {
    const hn::ScalableTag<C> d;
    const auto sign = hn::Set(d, direction);
    for_each_vector(d, half, [&](int64_t i, auto load, auto store) {
      const auto x = load(from + i), y = load(from + half + i), c = load(cos + i), s = hn::Mul(sign, load(sin + i));
      put<kAdd>(d, hn::NegMulAdd(y, s, hn::Mul(x, c)), to + i, load, store);
      put<kAdd>(d, hn::MulAdd(x, s, hn::Mul(y, c)), to + half + i, load, store);
    });
    return;
  }
  for (int64_t i = 0; i < half; ++i) {
    const C x = static_cast<C>(from[2 * i]), y = static_cast<C>(from[2 * i + 1]), s = direction * sin[i];
    const C before[2] = {kAdd ? static_cast<C>(to[2 * i]) : C(0), kAdd ? static_cast<C>(to[2 * i + 1]) : C(0)};
    to[2 * i] = static_cast<To>(before[0] + x * cos[i] - y * s);
    to[2 * i + 1] = static_cast<To>(before[1] + x * s + y * cos[i]);
  }
}

template <bool kAdd, class C, class From, class To>
void copy_head(const From* from, To* to, int64_t width) {
  const hn::ScalableTag<C> d;
  for_each_vector(d, width,
                  [&](int64_t i, auto load, auto store) { put<kAdd>(d, load(from + i), to + i, load, store); });
}

// Into the heads; from the heads' cotangents (rotated back) into a packed one, written or added.
enum class Way { Split, Write, Add };

struct Plan {
  int64_t width;
  std::vector<HeadRange> ranges;
  RotaryPairs pairs;
};

// Packed tokens of type P against split heads of type S.
template <class P, class S, Way kWay>
void walk(const Plan& plan, const at::Tensor& packed, const std::vector<at::Tensor>& heads, const at::Tensor& cos,
          const at::Tensor& sin) {
  using C = simd::Compute<P>;
  const int64_t batch = packed.size(0), tokens = packed.size(1), width = plan.width;
  P* const packed_data = static_cast<P*>(packed.data_ptr());
  const C* const cosines = cos.defined() ? cos.const_data_ptr<C>() : nullptr;
  const C* const sines = sin.defined() ? sin.const_data_ptr<C>() : nullptr;
  at::parallel_for(0, batch * tokens, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / tokens, t = i % tokens;
      P* const row = packed_data + b * packed.stride(0) + t * packed.stride(1);
      for (size_t r = 0; r < plan.ranges.size(); ++r) {
        const HeadRange& range = plan.ranges[r];
        S* const all = static_cast<S*>(heads[r].data_ptr());
        for (int64_t h = 0; h < range.count; ++h) {
          P* const at_packed = row + (range.first + h) * width;
          S* const at_head = all + ((b * range.count + h) * tokens + t) * width;
          const C *c = cosines + t * (width / 2), *s = sines + t * (width / 2);
          constexpr bool add = kWay == Way::Add;
          if constexpr (kWay == Way::Split) {
            range.rotate ? rotate<false>(at_packed, at_head, c, s, width, plan.pairs, C(1))
                         : copy_head<false, C>(at_packed, at_head, width);
          } else {
            range.rotate ? rotate<add>(at_head, at_packed, c, s, width, plan.pairs, C(-1))
                         : copy_head<add, C>(at_head, at_packed, width);
          }
        }
      }
    }
  });
}

template <Way kWay>
void walk_any(const Plan& plan, at::ScalarType split, const at::Tensor& packed, const std::vector<at::Tensor>& heads,
              const at::Tensor& cos, const at::Tensor& sin) {
  using B = c10::BFloat16;
  const bool narrow = split == at::kBFloat16;
  switch (packed.scalar_type()) {
    case at::kDouble: return walk<double, double, kWay>(plan, packed, heads, cos, sin);
    case at::kFloat:
      return narrow ? walk<float, B, kWay>(plan, packed, heads, cos, sin)
                    : walk<float, float, kWay>(plan, packed, heads, cos, sin);
    default:
      return narrow ? walk<B, B, kWay>(plan, packed, heads, cos, sin)
                    : walk<B, float, kWay>(plan, packed, heads, cos, sin);
  }
}

void keep(AutogradContext* context, const Plan& plan) {
  std::vector<int64_t> numbers{plan.width, static_cast<int64_t>(plan.pairs)};
  for (const auto& r : plan.ranges) numbers.insert(numbers.end(), {r.first, r.count, r.rotate});
  context->saved_data["plan"] = numbers;
}

Plan kept(AutogradContext* context) {
  const auto numbers = context->saved_data["plan"].toIntVector();
  Plan plan{numbers[0], {}, static_cast<RotaryPairs>(numbers[1])};
  for (size_t i = 2; i < numbers.size(); i += 3)
    plan.ranges.push_back({numbers[i], numbers[i + 1], numbers[i + 2] != 0});
  return plan;
}

bool covers_once(const Plan& plan, int64_t width) {
  std::vector<int> times(width / plan.width, 0);
  for (const auto& r : plan.ranges) {
    for (int64_t h = r.first; h < r.first + r.count; ++h) ++times[h];
  }
  return std::all_of(times.begin(), times.end(), [](int n) { return n == 1; });
}

variable_list split(const Plan& plan, const at::Tensor& packed, const at::Tensor& cos, const at::Tensor& sin,
                    at::ScalarType out) {
  variable_list heads;
  for (const auto& r : plan.ranges) {
    heads.push_back(at::empty({packed.size(0), r.count, packed.size(1), plan.width}, packed.options().dtype(out)));
  }
  walk_any<Way::Split>(plan, out, packed, heads, cos, sin);
  return heads;
}

variable_list apply_split(const at::Tensor& packed, const at::Tensor& cos, const at::Tensor& sin, const Plan& plan,
                          at::ScalarType out);

// Adds the heads' cotangents into one packed gradient. It is linear in them and its adjoint is the split itself.
struct SplitPull : Function<SplitPull> {
  static at::Tensor forward(AutogradContext* context, at::TensorList cotangents, const at::Tensor& cos,
                            const at::Tensor& sin, const std::vector<int64_t>& sizes, at::ScalarType dtype,
                            const Plan& plan, at::ScalarType out) {
    keep(context, plan);
    context->saved_data["out"] = out;
    context->save_for_backward({cos, sin});
    variable_list heads;
    for (const auto& x : cotangents) heads.push_back(x.contiguous());
    const auto options = cos.options().dtype(dtype);
    if (covers_once(plan, sizes[2])) {
      const auto packed = at::empty(sizes, options);
      walk_any<Way::Write>(plan, out, packed, heads, cos, sin);
      return packed;
    }
    const auto packed = at::zeros(sizes, options);
    walk_any<Way::Add>(plan, out, packed, heads, cos, sin);
    return packed;
  }

  static variable_list backward(AutogradContext* context, variable_list direction) {
    const auto saved = context->get_saved_variables();
    auto gradients = apply_split(direction[0].contiguous(), saved[0], saved[1], kept(context),
                                 context->saved_data["out"].toScalarType());
    gradients.resize(gradients.size() + 6);
    return gradients;
  }
};

struct Split : Function<Split> {
  static variable_list forward(AutogradContext* context, const at::Tensor& packed, const at::Tensor& cos,
                               const at::Tensor& sin, const Plan& plan, at::ScalarType out) {
    keep(context, plan);
    context->saved_data["out"] = out;
    context->saved_data["sizes"] = packed.sizes().vec();
    context->saved_data["dtype"] = packed.scalar_type();
    context->save_for_backward({cos, sin});
    return split(plan, packed, cos, sin, out);
  }

  static variable_list backward(AutogradContext* context, variable_list cotangents) {
    const auto saved = context->get_saved_variables();
    return {SplitPull::apply(at::TensorList(cotangents), saved[0], saved[1], context->saved_data["sizes"].toIntVector(),
                             context->saved_data["dtype"].toScalarType(), kept(context),
                             context->saved_data["out"].toScalarType()),
            {},
            {},
            {},
            {}};
  }
};

variable_list apply_split(const at::Tensor& packed, const at::Tensor& cos, const at::Tensor& sin, const Plan& plan,
                          at::ScalarType out) {
  return Split::apply(packed, cos, sin, plan, out);
}

}  // namespace

Rotary rotary_tables(const at::Tensor& positions, const at::Tensor& frequencies, RotaryPairs pairs,
                     at::ScalarType dtype) {
  require(positions.dim() == 1 && frequencies.dim() == 1,
          "rotary_tables: positions {} and frequencies {} must be [T] and [d/2]", positions.sizes(),
          frequencies.sizes());
  const auto angles = at::outer(positions.to(at::kDouble), frequencies.to(at::kDouble));
  return {angles.cos().to(dtype), angles.sin().to(dtype), pairs};
}

std::vector<at::Tensor> split_heads(const at::Tensor& packed, int64_t width, const std::vector<HeadRange>& ranges,
                                    const std::optional<Rotary>& rotary, at::ScalarType out) {
  require(packed.dim() == 3 && width >= 1 && packed.size(2) % width == 0,
          "split_heads: packed {} must be [B, T, heads * {}]", packed.sizes(), width);
  const auto dtype = packed.scalar_type();
  const auto is_known = [](at::ScalarType t) { return t == at::kFloat || t == at::kDouble || t == at::kBFloat16; };
  require(is_known(dtype) && is_known(out) && (dtype == at::kDouble) == (out == at::kDouble),
          "split_heads: heads of {} cannot be had from a packed {}", c10::toString(out), c10::toString(dtype));
  const int64_t heads = packed.size(2) / width;
  bool rotates = false;
  for (const auto& r : ranges) {
    require(r.first >= 0 && r.count >= 0 && r.first + r.count <= heads,
            "split_heads: heads {} to {} are not among the {} of packed {}", r.first, r.first + r.count, heads,
            packed.sizes());
    rotates = rotates || r.rotate;
  }
  // Tables are empty where nothing rotates: autograd functions take no undefined tensors.
  const auto compute = dtype == at::kDouble ? at::kDouble : at::kFloat;
  auto cos = at::empty({0}, packed.options().dtype(compute)), sin = cos;
  Plan plan{width, ranges, RotaryPairs::Halves};
  if (rotates) {
    require(rotary.has_value() && width % 2 == 0, "split_heads: a rotated range needs tables and an even width, not {}",
            width);
    const std::vector<int64_t> wanted{packed.size(1), width / 2};
    require(rotary->cos.sizes() == wanted && rotary->sin.sizes() == wanted,
            "split_heads: cos {} and sin {} must be [T, d/2] = {}", rotary->cos.sizes(), rotary->sin.sizes(), wanted);
    cos = rotary->cos.to(compute).contiguous(), sin = rotary->sin.to(compute).contiguous();
    plan.pairs = rotary->pairs;
  }
  if (!packed.is_cpu()) return plain::split_heads(packed, width, ranges, {cos, sin, plan.pairs}, out);
  return Split::apply(packed.stride(2) == 1 || packed.size(2) <= 1 ? packed : packed.contiguous(), cos, sin, plan, out);
}

}  // namespace unbend
