// Collections of time series in CSV files, in the layouts that people have.
#pragma once

#include <filesystem>
#include <string_view>

#include "unbend/series/series.h"

namespace unbend::series {

/// How a file holds its series.
enum class Layout {
  Auto,     ///< by the first line, see parse_csv
  Long,     ///< one value per line, columns for the series' id, the time (optional) and the value
  Columns,  ///< one column per series, one line per point in time; the first column may be the time
  Rows,     ///< one line per series, its id first, values from the oldest on: the files of M3 and M4
};

/// Reads `text`. Fields are separated by commas, semicolons or tabs (what the first line has most of), may stand in
/// double quotes, and empty ones, NA, NaN, null and "." are missing values. Empty lines and those that start with # are
/// passed over. Layouts are told apart by the first line: names for a series' id (id, unique_id, series, item_id) and a
/// value (value, y, target) make it Long; a first field that is such an id, or V1, or text before numbers only, makes
/// it Rows, and so do names that are all dates, or years in order, but for the first: then they are the times; all else
/// is Columns, with or without a line of names, and with a first column of times if its name says so (time, date, ds,
/// month, quarter, year, period, timestamp, index, or nothing) or if it holds no numbers.
///
/// In Long files a series' lines may be anywhere, but stand in the order of time: numbers and ISO dates are checked.
/// Input error that starts with `where`, names the line, and says what would be right.
Collection parse_csv(std::string_view text, std::string_view where, Layout layout = Layout::Auto);

/// parse_csv of a file.
Collection load_csv(const std::filesystem::path& path, Layout layout = Layout::Auto);

/// A name as a field of a CSV file: in double quotes where it needs them.
std::string quoted(const std::string& name);

/// Layout Rows, numbers as they are read back exactly; missing values are empty. Times are left out.
void save_csv(const std::filesystem::path& path, const Collection& collection);

}  // namespace unbend::series
