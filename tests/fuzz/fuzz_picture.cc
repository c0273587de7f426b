// Any bytes as a picture: an Error or as many pixels as it says.
#include <cstdlib>

#include "unbend/base/error.h"
#include "unbend/base/picture.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  try {
    const auto picture = unbend::decode_picture({reinterpret_cast<const std::byte*>(data), size}, "input", 1 << 16);
    if (picture.pixels.size() != static_cast<std::size_t>(picture.height * picture.width * picture.channels))
      std::abort();
  } catch (const unbend::Error&) {
    return 0;
  }
  return 0;
}
