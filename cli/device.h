// `--device`: where LibTorch computes.
#pragma once

#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <string>

namespace unbend::cli {

void add_device_option(CLI::App& verb, std::string& device);

/// What --device means. Usage error unless it is cpu, or a CUDA device that this build and machine have.
at::Device device_named(const std::string& name);

}  // namespace unbend::cli
