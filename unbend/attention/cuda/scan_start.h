// The instances of the scan's kernel, each in a file that compiles by itself.
#pragma once

#include <cuda_runtime.h>

#include "unbend/attention/cuda/gated_scan_launch.h"

namespace unbend::cuda {

struct BFloat16Math;
struct Float32Math;

struct ScanStart : ScanLaunch {
  int warps;  ///< of a block of threads
};

/// For queries and keys of up to kKeys columns: 32, 64, 128 or 256.
template <class Math, int kKeys>
void start_scan(const ScanStart& a, cudaStream_t stream);

}  // namespace unbend::cuda
