// Time series and their frequencies. Nothing in this folder uses LibTorch.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unbend::series {

/// Values at equal distances in time, the oldest first. NaN is a missing value.
struct TimeSeries {
  std::string id;
  std::vector<double> values;
  std::vector<std::string> times = {};  ///< as long as `values`, or empty: what the file calls these points in time
};

using Collection = std::vector<TimeSeries>;

/// What the forecasting competition M4 fixes for a frequency (Makridakis et al. 2020), and how far back N-BEATS cuts
/// its training windows there (arXiv 1905.10437, table 18).
struct Frequency {
  std::string name;
  int period;      ///< points of a season, for baselines and MASE; 1: no season
  int horizon;     ///< points to forecast
  double history;  ///< windows are cut in the last history * horizon points
  int months;      ///< from one point to the next; 0: not a whole number of months
};

std::span<const Frequency> frequencies();

/// Input error that lists the known names.
const Frequency& find_frequency(std::string_view name);

/// What to do with missing values between others. Those before the first and after the last value are always cut off:
/// series of a table have different lengths.
enum class Missing { Refuse, Interpolate };

/// Without missing values: cut at both ends, linearly interpolated in between. Input error that names the series (and
/// the first gap, with what would help) if nothing is left or a gap may not be filled, and for infinite values.
TimeSeries complete(const TimeSeries& series, Missing missing);

/// Rows that a file leaves out: where the times are months ("1999-12", "1999-12-31", "199912", "1999Q4", "1999")
/// further apart than `frequency` says, missing values are put in between. Series without such times stay as they are.
/// Input error where two times are closer than that.
TimeSeries fill_gaps(const TimeSeries& series, const Frequency& frequency);

/// What would come `steps` after the last time, in its own form; "" if the times are not months.
std::string time_after(const TimeSeries& series, const Frequency& frequency, int steps);

}  // namespace unbend::series
