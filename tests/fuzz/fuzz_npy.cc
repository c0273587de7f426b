// Any bytes as a .npy file: an Error or a header whose data are the rest of the file, and which survives being written.
#include <cstdlib>

#include "unbend/base/error.h"
#include "unbend/base/npy_header.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  unbend::NpyHeader header;
  try {
    header = unbend::parse_npy_header({reinterpret_cast<const std::byte*>(data), size}, "input");
  } catch (const unbend::Error&) {
    return 0;
  }
  if (header.begin > size || header.shape.size() > 1000) return 0;
  auto file = unbend::write_npy_header(header);
  file.resize(file.size() + (size - header.begin));
  const auto again = unbend::parse_npy_header(std::as_bytes(std::span(file)), "written");
  if (again.shape != header.shape || again.type != header.type || again.fortran_order != header.fortran_order)
    std::abort();
  return 0;
}
