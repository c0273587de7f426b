#include "unbend/series/csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "unbend/base/csv.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend::series {
namespace {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

struct Line {
  std::int64_t number;
  std::vector<std::string> fields;
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

template <std::size_t N>
bool one_of(std::string_view name, const std::array<std::string_view, N>& names) {
  return std::find(names.begin(), names.end(), lower(name)) != names.end();
}

constexpr std::array<std::string_view, 6> kIds{"id", "unique_id", "series", "item_id", "series_id", "name"};
constexpr std::array<std::string_view, 4> kValues{"value", "y", "target", "values"};
constexpr std::array<std::string_view, 10> kTimes{"time", "date",   "ds",        "month", "quarter",
                                                  "year", "period", "timestamp", "index", ""};
constexpr std::array<std::string_view, 6> kMissings{"", "na", "nan", "null", ".", "none"};

bool is_missing(std::string_view field) { return one_of(field, kMissings); }

std::optional<double> number(std::string_view field) {
  const auto value = number_in(field);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::vector<std::string> fields_of(std::string_view line, char separator, std::string_view where, std::int64_t number) {
  std::vector<std::string> fields;
  for (std::size_t i = 0;; ++i) {
    while (i < line.size() && line[i] == ' ') ++i;
    if (i < line.size() && line[i] == '"') {
      std::string field;
      for (++i;; ++i) {
        require(i < line.size(), "{}, line {}: a double quote is opened and not closed", where, number);
        if (line[i] == '"' && (i + 1 == line.size() || line[i + 1] != '"')) break;
        if (line[i] == '"') ++i;
        field += line[i];
      }
      for (++i; i < line.size() && line[i] == ' ';) ++i;
      require(i == line.size() || line[i] == separator, "{}, line {}: '{}' after a closing double quote", where, number,
              line.substr(i, 1));
      fields.push_back(std::move(field));
    } else {
      const auto end = std::min(line.find(separator, i), line.size());
      fields.emplace_back(trimmed(line.substr(i, end - i)));
      i = end;
    }
    if (i >= line.size()) return fields;
  }
}

char separator_of(std::string_view line) {
  char best = ',';
  std::ptrdiff_t most = 0;
  for (const char c : {',', ';', '\t'}) {
    const auto count = std::count(line.begin(), line.end(), c);
    if (count > most) most = count, best = c;
  }
  return best;
}

std::vector<Line> lines_of(std::string_view text, std::string_view where) {
  std::vector<Line> lines;
  char separator = 0;
  for_each_line(text, [&](std::int64_t number, std::string_view line) {
    require(line.find('\0') == std::string_view::npos, "{}, line {}: this is no text", where, number);
    if (!separator) separator = separator_of(line);
    lines.push_back({number, fields_of(line, separator, where, number)});
  });
  require(!lines.empty(), "{}: there is no line in it", where);
  return lines;
}

double value_of(const std::string& field, const Line& line, std::size_t column, std::string_view where) {
  if (is_missing(field)) return kMissing;
  const auto value = number(field);
  require(value.has_value(), "{}, line {}, field {}: '{}' is not a number", where, line.number, column + 1, field);
  return *value;
}

bool all_text(const std::vector<std::string>& fields) {
  return std::none_of(fields.begin(), fields.end(), [](const auto& f) { return number(f).has_value(); });
}

std::optional<std::size_t> column_of(const std::vector<std::string>& names, const auto& wanted) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (one_of(names[i], wanted)) return i;
  }
  return std::nullopt;
}

// Text, then nothing but numbers and missing values: one series per line.
bool is_row(const std::vector<std::string>& fields) {
  if (fields.size() < 2 || number(fields[0]) || is_missing(fields[0])) return false;
  std::size_t numbers = 0;
  for (std::size_t i = 1; i < fields.size(); ++i) {
    if (number(fields[i]))
      ++numbers;
    else if (!is_missing(fields[i]))
      return false;
  }
  return numbers > 0;
}

// The date 2020-01 or the quarter 2020Q1 is text before numbers too, but names no series.
bool is_time(std::string_view field) {
  return field.size() >= 6 &&
         std::all_of(field.begin(), field.begin() + 4, [](char c) { return c >= '0' && c <= '9'; });
}

// A line of names whose fields after the first are times: dates, or years that follow each other.
bool names_times(const std::vector<std::string>& fields) {
  if (fields.size() < 3 || number(fields[0])) return false;
  const auto is_date = [](const std::string& f) { return is_time(f) && !number(f); };
  if (std::all_of(fields.begin() + 1, fields.end(), is_date)) return true;
  for (std::size_t i = 1; i < fields.size(); ++i) {
    const auto year = number(fields[i]), before = number(fields[i - 1]);
    if (!year || *year < 1500 || *year > 2200 || (i > 1 && *year != *before + 1)) return false;
  }
  return true;
}

Layout layout_of(const std::vector<Line>& lines) {
  const auto& first = lines[0].fields;
  if (all_text(first) && column_of(first, kIds) && column_of(first, kValues)) return Layout::Long;
  if (all_text(first) && first.size() > 1 && (one_of(first[0], kIds) || lower(first[0]) == "v1")) return Layout::Rows;
  return names_times(first) || (is_row(first) && !is_time(first[0])) ? Layout::Rows : Layout::Columns;
}

Collection of_rows(const std::vector<Line>& lines, std::string_view where) {
  Collection out;
  std::map<std::string, std::int64_t> seen;
  const auto& first = lines[0].fields;
  const bool times = names_times(first),
             header = times || (all_text(first) && first.size() > 1 && !is_missing(first[1]));
  require(!header || lines.size() > 1, "{}: there is no line after that of the names", where);
  for (std::size_t k = header ? 1 : 0; k < lines.size(); ++k) {
    const auto& line = lines[k];
    TimeSeries s{line.fields[0], {}, {}};
    require(!s.id.empty(), "{}, line {}: the series has no name in the first field", where, line.number);
    const auto [at, fresh] = seen.emplace(s.id, line.number);
    require(fresh, "{}, line {}: series '{}' is on line {} already", where, line.number, s.id, at->second);
    for (std::size_t i = 1; i < line.fields.size(); ++i) s.values.push_back(value_of(line.fields[i], line, i, where));
    while (!s.values.empty() && std::isnan(s.values.back())) s.values.pop_back();  // shorter than the longest line
    if (times) {
      require(s.values.size() < first.size(), "{}, line {}: {} values for {} times on line {}", where, line.number,
              s.values.size(), first.size() - 1, lines[0].number);
      s.times.assign(first.begin() + 1, first.begin() + 1 + static_cast<std::ptrdiff_t>(s.values.size()));
    }
    out.push_back(std::move(s));
  }
  return out;
}

Collection of_columns(const std::vector<Line>& lines, std::string_view where) {
  const auto& first = lines[0].fields;
  const bool header =
      all_text(first) && std::any_of(first.begin(), first.end(), [](const auto& f) { return !is_missing(f); });
  const std::size_t start = header ? 1 : 0;
  require(lines.size() > start, "{}: there is no line after that of the names", where);
  const auto& sample = lines[start].fields;
  const bool times =
      first.size() > 1 && ((header && one_of(first[0], kTimes)) || (!number(sample[0]) && !is_missing(sample[0])));
  Collection out;
  for (std::size_t i = times ? 1 : 0; i < first.size(); ++i)
    out.push_back({header && !first[i].empty() ? first[i] : fmt::format("column {}", i + 1), {}, {}});
  std::set<std::string_view> seen;
  for (const auto& s : out)
    require(seen.insert(s.id).second, "{}, line {}: two columns are named '{}'", where, lines[0].number, s.id);
  for (std::size_t k = start; k < lines.size(); ++k) {
    const auto& line = lines[k];
    require(line.fields.size() == first.size(), "{}, line {}: {} fields, where line {} has {}", where, line.number,
            line.fields.size(), lines[0].number, first.size());
    for (std::size_t i = times ? 1 : 0; i < first.size(); ++i) {
      auto& s = out[i - (times ? 1 : 0)];
      s.values.push_back(value_of(line.fields[i], line, i, where));
      if (times) s.times.push_back(line.fields[0]);
    }
  }
  return out;
}

bool iso(std::string_view t) { return is_time(t) && t.size() >= 7 && t[4] == '-'; }

Collection of_long(const std::vector<Line>& lines, std::string_view where) {
  const auto& names = lines[0].fields;
  const auto id = column_of(names, kIds), value = column_of(names, kValues);
  require(id && value,
          "{}, line {}: a long table names a column for the series (id, unique_id, series, item_id) and "
          "one for the value (value, y, target)",
          where, lines[0].number);
  std::optional<std::size_t> time;
  for (std::size_t i = 0; i < names.size() && !time; ++i) {
    if (i != *id && i != *value && one_of(names[i], kTimes)) time = i;
  }
  Collection out;
  std::map<std::string, std::size_t> places;
  for (std::size_t k = 1; k < lines.size(); ++k) {
    const auto& line = lines[k];
    require(line.fields.size() == names.size(), "{}, line {}: {} fields, where line {} has {}", where, line.number,
            line.fields.size(), lines[0].number, names.size());
    const auto& name = line.fields[*id];
    require(!name.empty(), "{}, line {}: the series has no name", where, line.number);
    const auto [at, fresh] = places.emplace(name, out.size());
    if (fresh) out.push_back({name, {}, {}});
    auto& s = out[at->second];
    if (time) {
      const auto& now = line.fields[*time];
      if (!s.times.empty()) {
        const auto& before = s.times.back();
        const auto a = number(before), b = number(now);
        const bool rises = a && b ? *a < *b : !iso(before) || !iso(now) || before < now;
        require(rises, "{}, line {}: series '{}' has time {} after {}: its lines must stand in the order of time",
                where, line.number, name, now, before);
      }
      s.times.push_back(now);
    }
    s.values.push_back(value_of(line.fields[*value], line, *value, where));
  }
  require(!out.empty(), "{}: there is no line after that of the names", where);
  return out;
}

}  // namespace

Collection parse_csv(std::string_view text, std::string_view where, Layout layout) {
  const auto lines = lines_of(text, where);
  switch (layout == Layout::Auto ? layout_of(lines) : layout) {
    case Layout::Long: return of_long(lines, where);
    case Layout::Rows: return of_rows(lines, where);
    default: return of_columns(lines, where);
  }
}

Collection load_csv(const std::filesystem::path& path, Layout layout) {
  return parse_csv(read_file(path), path.string(), layout);
}

std::string quoted(const std::string& name) {
  if (name.find_first_of(",\"#;\t ") == std::string::npos) return name;
  std::string out = "\"";
  for (const char c : name) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + '"';
}

void save_csv(const std::filesystem::path& path, const Collection& collection) {
  std::size_t longest = 0;
  for (const auto& s : collection) longest = std::max(longest, s.values.size());
  std::string text = "id";
  for (std::size_t i = 0; i < longest; ++i) text += fmt::format(",v{}", i + 1);
  text += '\n';
  for (const auto& s : collection) {
    text += quoted(s.id);
    for (const double v : s.values) text += std::isnan(v) ? "," : fmt::format(",{}", v);
    text += '\n';
  }
  write_file(path, text);
}

}  // namespace unbend::series
