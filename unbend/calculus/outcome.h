// How numerical work ended: named causes, which are results and not exceptions (DESIGN.md, section 6).
#pragma once

namespace unbend {

enum class Outcome {
  Converged,
  MaxIterations,    ///< the limit came first
  Indefinite,       ///< the map, or the preconditioner, is not positive (semi-)definite as the method asks
  Breakdown,        ///< the method cannot go on: the map is singular on what it has seen
  Stagnated,        ///< no progress any more, as a rule because the dtype's rounding has been reached
  IllConditioned,   ///< singular or nearly so: the right-hand side's noise is amplified beyond the limit
  NonfiniteInput,   ///< an argument has NaN or infinities
  NonfiniteResult,  ///< the map gave NaN or infinities
  Cancelled,        ///< the caller's progress function said so
};

constexpr const char* name(Outcome outcome) {
  switch (outcome) {
    case Outcome::Converged: return "converged";
    case Outcome::MaxIterations: return "max_iterations";
    case Outcome::Indefinite: return "indefinite";
    case Outcome::Breakdown: return "breakdown";
    case Outcome::Stagnated: return "stagnated";
    case Outcome::IllConditioned: return "ill_conditioned";
    case Outcome::NonfiniteInput: return "nonfinite_input";
    case Outcome::NonfiniteResult: return "nonfinite_result";
    case Outcome::Cancelled: return "cancelled";
  }
  return "unknown";
}

}  // namespace unbend
