// Memory of the scan's kernel: copies that run beside the work, and where a block of threads keeps its tiles.
#pragma once

#include <cstdint>

#include "unbend/attention/cuda/fragments.cuh"
#include "unbend/attention/cuda/scan_start.h"

namespace unbend::cuda {

constexpr int kBlock = 16;  // tokens of a product, and columns of a warp

__device__ inline void copy_async_16(void* to, const void* from, bool valid) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
      "l"(from), "r"(valid ? 16 : 0)
      : "memory");
}
__device__ inline void copy_async_4(void* to, const void* from, bool valid) {
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
      "l"(from), "r"(valid ? 4 : 0)
      : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the last kLeft groups are there.
template <int kLeft>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
/// Of a result that is float32, or else of type T.
template <class T>
__device__ void store_two(void* data, bool float32, int64_t at, float x, float y) {
  if (sizeof(T) == 4 || float32)
    *reinterpret_cast<float2*>(static_cast<float*>(data) + at) = make_float2(x, y);
  else
    *reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(data) + at) = __floats2bfloat162_rn(x, y);
}

template <class Math, int kKeys, Decays kDecays>
struct Layout {
  using T = typename Math::T;
  static constexpr int kTile = kKeys * sizeof(T) >= 1024 || (sizeof(T) == 4 && kKeys == 64) ? 16 : 32;  // tokens
  static constexpr int kBlocks = kTile / kBlock;
  // Tiles in memory at a time. What keeps it busy are many blocks of threads on a multiprocessor, not long queues of
  // one.
  static constexpr int kStages = 2;
  static constexpr int kKeyStride = kKeys + Math::kPad;
  int decay_width;  // log decays of a token
  int value_stride, k, v, decay, stage, pre, post, sums,
      bytes;  // all but value_stride: offsets in bytes; q comes first

  __host__ __device__ explicit Layout(int warps) {
    const int columns = kBlock * warps;
    decay_width = kDecays == Decays::None     ? 0
                  : kDecays == Decays::Scalar ? 1
                  : kDecays == Decays::Key    ? kKeys
                                              : columns;
    value_stride = columns + Math::kPad;
    k = kTile * kKeyStride * int(sizeof(T));
    v = 2 * k;
    decay = v + kTile * value_stride * int(sizeof(T));
    stage = decay + kTile * decay_width * int(sizeof(float));
    pre = kStages * stage;
    post = pre + kBlocks * decay_width * int(sizeof(float));
    sums = 2 * post - pre;
    bytes = sums + decay_width * int(sizeof(float));
  }
};

}  // namespace unbend::cuda
