#include "unbend/attention/cuda/gated_scan_launch.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "unbend/attention/cuda/scan_start.h"

namespace unbend::cuda {
namespace {

// The width that the kernels have for so many.
int padded_keys(int dk) { return dk <= 32 ? 32 : dk <= 64 ? 64 : dk <= 128 ? 128 : kWidestScan; }

template <class Math>
void start_for_width(const ScanStart& a, cudaStream_t stream) {
  switch (padded_keys(a.dk)) {
    case 32: return start_scan<Math, 32>(a, stream);
    case 64: return start_scan<Math, 64>(a, stream);
    case 128: return start_scan<Math, 128>(a, stream);
    default: return start_scan<Math, 256>(a, stream);
  }
}

// ---- States of segments

// A thread by entry of the state; what a few segments add is asked for at a time.
__global__ void combine_kernel(const __grid_constant__ CombineLaunch a) {
  constexpr int kAhead = 8;
  const int64_t size = int64_t(a.dk) * a.dv, entry = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (entry >= size) return;
  const int head = blockIdx.y % a.heads, batch = blockIdx.y / a.heads;
  const int m = entry / a.dv, n = entry % a.dv, x = a.decays == Decays::Key ? m : a.decays == Decays::Value ? n : 0;
  const States& initial = a.initial;
  float state = 0;
  if (initial.data && !(initial.first_only && head % initial.group != 0)) {
    const int64_t index = int64_t(batch) * (a.heads / initial.group) + head / initial.group;
    state = initial.data[index * size + int64_t(m) * initial.row + int64_t(n) * initial.column];
  }
  const auto place = [&](int step) {
    return int64_t(blockIdx.y) * a.segments + (a.backwards ? a.segments - 1 - step : step);
  };
  for (int first = 0; first < a.segments; first += kAhead) {
    float added[kAhead], decay[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const bool there = first + i < a.segments;
      added[i] = there ? a.states[place(first + i) * size + entry] : 0;
      decay[i] = there && a.decay_sums ? expf(a.decay_sums[place(first + i) * a.decay_width + x]) : 1;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i < a.segments) a.states[place(first + i) * size + entry] = state;
      state = decay[i] * state + added[i];
    }
  }
}

// ---- Gradient of the decays

constexpr int kTimes = 16, kTokens = kBoundary / kTimes;  // warps, each with so many tokens

template <bool kFloat32>
__device__ float2 two(const void* data, int64_t at) {
  if constexpr (kFloat32) return *reinterpret_cast<const float2*>(static_cast<const float*>(data) + at);
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(data) + at));
}

__device__ float sum_of_warp(float x) {
#pragma unroll
  for (int bit = 16; bit; bit /= 2) x += __shfl_xor_sync(0xffffffffu, x, bit);
  return x;
}

