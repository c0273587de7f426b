// Any bytes as a .npy file: an Error or a header whose data are the rest of the file, and which survives being written.
#include <cstdlib>

#include "unbend/base/error.h"
#include "unbend/base/npy.h"
#include "unbend/base/npy_header.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  unbend::NpyHeader header;
  try {
    header = unbend::parse_npy_header(file, "input");
  } catch (const unbend::Error&) {
    return 0;
  }
  if (header.begin > size || header.shape.size() > 1000) return 0;
  auto written = unbend::write_npy_header(header);
  written.resize(written.size() + (size - header.begin));
  const auto again = unbend::parse_npy_header(std::as_bytes(std::span(written)), "written");
  if (again.shape != header.shape || again.type != header.type || again.fortran_order != header.fortran_order)
    std::abort();
  const auto array = unbend::parse_npy(file, "input");
  if (static_cast<std::int64_t>(unbend::to_doubles(array).size()) != array.size()) std::abort();
  return 0;
}
