// Descent along functional gradients: what a Sobolev gradient changes.
#pragma once

#include "studies/study.h"

namespace unbend {

/// The soap film between two rings (a catenoid) by descent along the L2 gradient and along the Sobolev gradient, over
/// sizes of the basis.
void study_descent(StudyResult& result, const StudyOptions& options);

}  // namespace unbend
