// Exchange-correlation potentials as functional gradients.
#pragma once

#include "studies/study.h"

namespace unbend {

/// Potentials of a Gaussian's and of hydrogen's density at 1000 points against another road to them; energies of
/// hydrogen.
void study_density(StudyResult& result);

}  // namespace unbend
