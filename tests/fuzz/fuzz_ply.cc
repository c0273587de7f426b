// Any bytes as a PLY file: an Error or as many numbers as vertices times properties.
#include <cstdlib>

#include "unbend/base/error.h"
#include "unbend/base/ply.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  try {
    const auto cloud = unbend::parse_ply({reinterpret_cast<const std::byte*>(data), size}, "input");
    if (cloud.values.size() != static_cast<std::size_t>(cloud.count) * cloud.properties.size()) std::abort();
  } catch (const unbend::Error&) {
    return 0;
  }
  return 0;
}
