#include "unbend/series/series.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "unbend/base/error.h"

namespace unbend::series {
namespace {

const std::array<Frequency, 6> kFrequencies{{{"yearly", 1, 6, 1.5, 12},
                                             {"quarterly", 4, 8, 1.5, 3},
                                             {"monthly", 12, 18, 1.5, 1},
                                             {"weekly", 1, 13, 10, 0},
                                             {"daily", 1, 14, 10, 0},
                                             {"hourly", 24, 48, 10, 0}}};

bool digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

int number(std::string_view text) {
  int value = 0;
  for (const char c : text) value = 10 * value + (c - '0');
  return value;
}

// A time that names a month: months since year 0, and its form with %Y, %M (two digits), %Q for what changes.
struct Month {
  long index;
  std::string form;
};

std::optional<Month> month_of(std::string_view t) {
  if (t.size() < 4 || !digits(t.substr(0, 4))) return std::nullopt;
  const long year = 12L * number(t.substr(0, 4));
  const auto month = [&](std::string_view text, std::string form) -> std::optional<Month> {
    if (!digits(text) || number(text) < 1 || number(text) > 12) return std::nullopt;
    return Month{year + number(text) - 1, std::move(form)};
  };
  if (t.size() == 4) return Month{year, "%Y"};
  if (t.size() == 6 && (t[4] == 'Q' || t[4] == 'q') && t[5] >= '1' && t[5] <= '4')
    return Month{year + 3 * (t[5] - '1'), std::string("%Y") + t[4] + "%Q"};
  if (t.size() == 6) return month(t.substr(4), "%Y%M");
  if (t.size() >= 7 && (t[4] == '-' || t[4] == '/')) {
    const char separator = t[4];
    if (t.size() == 7) return month(t.substr(5), std::string("%Y") + separator + "%M");
    // Of a day, only the first of the month can be said of other months too.
    if (t.size() >= 10 && t[7] == separator && digits(t.substr(8, 2)))
      return month(t.substr(5, 2), t.substr(8, 2) == "01" && t.size() == 10
                                       ? std::string("%Y") + separator + "%M" + separator + "01"
                                       : std::string("%Y") + separator + "%M");
  }
  return std::nullopt;
}

std::string written(long index, std::string_view form) {
  std::string text;
  for (std::size_t i = 0; i < form.size(); ++i) {
    if (form[i] != '%') {
      text += form[i];
      continue;
    }
    const char what = form[++i];
    if (what == 'Y') text += fmt::format("{:04d}", index / 12);
    if (what == 'M') text += fmt::format("{:02d}", index % 12 + 1);
    if (what == 'Q') text += std::to_string(index % 12 / 3 + 1);
  }
  return text;
}

std::string place(const TimeSeries& s, std::size_t i) {
  return s.times.empty() ? fmt::format("value {}", i + 1) : fmt::format("value {} ({})", i + 1, s.times[i]);
}

}  // namespace

std::span<const Frequency> frequencies() { return kFrequencies; }

const Frequency& find_frequency(std::string_view name) {
  std::vector<std::string> names;
  for (const auto& f : kFrequencies) {
    if (f.name == name) return f;
    names.push_back(f.name);
  }
  fail_input("frequency '{}' is not known: {}", name, fmt::join(names, ", "));
}

TimeSeries complete(const TimeSeries& series, Missing missing) {
  TimeSeries out{series.id, {}, {}};
  const auto& v = series.values;
  const auto present = [](double x) { return !std::isnan(x); };
  const auto first = static_cast<std::size_t>(std::find_if(v.begin(), v.end(), present) - v.begin());
  require(first < v.size(), "series '{}': {}", series.id, v.empty() ? "it is empty" : "all its values are missing");
  const auto last = v.size() - static_cast<std::size_t>(std::find_if(v.rbegin(), v.rend(), present) - v.rbegin());
  std::size_t known = first;
  for (std::size_t i = first; i < last; ++i) {
    require(!std::isinf(v[i]), "series '{}': {} is infinite", series.id, place(series, i));
    if (!present(v[i])) {
      require(missing == Missing::Interpolate,
              "series '{}': {} is missing inside the series: fill it, or have it interpolated (--missing interpolate)",
              series.id, place(series, i));
      continue;
    }
    for (std::size_t j = known + 1; j < i; ++j)
      out.values.push_back(v[known] +
                           (v[i] - v[known]) * static_cast<double>(j - known) / static_cast<double>(i - known));
    out.values.push_back(v[i]);
    known = i;
  }
  if (!series.times.empty())
    out.times.assign(series.times.begin() + static_cast<std::ptrdiff_t>(first),
                     series.times.begin() + static_cast<std::ptrdiff_t>(last));
  return out;
}

TimeSeries fill_gaps(const TimeSeries& series, const Frequency& frequency) {
  if (frequency.months == 0 || series.times.empty()) return series;
  TimeSeries out{series.id, {}, {}};
  // A few lines must not make a series of any length.
  const long longest = 100 + static_cast<long>(series.times.size());
  std::optional<Month> before;
  for (std::size_t i = 0; i < series.times.size(); ++i) {
    const auto now = month_of(series.times[i]);
    if (!now) return series;
    if (before) {
      const long apart = now->index - before->index;
      require(apart > 0 && apart % frequency.months == 0,
              "series '{}': from {} to {} are {} months, which a {} series cannot have", series.id, series.times[i - 1],
              series.times[i], apart, frequency.name);
      require(apart / frequency.months <= longest, "series '{}': between {} and {} lie {} points, of {} in all",
              series.id, series.times[i - 1], series.times[i], apart / frequency.months - 1, series.times.size());
      for (long m = before->index + frequency.months; m < now->index; m += frequency.months) {
        out.values.push_back(std::numeric_limits<double>::quiet_NaN());
        out.times.push_back(written(m, now->form));
      }
    }
    out.values.push_back(series.values[i]);
    out.times.push_back(series.times[i]);
    before = now;
  }
  return out;
}

std::string time_after(const TimeSeries& series, const Frequency& frequency, int steps) {
  if (frequency.months == 0 || series.times.empty()) return "";
  const auto last = month_of(series.times.back());
  return last ? written(last->index + long(steps) * frequency.months, last->form) : "";
}

}  // namespace unbend::series
