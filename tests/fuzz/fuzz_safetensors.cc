// Any bytes as a safetensors file: an Error or a header whose tensors lie within the file, and which survives being
// written.
#include <cstdlib>

#include "unbend/base/error.h"
#include "unbend/base/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  unbend::SafetensorsHeader header;
  try {
    header = unbend::parse_safetensors_header({reinterpret_cast<const std::byte*>(data), size}, "input");
  } catch (const unbend::Error&) {
    return 0;
  }
  std::size_t bytes = 0;
  for (const auto& tensor : header.tensors) {
    if (tensor.begin > tensor.end || tensor.end > size) std::abort();
    bytes += tensor.end - tensor.begin;
  }
  auto file = unbend::write_safetensors_header(header);
  file.resize(file.size() + bytes);
  const auto again = unbend::parse_safetensors_header(std::as_bytes(std::span(file)), "written");
  if (again.tensors.size() != header.tensors.size() || again.metadata != header.metadata) std::abort();
  return 0;
}
