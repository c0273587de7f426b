// A device that is not the CPU, on every machine: tests of what `--device` promises.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace unbend::test {

/// A device in the CPU's memory whose bytes only LibTorch's operations may touch (each works on copies on the CPU):
/// code that mixes devices, or that reads tensors through pointers as if they were on the CPU, fails here as on a GPU,
/// the former by LibTorch's error, the latter by a segmentation fault.
at::Device other_device();

/// The devices to compare with the CPU: the one above, and a GPU if there is one.
std::vector<at::Device> other_devices();

}  // namespace unbend::test
