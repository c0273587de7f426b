// Explicit random numbers: equal on every platform, storable in a checkpoint.
#pragma once

#include <array>
#include <cstdint>

namespace unbend {

/// xoshiro256** (Blackman and Vigna, 2018), seeded by SplitMix64. A value type: copying it forks the stream.
class Random {
 public:
  using State = std::array<std::uint64_t, 4>;
  explicit Random(std::uint64_t seed);
  explicit Random(const State& state) : state_(state) {}

  std::uint64_t bits();                      ///< 64 random bits
  double uniform();                          ///< in [0, 1)
  double normal();                           ///< standard normal, by inversion-free Box-Muller without cached half
  std::uint64_t below(std::uint64_t bound);  ///< unbiased in [0, bound)
  Random split();                            ///< an independent stream
  const State& state() const { return state_; }

 private:
  State state_;
};

}  // namespace unbend
