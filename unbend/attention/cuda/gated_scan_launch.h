// What the CUDA kernels of the gated scan are asked to do: plain pointers, without LibTorch, so that the device code
// compiles by itself.
//
// One scan serves the forward and all gradients, in other roles. With S_t = decay_t S_{t-1} + k_t^T v_t and
// out_t = q_t S_t running forwards in time, the gradients of <out, d_out> are
//   d_q  the forward scan of queries d_out, keys v, values k, with the decay on the other axis,
//   d_v  the scan backwards in time of queries k, keys q, values d_out, with the decay on the same axis,
//   d_k  the scan backwards in time of queries v, keys d_out, values q, with the decay on the other axis,
// where the scan backwards is R_t = k_t^T v_t + decay_{t+1} R_{t+1} and out_t = q_t R_t.
#pragma once

#include <cstdint>

namespace unbend::cuda {

enum class Element { BFloat16, Float32 };
enum class Decays { None, Scalar, Key, Value };  ///< one number for all, or one for each key or value

/// A [batch, heads, time, width] tensor with contiguous rows that begin at multiples of 16 bytes; strides in elements.
/// The head h of the scan reads its head h / group.
struct Rows {
  void* data = nullptr;
  int64_t batch = 0, head = 0;
  int time = 0, width = 0, group = 1;
};

/// States [batch, heads / group, dk, dv] of float32: entry (m, n) is m * row + n * column numbers from a state's first.
/// The head h of the scan reads or writes number h / group.
struct States {
  float* data = nullptr;
  int row = 0, column = 0, group = 1;
  bool first_only = false;  ///< only the first head of a group does
};

/// So many tokens lie between the places at which a scan leaves its state for the gradient of the decays.
constexpr int kBoundary = 128;

struct ScanLaunch {
  Element element;  ///< of q, k and v
  Decays decays;
  bool backwards;  ///< in time
  bool recurrent;  ///< token by token, never in blocks
  int batch, heads, length, dk, dv;
  Rows q, k, v, log_decay;  ///< log_decay: float32
  Rows out;                 ///< none: only states
  bool out_float32;         ///< else of the same type as q
  States initial, final;    ///< either may be none

  // Time in segments of `segment` tokens (a multiple of kBoundary), worked on side by side.
  int segments = 1, segment = 0;
  States entering;              ///< in place of `initial`: [batch, heads / group, segments, dk, dv]
  float* leaving = nullptr;     ///< gets the states that leave segments, [batch, heads, segments, dk, dv]
  float* decay_sums = nullptr;  ///< gets the sums of their log decays, [batch, heads, segments, width]

  // The state before each boundary, in a layout of the kernel's own: written by one scan, and multiplied with the state
  // of another, which runs backwards over the same axes, summed over the keys: what of the result went through there.
  void* boundaries = nullptr;  ///< boundary_size() bytes
  int boundary_group = 1;      ///< of heads, whose first writes
  bool crosses = false;        ///< reads `boundaries`
  float* crossings = nullptr;  ///< [batch, heads, boundaries, dv]

  int* invalid = nullptr;  ///< becomes 1 where a log decay is positive or NaN; may be memory of the host
};

/// Widths of the queries and keys up to 256; any of the values. Rows are multiples of 16 bytes.
constexpr int kWidestScan = 256;
void launch_scan(const ScanLaunch& scan, void* stream);
/// Bytes of `boundaries` for a scan of these sizes.
int64_t boundary_size(Element element, int64_t heads_in_all, int length, int dk, int dv);

/// From the states that leave segments, each begun at zero, to those that enter them; in place.
struct CombineLaunch {
  float* states;            ///< [batch, heads, segments, dk, dv]
  const float* decay_sums;  ///< [batch, heads, segments, decay_width]; none without decays
  Decays decays;
  bool backwards;
  int batch, heads, segments, dk, dv, decay_width;
  States initial;  ///< as in ScanLaunch, for `heads`
};
void launch_combine(const CombineLaunch& combine, void* stream);

/// Gradient of the log decays. What crosses from before token t to t or later is what began before t, less what ended
/// there: what crossed at the last boundary, and over the tokens from there up to t the sum of
///   minus * d_minus, less the sum over the queries of a group of plus * d_plus.
/// On the key axis plus is q and minus k; on the value axis plus is out and minus v.
struct DecayGradientLaunch {
  Element element;
  int batch, heads, group, length, width;  ///< heads: of minus; plus has heads * group
  Rows plus, d_plus, minus, d_minus;       ///< of `element`
  const float* crossings;                  ///< [batch, heads * group, boundaries, width]
  bool scalar;                             ///< summed over the width
  Rows gradient;                           ///< float32, [batch, heads, length, width or 1], contiguous
};
void launch_decay_gradient(const DecayGradientLaunch& gradient, void* stream);

}  // namespace unbend::cuda
