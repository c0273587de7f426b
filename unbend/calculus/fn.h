// Functions as values: built by operators, evaluated on batches of points.
//
// A functional (function in, number or function out) is ordinary code on Fns:
//   const Functional length = [](const Fn& y) { return integrate(sqrt(1 + square(nabla(y))), gauss_legendre(20, 0, 1));
//   }; const Fn slope = gradient(length, y);   // callable anywhere: slope(.5)
// After Lin (ICLR 2024), "Automatic Functional Differentiation in JAX".
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "unbend/calculus/fn_type.h"
#include "unbend/calculus/quadrature.h"

namespace unbend::functional {

struct Node;  // unbend/calculus/fn_node.h

/// A function: a value type over an immutable, shared expression. Equal expressions over the same leaves are one
/// object. Arguments may carry quadrature grids, which flow through operators as axes do.
///
/// All operators check types when they are built: Input errors print both signatures.
class Fn {
 public:
  Fn(double number);  // NOLINT: a number is a function of nothing; it takes the type that its neighbours have
  explicit Fn(std::shared_ptr<const Node> node) : node_(std::move(node)) {}

  const FnType& type() const;
  const std::vector<Grid>& grids() const;  ///< one per argument
  int arity() const;                       ///< number of arguments

  /// Values at points: the leaves of all arguments, each [*batch, *shape], with batches that broadcast; gives the
  /// leaves of the result. Nothing is computed twice within a call. Where gradients are enabled, results can be
  /// differentiated with respect to points and to the parameters of leaves.
  Tensors operator()(const Tensors& points) const;
  at::Tensor operator()(const at::Tensor& points) const;  ///< of a function of one tensor, with one result
  double operator()(double x) const;                      ///< R -> R
  double operator()(double x, double y) const;            ///< R^2 -> R

  /// f(g), f(g, h): compose with functions of the same arguments.
  Fn operator()(const Fn& g) const;
  Fn operator()(const Fn& g, const Fn& h) const;

  at::Tensor tensor() const;  ///< of a function of nothing, as integrals are
  double value() const;       ///< the same, for numbers

  bool is(const Fn& other) const { return node_ == other.node_; }  ///< one and the same expression
  const Node& node() const { return *node_; }
  const std::shared_ptr<const Node>& shared() const { return node_; }

 private:
  std::shared_ptr<const Node> node_;
};

std::string signature(const Fn& f);  ///< "(f64[3]) -> f64"

// ---- Leaves

struct LeafOptions {
  std::string name = "leaf";  ///< in messages
  Tensors parameters = {};    ///< what the code uses and somebody may want the gradient of
  std::vector<Grid> grids = {};
};

/// The user's code: leaves of the arguments [N, *shape] to leaves of the result [N, *shape], point by point, by
/// differentiable operations. Input error at the first evaluation whose results lack the leading N or have another
/// type.
Fn leaf(std::function<Tensors(const Tensors&)> code, FnType type, LeafOptions options = {});

/// One tensor to one tensor; by default R -> R, [N] to [N].
Fn leaf(std::function<at::Tensor(const at::Tensor&)> code, Spec argument = {}, Spec result = {},
        LeafOptions options = {});

Fn identity(Spec spec = {});                                     ///< x -> x
Fn argument(const std::vector<SpecTree>& args, int index);       ///< (x_0, ..) -> x_index
std::vector<Fn> arguments(int count);                            ///< of `count` numbers
Fn constant(at::Tensor value, std::vector<SpecTree> args = {});  ///< the same value everywhere
Fn zero(const FnType& type);                                     ///< whose result is one tensor

// ---- Operators. `args` are indices of arguments.

/// x -> f(g_1(x), .., g_n(x)) for g of the same arguments; without `share`, each g has arguments of its own, and those
/// of the result are all of them in turn. Pull to f: only where the g are arguments in some order (else `substitute`).
Fn compose(const Fn& f, const std::vector<Fn>& g, bool share = true);

/// x -> f(g(x)) for a map g of one argument that is inverted by `g_inverse`: can be pulled back to f (not to g).
Fn substitute(const Fn& f, const Fn& g, const Fn& g_inverse);

/// Jacobian with respect to one argument: the shape of the result, then that of the argument.
Fn nabla(const Fn& f, int arg = 0);
/// Tuple of Jacobians.
Fn nabla(const Fn& f, const std::vector<int>& args);
/// Sum over i of d f[.., i] / d x_i, for a result whose last axes are those of the argument.
Fn divergence(const Fn& f, int arg = 0);
Fn laplacian(const Fn& f, int arg = 0);

/// (x, v) -> Df(x)[v], v being directions of `args`; the source's `linearize`.
Fn jvp(const Fn& f, const std::vector<int>& args);
/// (x, c) -> Df(x)^T c; one item of a tuple for each of `args`, or that item if it is one.
Fn vjp(const Fn& f, const std::vector<int>& args);
/// (x_rest, c) -> adjoint of f(., x_rest) at c, for f that is linear in `args` (checked at the first evaluation). With
/// `unpack` the items of a tuple c are arguments of their own.
Fn linear_transpose(const Fn& f, const std::vector<int>& args, bool unpack = false);

/// Attaches grids to the arguments (none in a place: as it was).
Fn on(const Fn& f, const std::vector<Grid>& grids);

/// Integral over the arguments `args`, by their grids; the rest remain. Input error for an argument without a grid.
Fn integrate(const Fn& f, const std::vector<int>& args);
Fn integrate(const Fn& f);                                  ///< over all arguments
Fn integrate(const Fn& f, const Grid& grid);                ///< of one argument
Fn integrate(const Fn& f, const std::vector<Grid>& grids);  ///< over all arguments, by these
Fn integrate(const Fn& f, int arg, const Grid& grid);

/// x -> integral of f from `a` to x (from_left) or from x to `b`, by `n` Gauss-Legendre nodes between. On [a, b] the
/// two are adjoint to each other.
Fn antiderivative(const Fn& f, double a, double b, std::int64_t n = 20, bool from_left = true);

/// x -> f(x_slots[0], x_slots[1], ..) as a function of all of `target`; slots are distinct.
Fn broadcast_arg(const Fn& f, const std::vector<SpecTree>& target, const std::vector<int>& slots,
                 const std::vector<Grid>& grids = {});
Fn broadcast_arg(const Fn& f, const Fn& target, const std::vector<int>& slots);  ///< to the arguments of `target`
/// Argument j of the result is argument order[j] of f.
Fn permute_args(const Fn& f, const std::vector<int>& order);

std::vector<Fn> split(const Fn& f);        ///< of a tuple-valued function
Fn zip(const std::vector<Fn>& functions);  ///< into one

/// x_rest -> f(values, x_rest); values are the leaves of `args`, without batch. Cannot be pulled back: the adjoint is a
/// Dirac delta.
Fn partial(const Fn& f, const Tensors& values, const std::vector<int>& args);
/// f at one point, as a function of nothing.
Fn value_at(const Fn& f, const Tensors& values);
Fn value_at(const Fn& f, double x);

/// Inner product: integral of the sum over entries of l r, over all arguments by their grids.
Fn braket(const Fn& l, const Fn& r);

/// f, but with no gradient to anything in it: neither functions nor parameters of leaves.
Fn stop_gradient(const Fn& f);

/// "NAME" of the first leaf that gives NaN where its inputs have none, and nothing if f is free of NaN at these points.
std::optional<std::string> first_nan(const Fn& f, const Tensors& points);

}  // namespace unbend::functional
