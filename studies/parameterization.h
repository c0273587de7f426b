// How parameterizations are shown, in studies and on the command line: tables of rules, plots over sizes and rates.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "unbend/report/html.h"
#include "unbend/report/table.h"
#include "unbend/tangent/scaling.h"

namespace unbend {

Table role_table(const ScaledRules& rules);    ///< one row per role that occurs
Table tensor_table(const ScaledRules& rules);  ///< one row per tensor
Json rules_json(const ScaledRules& rules);     ///< all of it, for other programs: factors, groups' settings per tensor

struct NamedCheck {
  std::string name;
  CoordinateCheck check;
};
/// Means over seeds of a quantity after `step` steps, over sizes; of its change since the start if `change`.
LinePlot coordinate_plot(const std::vector<NamedCheck>& checks, std::string_view quantity, int64_t step, bool change,
                         const std::string& axis);

/// Loss over learning rates, a curve per size, with the spread over seeds. Trainings that diverged leave gaps.
LinePlot transfer_plot(const TransferSweep& sweep, const std::string& title);
/// The same as a table: a row per size.
Table transfer_table(const TransferSweep& sweep, const std::string& title);

/// "2^-8" for powers of two, else three digits.
std::string rate_name(double rate);

}  // namespace unbend
