// Integral and integro-differential equations with functional operators.
#pragma once

#include "studies/study.h"

namespace unbend {

/// Fredholm, Volterra and nonlinear equations with known solutions, and the spectrum of the Volterra operator. Ours:
/// the paper has none.
void study_equations(StudyResult& result);

}  // namespace unbend
