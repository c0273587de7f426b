#include "unbend/base/csv.h"

#include <algorithm>
#include <charconv>

#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend {
namespace {

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> fields;
  const bool commas = line.find_first_of(",;") != std::string_view::npos;
  const std::string_view separators = commas ? ",;" : " \t";
  while (true) {
    const auto end = line.find_first_of(separators);
    const auto field = trimmed(line.substr(0, end));
    if (commas || !field.empty()) fields.push_back(field);
    if (end == std::string_view::npos) return fields;
    line.remove_prefix(end + 1);
  }
}

std::string_view unquoted(std::string_view field) {
  const bool quotes = field.size() >= 2 && field.front() == '"' && field.back() == '"';
  return quotes ? field.substr(1, field.size() - 2) : field;
}

// A column that need not hold numbers, and what stands in it.
struct Words {
  std::int64_t column;
  std::vector<std::string_view> found;
};

NumberTable parse(std::string_view text, std::string_view where, Words* words) {
  NumberTable table;
  std::int64_t columns = 0;
  for_each_line(text, [&](std::int64_t number, std::string_view line) {
    const auto fields = fields_of(line);
    const auto count = std::ssize(fields);
    std::vector<std::optional<double>> values;
    for (const auto field : fields) values.push_back(number_in(field));
    const auto is_number = [](const auto& value) { return value.has_value(); };
    const bool may_be_names = words == nullptr || count > 1;
    if (may_be_names && columns == 0 && std::ranges::none_of(values, is_number)) {
      columns = count;
      return;
    }
    if (words != nullptr) {
      const std::int64_t at = words->column < 0 ? words->column + count : words->column;
      require(at >= 0 && at < count, "{}: there is no column {} among {}", where, words->column, count);
      words->found.push_back(unquoted(fields[at]));
      require(!words->found.back().empty(), "{}, line {}: there is no class in column {}", where, number,
              words->column);
      if (!values[at]) values[at] = 0;  // its place among the classes, once all are known
    }
    if (!std::ranges::all_of(values, is_number))
      fail_input("{}, line {}: '{}' is not a row of numbers", where, number, line.substr(0, 200));
    if (columns == 0) columns = count;
    require(count == columns, "{}, line {}: {} numbers, where the lines before have {}", where, number, count, columns);
    for (const auto& value : values) table.values.push_back(*value);
    table.lines.push_back(number);
  });
  require(!table.values.empty(), "{}: there are no numbers in it", where);
  table.rows = static_cast<std::int64_t>(table.lines.size());
  table.columns = columns;
  return table;
}

}  // namespace

void for_each_line(std::string_view text, const std::function<void(std::int64_t, std::string_view)>& take) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    auto line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!trimmed(line).empty() && !line.starts_with('#')) take(number, line);
  }
}

std::string_view trimmed(std::string_view field) {
  while (!field.empty() && (field.front() == ' ' || field.front() == '\t')) field.remove_prefix(1);
  while (!field.empty() && (field.back() == ' ' || field.back() == '\t')) field.remove_suffix(1);
  return field;
}

std::optional<double> number_in(std::string_view field) {
  if (field.starts_with('+')) field.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error != std::errc() || end != field.data() + field.size()) return std::nullopt;
  return value;
}

NumberTable parse_csv(std::string_view text, std::string_view where) { return parse(text, where, nullptr); }

NumberTable read_csv(const std::filesystem::path& path) { return parse_csv(read_file(path), path.string()); }

ClassTable parse_class_csv(std::string_view text, std::string_view where, std::int64_t column) {
  Words words{column, {}};
  ClassTable out{parse(text, where, &words), {}};
  auto& [values, found] = words;
  auto& table = out.numbers;
  const std::int64_t at = column < 0 ? column + table.columns : column;
  if (table.columns == 1 && !number_in(found[0]) && std::ranges::count(found, found[0]) == 1) {
    found.erase(found.begin());
    table.values.erase(table.values.begin());
    table.lines.erase(table.lines.begin());
    require(--table.rows > 0, "{}: there are no rows in it", where);
  }
  if (std::ranges::all_of(found, [](std::string_view word) { return number_in(word).has_value(); })) return out;
  out.classes.assign(found.begin(), found.end());
  std::ranges::sort(out.classes);
  out.classes.erase(std::unique(out.classes.begin(), out.classes.end()), out.classes.end());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto place = std::ranges::lower_bound(out.classes, found[i]) - out.classes.begin();
    table.values[i * static_cast<std::size_t>(table.columns) + static_cast<std::size_t>(at)] =
        static_cast<double>(place);
  }
  return out;
}

}  // namespace unbend
