// Any text as a table of numbers: an Error or as many numbers as rows times columns.
#include <cstdlib>

#include "unbend/base/csv.h"
#include "unbend/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  try {
    const auto table = unbend::parse_csv({reinterpret_cast<const char*>(data), size}, "input");
    if (static_cast<std::int64_t>(table.values.size()) != table.rows * table.columns || table.rows == 0 ||
        static_cast<std::int64_t>(table.lines.size()) != table.rows)
      std::abort();
  } catch (const unbend::Error&) {
    return 0;
  }
  return 0;
}
