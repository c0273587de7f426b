#include "unbend/attention/cuda/scan.cuh"

namespace unbend::cuda {

template void start_scan<BFloat16Math, 128>(const ScanStart&, cudaStream_t);
template void start_scan<BFloat16Math, 256>(const ScanStart&, cudaStream_t);

}  // namespace unbend::cuda
