// Whether linear maps and linearizations are what they say. For tests of every new map, and for users' own functions.
#pragma once

#include <cstdint>
#include <string>

#include "unbend/calculus/linearize.h"

namespace unbend {

/// Of two sides of an equation that must agree.
struct CheckResult {
  bool ok;
  double error;      ///< relative
  double tolerance;  ///< what error is held against
  std::string message;
  explicit operator bool() const { return ok; }
};

/// |<A v, c> - <v, A^T c>| <= tolerance |A v| |c| for a random v and c. The tolerance is 1e-10 if all leaves are
/// float64, 1e-4 for float32, 1e-2 for narrower ones.
CheckResult dot_test(const LinearMap& a, uint64_t seed = 1);

/// "" if the declared properties hold on random vectors, else what is wrong.
std::string check_properties(const LinearMap& a, uint64_t seed = 1);

/// Whether J of `linearize(f, at, options)` is the derivative: J passes dot_test, and J v equals central differences of
/// f along a random v (the best of a few steps; tolerance 1e-6 in float64, 1e-2 otherwise). f runs a few more times.
CheckResult check_linearization(const Function& f, const Tensors& at, uint64_t seed = 1,
                                const LinearizeOptions& options = {});

}  // namespace unbend
