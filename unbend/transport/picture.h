// Measures as drawings (base/drawing.h), several side by side.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "unbend/base/drawing.h"
#include "unbend/transport/measure.h"

namespace unbend::transport {

/// Panels of points in their first two dimensions (points on a line get height 0), area by mass, all on one scale; at
/// most `most` points each, the heaviest.
Drawing point_panels(std::string title, const std::vector<std::pair<std::string, Measure>>& panels,
                     std::string caption = {}, std::int64_t most = 2000);

/// Panels of circles with mass per bin as bars outwards, the first bin to the right, counter-clockwise.
Drawing circle_panels(std::string title, const std::vector<std::pair<std::string, std::vector<double>>>& panels,
                      std::string caption = {});

}  // namespace unbend::transport
