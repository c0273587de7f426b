// Products of 16 x 16 x 8 on tensor cores, for bfloat16 and for float32, over tiles in shared memory.
//
// Each warp holds matrices in fragments, spread over its 32 lanes as `mma` wants them: with r = lane / 4 and c = lane %
// 4 an accumulator of 16 x 8 keeps (r, 2c), (r, 2c + 1), (r + 8, 2c), (r + 8, 2c + 1). Accumulators turn into operands
// of the next product without leaving their lanes. A contraction runs over 16 numbers.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace unbend::cuda {

__device__ inline int lane_row() { return (threadIdx.x & 31) >> 2; }
__device__ inline int lane_column() { return threadIdx.x & 3; }

/// Where the other operand of a contraction comes from, which decides what its positions stand for.
enum class Besides { Accumulators, Tile };

/// Operands of bfloat16.
struct BFloat16Math {
  using T = __nv_bfloat16;
  static constexpr bool kAddsExactly = true;  ///< sums inside of products lose less than the operands' rounding
  static constexpr int kPad = 8;              ///< elements between rows of tiles, against bank conflicts
  struct A {
    uint32_t x[4];
  };
  struct B {
    uint32_t x[2];
  };

  __device__ static uint32_t pack(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
  }
  template <bool kTranspose>
  __device__ static void load(uint32_t (&x)[4], const T* at) {
    const uint32_t address = __cvta_generic_to_shared(at);
    if constexpr (kTranspose)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                   : "r"(address)
                   : "memory");
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                   : "r"(address)
                   : "memory");
  }
  __device__ static int low_half() { return threadIdx.x & 7; }
  __device__ static int first_bit() { return (threadIdx.x & 8) ? 8 : 0; }
  __device__ static int second_bit() { return (threadIdx.x & 16) ? 8 : 0; }

  /// Rows 0..15 and columns 0..15 of the tile.
  __device__ static A a(const T* tile, int stride) {
    A r;
    load<false>(r.x, tile + (low_half() + first_bit()) * stride + second_bit());
    return r;
  }
  /// The same, of the transpose: rows of A are columns of the tile.
  __device__ static A a_transposed(const T* tile, int stride) {
    A r;
    load<true>(r.x, tile + (low_half() + second_bit()) * stride + first_bit());
    return r;
  }
  /// B[k, n] = tile[n, k], for n of 0..7 and of 8..15.
  __device__ static void b_transposed(B& low, B& high, const T* tile, int stride) {
    uint32_t x[4];
    load<false>(x, tile + (low_half() + second_bit()) * stride + first_bit());
    low = {x[0], x[1]}, high = {x[2], x[3]};
  }
  /// B[k, n] = tile[k, n], for n of 0..7 and of 8..15.
  template <Besides>
  __device__ static void b(B& low, B& high, const T* tile, int stride) {
    uint32_t x[4];
    load<true>(x, tile + (low_half() + first_bit()) * stride + second_bit());
    low = {x[0], x[1]}, high = {x[2], x[3]};
  }
  /// A from the accumulators of its columns 0..7 and 8..15.
  __device__ static A a(const float (&low)[4], const float (&high)[4]) {
    return {{pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]), pack(high[2], high[3])}};
  }
  /// B[k, n] = X[n, k] from the accumulators of the columns 0..7 and 8..15 of X, for n of 0..7 and of 8..15.
  __device__ static void b(B& rows_low, B& rows_high, const float (&low)[4], const float (&high)[4]) {
    rows_low = {{pack(low[0], low[1]), pack(high[0], high[1])}};
    rows_high = {{pack(low[2], low[3]), pack(high[2], high[3])}};
  }
  /// Columns of an A that `a_transposed` gave, times f: f(j) for column j.
  template <class F>
  __device__ static void scale_columns(A& a, F&& factor) {
    const int c = 2 * lane_column();
    const float f[4] = {factor(c), factor(c + 1), factor(c + 8), factor(c + 9)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(a.x[i]));
      a.x[i] = pack(x.x * f[i & 2], x.y * f[(i & 2) + 1]);
    }
  }
  __device__ static void multiply(float (&c)[4], const A& a, const B& b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
  }
};