// A block of threads takes the tokens from one boundary to the next and 64 columns, or for a scalar all columns. kWide:
// all is float32. Without groups what the loops read is known early, and all of it is asked for at once.
template <bool kWide, bool kGrouped>
__global__ void __launch_bounds__(kTimes * 32) decay_gradient_kernel(const __grid_constant__ DecayGradientLaunch a) {
  __shared__ float sums[kTimes][64];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, boundaries = (a.length + kBoundary - 1) / kBoundary;
  const int boundary = blockIdx.x % boundaries, head = blockIdx.x / boundaries % a.heads,
            batch = blockIdx.x / boundaries / a.heads;
  const int first = boundary * kBoundary + warp * kTokens, mine = 64 * blockIdx.y + 2 * lane;
  const int group = kGrouped ? a.group : 1;
  float2 x[kTokens] = {}, crossed = {};
  for (int column = mine; column < a.width; column += a.scalar ? 64 : a.width) {
    const bool pair = column + 1 < a.width;  // else the second is padding
    for (int g = 0; g < group; ++g) {
      const int query = head * group + g;
      const float* crossings =
          a.crossings + ((int64_t(batch) * a.heads * group + query) * boundaries + boundary) * a.width + column;
      crossed.x += crossings[0], crossed.y += pair ? crossings[1] : 0;
    }
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int time = first + i;
      if (time >= a.length) continue;
      const auto product = [&](const Rows& rows, const Rows& d, int h) {
        const float2 value = two<kWide>(rows.data, batch * rows.batch + h * rows.head + time * rows.time + column);
        const float2 gradient = two<kWide>(d.data, batch * d.batch + h * d.head + time * d.time + column);
        return make_float2(value.x * gradient.x, pair ? value.y * gradient.y : 0);
      };
      const float2 begun = product(a.minus, a.d_minus, head);
      x[i].x += begun.x, x[i].y += begun.y;
      for (int g = 0; g < group; ++g) {
        const float2 ended = product(a.plus, a.d_plus, head * group + g);
        x[i].x -= ended.x, x[i].y -= ended.y;
      }
    }
  }
  if (a.scalar) {
    crossed = {sum_of_warp(crossed.x + crossed.y), 0};
#pragma unroll
    for (int i = 0; i < kTokens; ++i) x[i] = {sum_of_warp(x[i].x + x[i].y), 0};
  }
  float2 sum = {};
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {  // to what came before
    const float2 term = x[i];
    x[i] = sum, sum.x += term.x, sum.y += term.y;
  }
  *reinterpret_cast<float2*>(&sums[warp][2 * lane]) = sum;
  __syncthreads();
  for (int other = 0; other < warp; ++other) {
    const float2 s = *reinterpret_cast<const float2*>(&sums[other][2 * lane]);
    crossed.x += s.x, crossed.y += s.y;
  }
  if (a.scalar ? lane != 0 : mine >= a.width) return;
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    if (first + i >= a.length) continue;
    float* to = static_cast<float*>(a.gradient.data) + batch * a.gradient.batch + head * a.gradient.head +
                (first + i) * a.gradient.time;
    if (a.scalar)
      to[0] = x[i].x + crossed.x;
    else
      *reinterpret_cast<float2*>(to + mine) = make_float2(x[i].x + crossed.x, x[i].y + crossed.y);
  }
}

}  // namespace

void launch_scan(const ScanLaunch& scan, void* stream) {
  const ScanStart a{scan, std::min(8, (scan.dv + 15) / 16)};
  const auto on = static_cast<cudaStream_t>(stream);
  a.element == Element::BFloat16 ? start_for_width<BFloat16Math>(a, on) : start_for_width<Float32Math>(a, on);
}

int64_t boundary_size(Element element, int64_t heads_in_all, int length, int dk, int dv) {
  const int keys = padded_keys(dk), columns = (dv + 15) / 16 * 16;
  return heads_in_all * ((length + kBoundary - 1) / kBoundary) * keys * columns *
         (element == Element::BFloat16 ? 2 : 4);
}

void launch_combine(const CombineLaunch& a, void* stream) {
  const dim3 grid((a.dk * a.dv + 127) / 128, a.batch * a.heads);
  combine_kernel<<<grid, 128, 0, static_cast<cudaStream_t>(stream)>>>(a);
}

void launch_decay_gradient(const DecayGradientLaunch& a, void* stream) {
  const int boundaries = (a.length + kBoundary - 1) / kBoundary;
  const dim3 grid(a.batch * a.heads * boundaries, a.scalar ? 1 : (a.width + 63) / 64);
  const bool wide = a.element == Element::Float32, grouped = a.group > 1;
  const auto kernel = wide ? (grouped ? decay_gradient_kernel<true, true> : decay_gradient_kernel<true, false>)
                           : (grouped ? decay_gradient_kernel<false, true> : decay_gradient_kernel<false, false>);
  kernel<<<grid, kTimes * 32, 0, static_cast<cudaStream_t>(stream)>>>(a);
}

}  // namespace unbend::cuda
