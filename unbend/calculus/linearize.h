// The linear map that is closest to a function at a point: its Jacobian, matrix-free (methods/autofd.md, B1 and B2).
#pragma once

#include <functional>

#include "unbend/calculus/linear_map.h"

namespace unbend {

/// Of plain tensor operations and of this project's kernels, from tensors to tensors: a network's weights to its
/// outputs, say. Tensors that it captures count as constants and must not change while a linearization lives.
using Function = std::function<Tensors(const Tensors&)>;

/// How push-forwards are had.
enum class PushMode {
  Recorded,  ///< the graph of f that pulls walk backwards is walked forwards: f never runs again. The fastest way
  Dual,      ///< f runs again for every push, on dual numbers: no recording; operations need a forward-mode derivative,
             ///< which kernels of this project do not have
  None,      ///< no push
};

struct LinearizeOptions {
  PushMode push = PushMode::Recorded;
  bool pull = true;
  /// Operations that are pushed by the transpose of their backward are compared with it before the first push: finds
  /// those whose backward is silently not differentiable. Hooks that f puts on gradients are refused.
  bool verify_push = true;
  bool allow_constant = false;   ///< outputs that do not depend on any input have the derivative zero
  bool allow_nonfinite = false;  ///< values of f may be infinite or NaN
};

struct Linearization {
  Tensors value;       ///< f(at), detached
  LinearMap jacobian;  ///< J: space of `at` -> space of `value`
};

/// f(at) and its Jacobian there. f runs once, ever (but for PushMode::Dual). `at` is copied: floating-point tensors of
/// any shapes. Inputs that f does not use have the derivative zero.
///
/// Memory: f's activations; after the first push or the second pull also the derivative of each pointwise operation;
/// for pushes the backward of each operation without a rule of its own (recorded_map.h).
///
/// The Jacobian's push and pull throw Error (Computation) where an operation in f has no such derivative (it is named),
/// and where a tensor that f captured has been changed in place since.
///
/// Throws Error (Input) for inputs or outputs that are not floating-point, for outputs that do not depend on any input
/// (they are named), for an f that changes its inputs in place; Error (Computation) for values that are not finite.
Linearization linearize(const Function& f, const Tensors& at, const LinearizeOptions& options = {});

/// x -> J(x)^T c as a function that can be linearized again; with c = {1} the gradient of a scalar function. And
/// x -> J(x) v.
Function pull_of(Function f, Tensors c);
Function push_of(Function f, Tensors v);

/// The second derivative of a scalar function: value is the gradient, the map is symmetric. f runs once.
Linearization hessian(const Function& f, const Tensors& at);

}  // namespace unbend
