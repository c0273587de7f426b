#include "cli/device.h"

#include "unbend/base/error.h"

namespace unbend::cli {

void add_device_option(CLI::App& verb, std::string& device) {
  verb.add_option("--device", device, "where to compute: cpu, cuda or cuda:N")->capture_default_str();
}

at::Device device_named(const std::string& name) {
  at::Device device(at::kCPU);
  try {
    device = at::Device(name);
  } catch (const c10::Error&) {
    fail_usage("--device: '{}' is not cpu, cuda or cuda:N", name);
  }
  if (!device.is_cuda() && !device.is_cpu()) fail_usage("--device: '{}' is not cpu, cuda or cuda:N", name);
  if (device.is_cuda() && !at::hasCUDA())
    fail_usage("--device {}: this build of LibTorch has no CUDA, or there is no such device", name);
  return device;
}

}  // namespace unbend::cli
