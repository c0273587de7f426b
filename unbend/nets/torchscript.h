// TorchScript files: their modules, and any module as a function.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "unbend/calculus/linearize.h"

namespace torch::jit {
struct Module;
}

namespace unbend {

/// The module of a file that torch.jit.save wrote, on `device`, as it evaluates. Input error if it is no such file.
torch::jit::Module load_torchscript(const std::filesystem::path& path, at::Device device = at::kCPU);

/// Any module from tensors to a tensor or a tuple of tensors, as it evaluates, for linearize and the like: a plain
/// function of as many inputs as the module has, each [B, ..]. Its weights are constants, on `device`, where inputs
/// must be. Input error if the file is not a TorchScript file, and from the function if the module does not take what
/// it is given.
Function torchscript_function(const std::filesystem::path& path, at::Device device = at::kCPU);

/// LibTorch's errors go on for many lines; the first says what is wrong.
std::string first_line(std::string_view text);

}  // namespace unbend
