#include "unbend/tensor/csv.h"

#include <charconv>
#include <string_view>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/tensor/npy.h"

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

at::Tensor load_csv(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  std::vector<double> numbers;
  std::size_t columns = 0, line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto fields = fields_of(line);
    if (fields.empty() || line.starts_with('#') || (fields.size() == 1 && fields[0].empty())) continue;
    std::size_t read = 0;
    for (const auto field : fields) {
      double value = 0;
      if (!read_number(field, value)) continue;
      numbers.push_back(value);
      ++read;
    }
    if (read == 0 && numbers.empty() && columns == 0) {  // names of the columns
      columns = fields.size();
      continue;
    }
    if (read < fields.size()) fail_input("{}, line {}: '{}' is not a row of numbers", path.string(), line_number, line);
    if (columns == 0) columns = read;
    require(read == columns, "{}, line {}: {} numbers, where the lines before have {}", path.string(), line_number,
            read, columns);
  }
  require(!numbers.empty(), "{}: there are no numbers in it", path.string());
  return at::tensor(numbers, at::kDouble).view({-1, static_cast<std::int64_t>(columns)});
}

at::Tensor load_array(const std::filesystem::path& path) {
  return path.extension() == ".npy" ? load_npy(path) : load_csv(path);
}

}  // namespace unbend
