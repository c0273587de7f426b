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

NumberTable parse_csv(std::string_view text, std::string_view where) {
  NumberTable table;
  std::size_t columns = 0;
  for_each_line(text, [&](std::int64_t number, std::string_view line) {
    const auto fields = fields_of(line);
    std::size_t read = 0;
    for (const auto field : fields) {
      const auto value = number_in(field);
      if (!value) continue;
      table.values.push_back(*value);
      ++read;
    }
    if (read == 0 && table.values.empty() && columns == 0) {  // names of the columns
      columns = fields.size();
      return;
    }
    if (read < fields.size())
      fail_input("{}, line {}: '{}' is not a row of numbers", where, number, line.substr(0, 200));
    if (columns == 0) columns = read;
    require(read == columns, "{}, line {}: {} numbers, where the lines before have {}", where, number, read, columns);
    table.lines.push_back(number);
  });
  require(!table.values.empty(), "{}: there are no numbers in it", where);
  table.rows = static_cast<std::int64_t>(table.lines.size());
  table.columns = static_cast<std::int64_t>(columns);
  return table;
}

NumberTable read_csv(const std::filesystem::path& path) { return parse_csv(read_file(path), path.string()); }

}  // namespace unbend
