#include "studies/point_clouds.h"

#include <filesystem>

#include "unbend/base/error.h"
#include "unbend/base/npy.h"

namespace unbend {
namespace {

using transport::Measure;

constexpr std::int64_t kSide = 28;

Measure digit(const std::byte* pixels) {
  Measure m{2, {}, {}};
  for (std::int64_t r = 0; r < kSide; r += 2) {
    for (std::int64_t c = 0; c < kSide; c += 2) {
      double sum = 0;
      for (const std::int64_t at : {r * kSide + c, r * kSide + c + 1, (r + 1) * kSide + c, (r + 1) * kSide + c + 1})
        sum += std::to_integer<int>(pixels[at]);
      const double grey = sum / (4 * 255.0);
      if (grey > .4) m.add(std::vector{static_cast<double>(c), static_cast<double>(kSide - 2 - r)}, grey);
    }
  }
  return m;
}

}  // namespace

DigitClouds digit_clouds(const std::vector<int>& classes, int each, double noise, Random& random) {
  const std::filesystem::path folder = "build/data/digits";
  require(std::filesystem::exists(folder / "images.npy"), "{} is missing: run tools/setup.sh images",
          (folder / "images.npy").string());
  const NpyArray images = read_npy(folder / "images.npy");
  const auto labels = to_doubles(read_npy(folder / "labels.npy"));
  require(images.type == "u1" && images.size() == static_cast<std::int64_t>(labels.size()) * kSide * kSide,
          "{}: expected {} digits of {} x {} bytes", (folder / "images.npy").string(), labels.size(), kSide, kSide);
  DigitClouds clouds;
  for (const int wanted : classes) {
    int taken = 0;
    for (std::size_t i = 0; i < labels.size() && taken < each; ++i) {
      if (static_cast<int>(labels[i]) != wanted) continue;
      const Measure m = transport::normalised(digit(images.bytes.data() + i * kSide * kSide), "digit");
      Measure noisy = m;
      const std::int64_t more = m.size() * 3 / 4;
      for (std::int64_t k = 0; k < more; ++k)
        noisy.add(std::vector{-20 + 60 * random.uniform(), -20 + 60 * random.uniform()},
                  noise / static_cast<double>(more));
      clouds.clean.push_back(m);
      clouds.noisy.push_back(std::move(noisy));
      clouds.labels.push_back(wanted);
      ++taken;
    }
  }
  return clouds;
}

}  // namespace unbend
