// The curve of fastest descent, by a network that minimises a functional: the notebook's example of autofd.
#pragma once

#include "studies/study.h"

namespace unbend {

/// Trains y(x) = sin(pi x) MLP(x) - x for F[y] = integral of sqrt(1 + y'^2) / sqrt(-y) over [0, 1] with three losses:
/// (a) F, (b) the integral of (dF/dy)^2, (c) the integral of stop_gradient(dF/dy) y; on the notebook's grid and on one
/// that suits the singularity. Adds claims, a table and plots.
void study_brachistochrone(StudyResult& result, const StudyOptions& options);

}  // namespace unbend
