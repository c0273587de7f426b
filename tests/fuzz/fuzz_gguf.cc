// Whatever the bytes, Gguf::open gives an Error or a model of which all metadata and tensors can be read.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/engine/gguf.h"

namespace {

/// A file in memory with a path.
class MemoryFile {
 public:
  MemoryFile() : number_(::memfd_create("fuzz", 0)), path_("/proc/self/fd/" + std::to_string(number_)) {
    if (number_ < 0) std::abort();
  }
  const std::string& write(const std::uint8_t* data, std::size_t size) {
    if (::ftruncate(number_, 0) != 0) std::abort();
    if (::pwrite(number_, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
    return path_;
  }

 private:
  int number_;
  std::string path_;
};

}  // namespace

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
