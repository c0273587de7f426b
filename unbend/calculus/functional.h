// Derivatives of functionals: code that takes functions and gives functions or numbers.
//
// A gradient is with respect to the inner product <f, g> = integral of f . g, with boundary terms dropped: variations
// vanish at the boundary, or functions decay. Everything stays a Fn, so derivatives can be differentiated again.
#pragma once

#include "unbend/calculus/fn.h"
#include "unbend/calculus/fn_math.h"

namespace unbend::functional {

using Functional = std::function<Fn(const Fn&)>;
using FunctionalOfMany = std::function<Fn(const std::vector<Fn>&)>;

/// A functional at functions f_1, .., f_n: its value and its derivative there, as expressions that nothing has been
/// computed of.
class FunctionalLinearization {
 public:
  FunctionalLinearization(const FunctionalOfMany& functional, const std::vector<Fn>& at);

  const Fn& value() const { return value_; }
  /// d/de F(f + e df) at e = 0; df have the types of the f. Of the type of the value.
  Fn push(const std::vector<Fn>& df) const;
  Fn push(const Fn& df) const { return push(std::vector<Fn>{df}); }
  /// The adjoint of push at c, of the type of the value. Input error that names the operator where it is undefined.
  std::vector<Fn> pull(const Fn& c) const;

  /// What arrives, in a pull of c, at every node that depends on the variables.
  std::vector<std::pair<Fn, Fn>> cotangents(const Fn& c) const;
  const std::vector<Fn>& variables() const { return variables_; }

 private:
  std::vector<Fn> variables_;
  Fn value_;
  std::vector<Fn> order_;  // what depends on the variables, each after its inputs
};

FunctionalLinearization linearize(const Functional& functional, const Fn& at);
FunctionalLinearization linearize(const FunctionalOfMany& functional, const std::vector<Fn>& at);

/// dF/df for F with values in the numbers, as a function of the type of f.
Fn gradient(const Functional& functional, const Fn& at);
std::vector<Fn> gradients(const FunctionalOfMany& functional, const std::vector<Fn>& at);

/// The second derivative in the direction df, as a function: what the gradient changes by.
Fn second_variation(const Functional& functional, const Fn& at, const Fn& df);

/// What integration by parts leaves at the boundary: entry k multiplies the k-th derivative of df, at the right end
/// with sign +, at the left end with - (in more dimensions: times the outward normal). At a free end of a minimiser
/// they are 0; for F = integral of L(x, f, f') entry 0 is dL/df'. Functions under a derivative must be f itself or its
/// derivatives.
std::vector<Fn> boundary_residual(const Functional& functional, const Fn& at);

}  // namespace unbend::functional
