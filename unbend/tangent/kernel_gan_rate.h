// Rates measured on simulated distances.
#pragma once

#include <span>

namespace unbend::gan {

/// Geometric rate of the envelope of |e_k|, k = 0, 1, ..: a line through the logarithms of windowed maxima, with
/// windows as long as the oscillation (through all values where there is none). NaN if fewer than four values are
/// positive and above what doubles resolve.
double envelope_rate(std::span<const double> distances);

}  // namespace unbend::gan
