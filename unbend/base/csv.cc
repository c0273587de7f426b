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
    auto field = line.substr(0, end);
    while (!field.empty() && (field.front() == ' ' || field.front() == '\t')) field.remove_prefix(1);
    while (!field.empty() && (field.back() == ' ' || field.back() == '\t')) field.remove_suffix(1);
    if (commas || !field.empty()) fields.push_back(field);
    if (end == std::string_view::npos) return fields;
    line.remove_prefix(end + 1);
  }
}

bool read_number(std::string_view field, double& value) {
  if (!field.empty() && field.front() == '+') field.remove_prefix(1);
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  return error == std::errc() && end == field.data() + field.size();
}

}  // namespace

NumberTable parse_csv(std::string_view text, std::string_view where) {
  NumberTable table;
  std::size_t columns = 0;
  std::int64_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto fields = fields_of(line);
    if (fields.empty() || line.starts_with('#') || (fields.size() == 1 && fields[0].empty())) continue;
    std::size_t read = 0;
    for (const auto field : fields) {
      double value = 0;
      if (!read_number(field, value)) continue;
      table.values.push_back(value);
      ++read;
    }
    if (read == 0 && table.values.empty() && columns == 0) {  // names of the columns
      columns = fields.size();
      continue;
    }
    if (read < fields.size())
      fail_input("{}, line {}: '{}' is not a row of numbers", where, line_number, line.substr(0, 200));
    if (columns == 0) columns = read;
    require(read == columns, "{}, line {}: {} numbers, where the lines before have {}", where, line_number, read,
            columns);
    table.lines.push_back(line_number);
  }
  require(!table.values.empty(), "{}: there are no numbers in it", where);
  table.rows = static_cast<std::int64_t>(table.lines.size());
  table.columns = static_cast<std::int64_t>(columns);
  return table;
}

NumberTable read_csv(const std::filesystem::path& path) { return parse_csv(read_file(path), path.string()); }

}  // namespace unbend
