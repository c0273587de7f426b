// Any bytes as a CSV of time series, in every layout: an Error or series whose every value is finite or missing, which
// are completed or refused, and which survive being written and read again.
#include <cmath>
#include <cstdlib>
#include <string>

#include "unbend/base/error.h"
#include "unbend/series/csv.h"

namespace {

using namespace unbend;

void check(const series::Collection& collection) {
  for (const auto& s : collection) {
    if (!s.times.empty() && s.times.size() != s.values.size()) std::abort();
    for (const double v : s.values)
      if (std::isinf(v)) std::abort();
    for (const char* name : {"monthly", "quarterly", "yearly"}) {
      try {
        const auto& frequency = series::find_frequency(name);
        const auto whole = series::complete(series::fill_gaps(s, frequency), series::Missing::Interpolate);
        series::time_after(whole, frequency, 3);
        for (const double v : whole.values)
          if (std::isnan(v)) std::abort();
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto layout :
       {series::Layout::Auto, series::Layout::Long, series::Layout::Columns, series::Layout::Rows}) {
    try {
      check(series::parse_csv(text, "input", layout));
    } catch (const Error&) {
    }
  }
  return 0;
}
