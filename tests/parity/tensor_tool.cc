// Reads a .safetensors or .npy file with our code and writes it again: tensor_tool IN OUT.
#include <iostream>

#include "unbend/base/error.h"
#include "unbend/tensor/npy.h"
#include "unbend/tensor/safetensors.h"

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: tensor_tool IN OUT\n";
    return 2;
  }
  const std::filesystem::path in = arguments[1], out = arguments[2];
  try {
    if (in.extension() == ".npy") {
      unbend::save_npy(out, unbend::load_npy(in));
    } else {
      const auto file = unbend::load_safetensors(in);
      unbend::save_safetensors(out, file.tensors, file.metadata);
    }
  } catch (const unbend::Error& error) {
    std::cerr << error.what() << "\n";
    return error.exit_code();
  }
}
