// The image tasks of studies, and the count of tensors' memory.
#include "studies/images.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <filesystem>

#include "studies/memory.h"
#include "unbend/base/error.h"

namespace unbend {
namespace {

// Finds the marks (pixels that noise cannot reach), and what the label must be.
TEST(Images, ColourPairsAreWhatTheySay) {
  Random random(3);
  const auto set = colour_pairs(200, random);
  int64_t same = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const auto places = (std::get<0>(set.images[i].max(0)) > .5).nonzero();  // [8, 2]
    ASSERT_EQ(places.size(0), 8) << i;
    const auto first = places[0];
    const auto near = (places - first).abs().amax(1).le(1);
    ASSERT_EQ(near.sum().item<int64_t>(), 4) << i;
    const auto second = places.index({near.logical_not()})[0];
    EXPECT_GE((second - first).abs().max().item<int64_t>(), 12) << i;
    const auto colour = [&](const at::Tensor& at) {
      return set.images[i].select(1, at[0].item<int64_t>()).select(1, at[1].item<int64_t>());
    };
    const bool equal = (colour(first) - colour(second)).abs().max().item<float>() < .5;
    EXPECT_EQ(set.labels[i].item<int64_t>(), equal ? 1 : 0) << i;
    same += equal ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(same), 100, 30);
}

TEST(Images, StandardisedOverTheWholeSet) {
  const ImageSet set{at::arange(40).to(at::kFloat).view({10, 1, 2, 2}), at::arange(10)};
  const auto all = standardised(set, 0, at::kDouble), some = standardised(set, 3, at::kFloat);
  EXPECT_EQ(all.inputs.sizes(), (at::IntArrayRef{10, 4}));
  EXPECT_NEAR(all.inputs.mean().item<double>(), 0, 1e-12);
  EXPECT_NEAR(all.inputs.std().item<double>(), 1, 1e-12);
  EXPECT_TRUE(at::allclose(some.inputs, all.inputs.narrow(0, 0, 3).to(at::kFloat)));
  EXPECT_TRUE(some.targets.equal(at::arange(3)));
}

TEST(Images, ShiftedImagesMoveByAtMostSoManyPixels) {
  auto image = at::zeros({1, 5, 6});
  image[0][2][3] = 7;  // one bright pixel tells how far an image moved
  const ImageSet set{image.expand({200, 1, 5, 6}), at::arange(200)};
  const auto still = shifted(shuffled(set, 200, 1), 0, 3)(0), moved = shifted(shuffled(set, 200, 1), 1, 3)(0);
  EXPECT_TRUE(at::equal(still.images, set.images));
  EXPECT_TRUE(at::equal(still.labels, moved.labels));
  EXPECT_TRUE(at::equal(moved.images, shifted(shuffled(set, 200, 1), 1, 3)(0).images));
  EXPECT_TRUE(at::equal(moved.images.sum(at::IntArrayRef({1, 2, 3})), at::full({200}, 7.f)));
  const auto counts = (moved.images > 0).sum(at::IntArrayRef({0, 1})).to(at::kDouble);
  EXPECT_EQ(counts.slice(0, 1, 4).slice(1, 2, 5).sum().item<double>(), 200);        // none farther than a pixel
  EXPECT_GE(counts.slice(0, 1, 4).slice(1, 2, 5).min().item<double>(), 200. / 20);  // and all nine places
  EXPECT_THROW(shifted(shuffled(set, 200, 1), -1, 3), Error);
}

TEST(Images, ShiftedImagesTakeBlackIn) {
  const ImageSet set{at::ones({50, 2, 3, 3}), at::arange(50)};
  const auto moved = shifted(shuffled(set, 50, 1), 2, 5)(0).images;
  for (const auto& image : moved.unbind()) {
    const int64_t kept = image[0].sum().item<int64_t>();
    EXPECT_TRUE(kept == 9 || kept == 6 || kept == 4 || kept == 3 || kept == 2 || kept == 1) << kept;
    EXPECT_TRUE(at::equal(image[0], image[1]));
  }
}

TEST(Images, AnEpochShowsEachImageOnce) {
  const ImageSet set{at::arange(12).to(at::kFloat).view({12, 1, 1, 1}), at::arange(12)};
  auto source = shuffled(set, 4, 1);
  std::vector<at::Tensor> epochs;
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<at::Tensor> seen;
    for (int64_t step = 0; step < 3; ++step) {
      const auto batch = source(3 * epoch + step);
      EXPECT_TRUE(at::equal(batch.images.flatten().to(at::kLong), batch.labels));
      seen.push_back(batch.labels);
    }
    epochs.push_back(at::cat(seen));
    EXPECT_TRUE(at::equal(std::get<0>(epochs.back().sort()), set.labels));
  }
  EXPECT_FALSE(at::equal(epochs[0], epochs[1]));
}

TEST(Images, DigitsAreSplitOnce) {
  if (!std::filesystem::exists("build/data/digits/images.npy")) GTEST_SKIP() << "tools/setup.sh images";
  const auto data = load_digits();
  EXPECT_EQ(data.train.images.sizes(), (std::vector<int64_t>{8000, 1, 28, 28}));
  EXPECT_EQ(data.test.labels.sizes(), (std::vector<int64_t>{2000}));
  const auto counts = at::bincount(at::cat({data.train.labels, data.test.labels}));
  EXPECT_TRUE(at::equal(counts, at::tensor({1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978}, at::kLong)));
  EXPECT_EQ(data.train.images.max().item<float>(), 1);
}

TEST(Memory, CountsWhatLivesAtOneTime) {
  const auto before = at::ones({1000});
  const auto bytes = peak_tensor_bytes([&] {
    { const auto x = before + 1; }
    const auto y = before + 1, z = y + 1;
  });
  EXPECT_GE(bytes, 8000);
  EXPECT_LT(bytes, 9000);
}

}  // namespace
}  // namespace unbend
