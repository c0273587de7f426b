// Drawings as SVG, alone or inside a report.
#pragma once

#include <string>

#include "unbend/base/drawing.h"

namespace unbend {

/// An <svg> element; y points up. In a report its colours are the report's. Input error if something is not finite or
/// nothing is shown.
std::string to_svg(const Drawing& drawing);

}  // namespace unbend
