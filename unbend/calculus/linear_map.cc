#include "unbend/calculus/linear_map.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"
#include "unbend/calculus/check.h"

namespace unbend {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr unsigned bit(Property p) { return static_cast<unsigned>(p); }

constexpr struct {
  Property property;
  unsigned implied;
  const char* name;
} kProperties[] = {
    {Property::Identity, bit(Property::Psd) | bit(Property::Diagonal) | bit(Property::Orthogonal), "identity"},
    {Property::Zero, 0, "zero"},
    {Property::Psd, bit(Property::Symmetric), "psd"},
    {Property::Nsd, bit(Property::Symmetric), "nsd"},
    {Property::Diagonal, bit(Property::Symmetric), "diagonal"},
    {Property::Symmetric, 0, "symmetric"},
    {Property::Orthogonal, 0, "orthogonal"},
};

Tensors one_by_one(const Tensors& many, const Space& space, const VectorFunction& one) {
  const int64_t count = many.empty() ? 0 : many[0].size(0);
  Tensors all;
  for (const Leaf& leaf : space.leaves) {
    std::vector<int64_t> shape{count};
    shape.insert(shape.end(), leaf.shape.begin(), leaf.shape.end());
    all.push_back(at::empty(shape, at::TensorOptions().dtype(leaf.dtype).device(leaf.device)));
  }
  for (int64_t k = 0; k < count; ++k) {
    const Tensors x = one(select(many, k));
    for (size_t i = 0; i < all.size(); ++i) all[i].select(0, k).copy_(x[i]);
  }
  return all;
}

struct FunctionKind : Kind {
  VectorFunction push_, pull_, push_many_, pull_many_;

  FunctionKind(const Space& domain, const Space& codomain, VectorFunction push, VectorFunction pull,
               VectorFunction push_many, VectorFunction pull_many)
      : Kind(domain, codomain),
        push_(std::move(push)),
        pull_(std::move(pull)),
        push_many_(std::move(push_many)),
        pull_many_(std::move(pull_many)) {}

  Tensors push(const Tensors& v) const override { return checked(push_(v), codomain, "what the push gives"); }
  Tensors pull(const Tensors& c) const override { return checked(pull_(c), domain, "what the pull gives"); }
  Tensors push_many(const Tensors& v) const override {
    return push_many_ ? checked_many(push_many_(v), codomain, "what push_many gives") : Kind::push_many(v);
  }
  Tensors pull_many(const Tensors& c) const override {
    return pull_many_ ? checked_many(pull_many_(c), domain, "what pull_many gives") : Kind::pull_many(c);
  }

  static Tensors checked(Tensors x, const Space& space, const char* what) {
    check_vector(x, space, what);
    return x;
  }
  static Tensors checked_many(Tensors x, const Space& space, const char* what) {
    check_vectors(x, space, what);
    return x;
  }
};

// A map as an operation of autograd: linear, so its backward is its adjoint.
struct Apply : torch::autograd::Function<Apply> {
  struct Held : torch::CustomClassHolder {
    LinearMap map;
    explicit Held(LinearMap m) : map(std::move(m)) {}
  };

  static variable_list forward(AutogradContext* context, at::TensorList v, const LinearMap& a) {
    context->saved_data["map"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(a));
    variable_list out;  // results of their own: autograd takes what shares memory for a view
    for (const at::Tensor& t : a.kind().push(v.vec())) {
      const auto shares = [&](const at::Tensor& x) { return x.is_alias_of(t); };
      out.push_back(std::ranges::any_of(v, shares) || std::ranges::any_of(out, shares) ? t.clone() : t);
    }
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& c) {
    const auto held = context->saved_data["map"].toCapsule();
    variable_list gradients = apply(at::TensorList(c), adjoint(static_cast<Held*>(held.get())->map));
    gradients.emplace_back();
    return gradients;
  }
};

bool asks_for_gradients(const Tensors& x) {
  return at::GradMode::is_enabled() && std::ranges::any_of(x, [](const at::Tensor& t) { return t.requires_grad(); });
}

}  // namespace

Properties::Properties(std::initializer_list<Property> list) {
  for (const Property p : list) bits_ |= bit(p);
  for (const auto& p : kProperties) {  // ordered so that one pass closes the set
    if (has(p.property)) bits_ |= p.implied;
  }
}

std::string to_string(Properties properties) {
  std::string text;
  for (const auto& p : kProperties) {
    if (properties.has(p.property)) text += (text.empty() ? "" : ", ") + std::string(p.name);
  }
  return text.empty() ? "none" : text;
}

Tensors Kind::push_many(const Tensors& v) const {
  return one_by_one(v, codomain, [this](const Tensors& x) { return push(x); });
}

Tensors Kind::pull_many(const Tensors& c) const {
  return one_by_one(c, domain, [this](const Tensors& x) { return pull(x); });
}

LinearMap::LinearMap(std::shared_ptr<const Kind> kind, Properties properties)
    : kind_(std::move(kind)), properties_(properties) {
  require(square() || (properties | Properties{Property::Zero}) == Properties{Property::Zero},
          "a map from {} to {} cannot be {}: that is for maps of a space into itself", to_string(domain()),
          to_string(codomain()), to_string(properties));
}

Tensors LinearMap::push(const Tensors& v) const {
  check_vector(v, domain(), "push: the vector");
  return asks_for_gradients(v) ? Apply::apply(at::TensorList(v), *this) : kind_->push(v);
}

Tensors LinearMap::pull(const Tensors& c) const {
  check_vector(c, codomain(), "pull: the vector");
  return asks_for_gradients(c) ? Apply::apply(at::TensorList(c), adjoint(*this)) : kind_->pull(c);
}

Tensors LinearMap::push_many(const Tensors& v) const {
  check_vectors(v, domain(), "push_many: the vectors");
  const at::NoGradGuard no_gradients;
  return kind_->push_many(v);
}

Tensors LinearMap::pull_many(const Tensors& c) const {
  check_vectors(c, codomain(), "pull_many: the vectors");
  const at::NoGradGuard no_gradients;
  return kind_->pull_many(c);
}

LinearMap declare(const LinearMap& a, Properties properties) {
  LinearMap declared(a.kind_, a.properties_ | properties);
#ifndef NDEBUG
  const std::string wrong = check_properties(declared, 1);
  require(wrong.empty(), "{}", wrong);
#endif
  return declared;
}

LinearMap function_map(const Space& domain, const Space& codomain, VectorFunction push, VectorFunction pull,
                       Properties properties, VectorFunction push_many, VectorFunction pull_many) {
  require(push && pull, "function_map: push and pull must both be given");
  return LinearMap(std::make_shared<FunctionKind>(domain, codomain, std::move(push), std::move(pull),
                                                  std::move(push_many), std::move(pull_many)),
                   properties);
}

}  // namespace unbend
