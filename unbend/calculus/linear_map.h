// Matrix-free linear maps between spaces of tensors (methods/autofd.md, B3): push (the map) and pull (its adjoint), a
// few declared properties, and nothing else. Everything more is a free function: algebra.h builds maps from maps,
// dense.h, estimates.h, solve.h and spectra.h use them.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "unbend/calculus/space.h"

namespace unbend {

/// What is known of a map. Properties are declared, not proved: a wrong one gives wrong answers (check_properties in
/// check.h looks for that). All but Zero are of square maps, whose domain is their codomain.
enum class Property : unsigned {
  Symmetric = 1,   ///< <x, A y> = <A x, y>
  Psd = 2,         ///< symmetric, <x, A x> >= 0
  Nsd = 4,         ///< symmetric, <x, A x> <= 0
  Diagonal = 8,    ///< element-wise
  Identity = 16,   ///< A x = x
  Zero = 32,       ///< A x = 0
  Orthogonal = 64  ///< A^T A = A A^T = 1
};

/// A set of properties, closed under what follows from what (a diagonal map is symmetric, and so on).
class Properties {
 public:
  Properties(std::initializer_list<Property> list = {});
  bool has(Property p) const { return bits_ & static_cast<unsigned>(p); }
  Properties operator|(Properties other) const { return Properties(bits_ | other.bits_); }
  Properties operator&(Properties other) const { return Properties(bits_ & other.bits_); }
  bool empty() const { return bits_ == 0; }
  bool operator==(const Properties&) const = default;

 private:
  explicit Properties(unsigned bits) : bits_(bits) {}
  unsigned bits_ = 0;
};

/// "symmetric, psd"; "none" for the empty set.
std::string to_string(Properties properties);

/// What a map is made of. A new kind of map derives from this (algebra.h has the common ones); operations that want to
/// know ask `map.as<ThatKind>()`. Arguments have been checked; results must be in the space. Immutable: any number of
/// threads may use a kind at once.
struct Kind {
  Space domain, codomain;

  Kind(Space domain, Space codomain) : domain(std::move(domain)), codomain(std::move(codomain)) {}
  Kind(const Kind&) = delete;
  Kind& operator=(const Kind&) = delete;
  virtual ~Kind() = default;
  virtual Tensors push(const Tensors& v) const = 0;
  virtual Tensors pull(const Tensors& c) const = 0;
  /// K vectors at once (leading axis). As long as a kind has nothing better: one after the other.
  virtual Tensors push_many(const Tensors& v) const;
  virtual Tensors pull_many(const Tensors& c) const;
};

/// A linear map A. A cheap value: copies share what is behind it.
class LinearMap {
 public:
  explicit LinearMap(std::shared_ptr<const Kind> kind, Properties properties = {});

  const Space& domain() const { return kind_->domain; }
  const Space& codomain() const { return kind_->codomain; }
  bool square() const { return domain() == codomain(); }
  Properties properties() const { return properties_; }
  bool has(Property p) const { return properties_.has(p); }

  /// A v for v in the domain, A^T c for c in the codomain. Results may share memory with the argument. Where gradient
  /// mode is on and the argument asks for gradients, the result has them (any number of times), so that maps can stand
  /// inside functions that are differentiated. Throws Error (Input) if the argument is not in the space.
  Tensors push(const Tensors& v) const;
  Tensors pull(const Tensors& c) const;
  /// K of them at once, along a leading axis of every leaf. Without gradients.
  Tensors push_many(const Tensors& v) const;
  Tensors pull_many(const Tensors& c) const;

  /// The kind, if it is a K, else null.
  template <class K>
  const K* as() const {
    return dynamic_cast<const K*>(kind_.get());
  }
  const Kind& kind() const { return *kind_; }
  bool same_object(const LinearMap& other) const { return kind_ == other.kind_; }

 private:
  friend LinearMap declare(const LinearMap& a, Properties properties);
  std::shared_ptr<const Kind> kind_;
  Properties properties_;
};

/// The same map, of which more is known. Throws Error (Input) if it is not square (but for Zero). Builds without NDEBUG
/// test the claim on random vectors and throw Error (Input) if it is wrong.
LinearMap declare(const LinearMap& a, Properties properties);

using VectorFunction = std::function<Tensors(const Tensors&)>;

/// A map from its two faces; `push_many` and `pull_many` may be left out. Nothing is verified: see dot_test in check.h.
LinearMap function_map(const Space& domain, const Space& codomain, VectorFunction push, VectorFunction pull,
                       Properties properties = {}, VectorFunction push_many = {}, VectorFunction pull_many = {});

}  // namespace unbend
