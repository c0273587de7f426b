// Any bytes as lines of libsvm, Vowpal Wabbit or CSV (the first byte chooses): bad lines with a cause, or rows with
// distinct features in range, finite values and labels.
#include <cmath>
#include <cstdlib>
#include <set>

#include "unbend/optimize/row_format.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace unbend::optimize;
  if (size == 0) return 0;
  FormatOptions options;
  options.format = static_cast<RowFormat>(data[0] % 3);
  options.features = data[0] & 4 ? 5 : 0;
  options.bits = 6;
  options.constant = data[0] & 8;
  options.labelled = data[0] & 16;
  options.label_column = data[0] & 32 ? -1 : 0;
  RowParser parser(options);
  std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  Rows rows;
  while (!text.empty()) {
    const auto end = text.find('\n');
    std::string problem;
    const std::size_t before = rows.size();
    const LineKind kind = parser.parse(text.substr(0, end), rows, problem);
    if ((rows.size() > before) != (kind == LineKind::Row) || (kind == LineKind::Bad) == problem.empty()) std::abort();
    text = end == text.npos ? std::string_view() : text.substr(end + 1);
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row row = rows[i];
    if (!std::isfinite(row.label) || !(row.weight >= 0)) std::abort();
    if (std::set<std::uint32_t>(row.index.begin(), row.index.end()).size() != row.index.size()) std::abort();
    for (const auto index : row.index)
      if (index >= options.dimension()) std::abort();
  }
  return 0;
}
