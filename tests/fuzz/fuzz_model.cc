// Whatever the bytes, Model::open gives an Error or a model that can take a token, or an Error where there is no
// memory.
#include <vector>

#include "tests/fuzz/memory_file.h"
#include "unbend/base/error.h"
#include "unbend/engine/engine.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace unbend::engine;
  static MemoryFile file;
  try {
    const auto model = Model::open(file.write(data, size));
    EngineOptions options;
    options.context = 4, options.batch = 4;
    Engine engine(model, options);
    const std::vector<TokenId> ids(3, 0);
    engine.run(engine.begin(), ids);
  } catch (const unbend::Error&) {
  }
  return 0;
}
