// Keys and values of a sliding window in constant memory: a ring buffer, with pinned sink tokens that are never
// evicted.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "unbend/attention/window.h"

namespace unbend {

/// Remembers the last span() tokens and the first `sinks` tokens of B sequences that advance together.
class WindowCache {
 public:
  WindowCache(std::int64_t batch, std::int64_t kv_heads, std::int64_t dim, const WindowOptions& options,
              const at::TensorOptions& tensor_options);

  /// Tokens as they pass out of the window; `valid` [n] is 1 where there is one and it is not a sink, else 0 (and its
  /// rows are 0).
  struct Leaving {
    at::Tensor keys, values;  ///< [B, Hkv, n, d]
    at::Tensor valid;         ///< [n]
  };

  /// The tokens first(position-1) .. first(position+T-1)-1 that leave while the T tokens k, v [B, Hkv, T, d] arrive:
  /// one with each of them where step is 1, otherwise `step` at once with each that starts a step. Call before
  /// attend().
  Leaving leaving(const at::Tensor& k, const at::Tensor& v) const;

  /// Attention of T new queries [B, H, T, d] over what is remembered and the new tokens themselves, which are then
  /// remembered.
  Partial attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

  std::int64_t position() const { return position_; }  ///< tokens seen
  std::int64_t bytes() const { return static_cast<std::int64_t>(keys_.nbytes() + values_.nbytes()); }
  WindowCache clone() const;

  /// As if `tokens` tokens had been seen, with random contents.
  void pretend(std::int64_t tokens);

 private:
  std::int64_t slot(std::int64_t token) const;
  void remember(const at::Tensor& k, const at::Tensor& v);
  WindowOptions options_;
  at::Tensor keys_, values_;  ///< [B, Hkv, sinks + span, d]: sinks first, then the ring
  at::Tensor positions_;      ///< [sinks + span] int64, -1 where empty
  std::int64_t position_ = 0;
};

}  // namespace unbend
