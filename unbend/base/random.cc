#include "unbend/base/random.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"

namespace unbend {

Random::Random(std::uint64_t seed) {
  for (std::uint64_t& word : state_) {  // SplitMix64
    std::uint64_t z = (seed += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    word = z ^ (z >> 31);
  }
}

std::uint64_t Random::bits() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

double Random::uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }

double Random::normal() {
  const double radius = std::sqrt(-2 * std::log1p(-uniform()));  // 1 - u is in (0, 1]: the logarithm is finite
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

std::uint64_t Random::below(std::uint64_t bound) {
  require(bound > 0, "Random::below: bound must be positive");
  // Draws under `remainder` = 2^64 mod bound are refused, so that what is left is a whole number of rounds of `bound`.
  const std::uint64_t remainder = (0 - bound) % bound;
  std::uint64_t draw = bits();
  while (draw < remainder) draw = bits();
  return draw % bound;
}

Random Random::split() { return Random(bits()); }

}  // namespace unbend