/// Operands of float32, each as the sum of two numbers of tf32: three products give float32's accuracy but for the last
/// two bits. Positions c and c + 4 of a contraction over eight stand for its numbers 2c and 2c + 1, so that
/// accumulators are operands as they are; where both operands come from rows of tiles they stand for c and c + 4, which
/// lie in banks of their own.
struct Float32Math {
  using T = float;
  static constexpr bool kAddsExactly = false;  ///< tensor cores cut off what they add: long sums are ours
  static constexpr int kPad = 8;
  struct A {
    float x[2][4];
  };
  struct B {
    float x[2][2];
  };

  __device__ static A a(const T* tile, int stride) {
    A r;
    const T* at = tile + lane_row() * stride + 2 * lane_column();
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const float2 upper = *reinterpret_cast<const float2*>(at + 8 * g);
      const float2 lower = *reinterpret_cast<const float2*>(at + 8 * stride + 8 * g);
      r.x[g][0] = upper.x, r.x[g][1] = lower.x, r.x[g][2] = upper.y, r.x[g][3] = lower.y;
    }
    return r;
  }
  __device__ static A a_transposed(const T* tile, int stride) {
    A r;
    const T* at = tile + lane_column() * stride + lane_row();
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      r.x[g][0] = at[8 * g * stride], r.x[g][1] = at[8 * g * stride + 8];
      r.x[g][2] = at[(8 * g + 4) * stride], r.x[g][3] = at[(8 * g + 4) * stride + 8];
    }
    return r;
  }
  __device__ static void b_transposed(B& low, B& high, const T* tile, int stride) {
    const T* at = tile + lane_row() * stride + 2 * lane_column();
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const float2 first = *reinterpret_cast<const float2*>(at + 8 * g);
      const float2 second = *reinterpret_cast<const float2*>(at + 8 * stride + 8 * g);
      low.x[g][0] = first.x, low.x[g][1] = first.y, high.x[g][0] = second.x, high.x[g][1] = second.y;
    }
  }
  template <Besides kBesides>
  __device__ static void b(B& low, B& high, const T* tile, int stride) {
    constexpr int kFirst = kBesides == Besides::Accumulators ? 2 : 1,
                  kSecond = kBesides == Besides::Accumulators ? 1 : 4;
    const T* at = tile + kFirst * lane_column() * stride + lane_row();
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      low.x[g][0] = at[8 * g * stride], low.x[g][1] = at[(8 * g + kSecond) * stride];
      high.x[g][0] = at[8 * g * stride + 8], high.x[g][1] = at[(8 * g + kSecond) * stride + 8];
    }
  }
  __device__ static A a(const float (&low)[4], const float (&high)[4]) {
    return {{{low[0], low[2], low[1], low[3]}, {high[0], high[2], high[1], high[3]}}};
  }
  __device__ static void b(B& rows_low, B& rows_high, const float (&low)[4], const float (&high)[4]) {
    rows_low = {{{low[0], low[1]}, {high[0], high[1]}}};
    rows_high = {{{low[2], low[3]}, {high[2], high[3]}}};
  }
  template <class F>
  __device__ static void scale_columns(A& a, F&& factor) {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float f = factor(8 * g + 4 * half + lane_column());
        a.x[g][2 * half] *= f, a.x[g][2 * half + 1] *= f;
      }
    }
  }
  __device__ static void multiply_parts(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  /// The tensor cores ignore the last 13 bits: `high` is what they see of x, and `low` what they miss.
  __device__ static void split(float x, uint32_t& high, uint32_t& low) {
    high = __float_as_uint(x) & 0xffffe000u;
    low = __float_as_uint(x - __uint_as_float(high));
  }
  __device__ static void multiply(float (&c)[4], const A& a, const B& b) {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
#pragma unroll
      for (int i = 0; i < 4; ++i) split(a.x[g][i], a_high[i], a_low[i]);
#pragma unroll
      for (int i = 0; i < 2; ++i) split(b.x[g][i], b_high[i], b_low[i]);
      multiply_parts(c, a_low, b_high);
      multiply_parts(c, a_high, b_low);
      multiply_parts(c, a_high, b_high);
    }
  }
};

}  // namespace unbend::cuda
