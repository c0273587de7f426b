// Whatever the bytes, parse_json gives an Error or a value that is the same after it is written and read again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "unbend/base/error.h"
#include "unbend/base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const unbend::Json json = unbend::parse_json({reinterpret_cast<const char*>(data), size}, "input");
    if (unbend::parse_json(json.dump(), "output") != json) std::abort();
  } catch (const unbend::Error&) {
  }
  return 0;
}
