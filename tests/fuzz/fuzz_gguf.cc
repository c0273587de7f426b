// Whatever the bytes, Gguf::open gives an Error or a model of which all metadata and tensors can be read.
#include <cstdlib>
#include <vector>

#include "tests/fuzz/memory_file.h"
#include "unbend/base/error.h"
#include "unbend/engine/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace unbend::engine;
  static MemoryFile file;
  try {
    const Gguf gguf = Gguf::open(file.write(data, size));
    for (const auto& [key, value] : gguf.metadata()) {
      if (gguf.meta(key) != &value || gguf.encoded(key).empty()) std::abort();
    }
    std::vector<float> values;
    for (const TensorInfo& tensor : gguf.tensors()) {
      if (gguf.data(tensor).size() != tensor.bytes) std::abort();
      if (!is_supported(tensor.type)) continue;
      values.resize(tensor.elements());
      gguf.dequantize(tensor, 0, tensor.rows(), values.data());
    }
  } catch (const unbend::Error&) {
  }
  return 0;
}
