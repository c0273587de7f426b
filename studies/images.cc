#include "studies/images.h"

#include <torch/types.h>

#include <filesystem>

#include "studies/kept.h"
#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/checkpoint.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

constexpr int64_t kSide = 28;

/// images [count, 1, side, side] and labels [count], as tools/setup.sh images leaves them.
ImageSet load_set(const char* name, int64_t count, int64_t side) {
  const auto folder = std::filesystem::path("build/data") / name;
  if (!std::filesystem::exists(folder / "images.npy"))
    fail_input("{} is missing: run tools/setup.sh images from the repository's root, and the study there",
               folder.string());
  const auto images = load_npy(folder / "images.npy"), labels = load_npy(folder / "labels.npy");
  check_shape(images, {count, side, side}, "the digits' images");
  check_shape(labels, {count}, "the digits' labels");
  check_indices(labels, 10, "the digits' labels");
  return {images.unsqueeze(1), labels};
}

}  // namespace

Digits load_digits() {
  const auto [images, labels] = load_set("digits", 10000, kSide);
  const ImageSet all{images.to(at::kFloat) / 255, labels};
  Random random(1);
  const auto [train, test] = split(all, 8000, random);
  return {train, test};
}

ImageSet load_small_digits() {
  const auto [images, labels] = load_set("digits8", 1797, 8);
  return {images.to(at::kFloat), labels};
}

Examples standardised(const ImageSet& set, int64_t count, at::ScalarType type) {
  const auto rows = set.images.flatten(1).to(at::kDouble);
  const auto scaled = (rows - rows.mean()) / rows.std();
  const int64_t used = count > 0 ? count : set.size();
  return {scaled.narrow(0, 0, used).to(type), set.labels.narrow(0, 0, used)};
}

ImageSet colour_pairs(int64_t count, Random& random) {
  constexpr float kColours[4][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 1, 1}};
  constexpr int64_t kApart = 12, kCells = kSide / 2;
  auto images = at::empty({count, 3, kSide, kSide}), labels = at::empty({count}, at::kLong);
  auto* pixels = images.mutable_data_ptr<float>();
  for (int64_t i = 0; i < images.numel(); ++i) pixels[i] = static_cast<float>(.3 * random.uniform());
  const auto mark = [&](int64_t image, int64_t row, int64_t column, uint64_t colour) {
    for (int64_t c = 0; c < 3; ++c) images[image][c].narrow(0, row, 2).narrow(1, column, 2).fill_(kColours[colour][c]);
  };
  const auto place = [&] { return 2 * static_cast<int64_t>(random.below(kCells)); };
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = place(), column = place();
    int64_t other_row = place(), other_column = place();
    while (std::max(std::abs(row - other_row), std::abs(column - other_column)) < kApart)
      other_row = place(), other_column = place();
    const bool same = random.below(2) == 1;
    const uint64_t first = random.below(4), second = same ? first : (first + 1 + random.below(3)) % 4;
    mark(i, row, column, first);
    mark(i, other_row, other_column, second);
    labels[i] = same ? 1 : 0;
  }
  return {images, labels};
}

Pyramid train_classifier(const PyramidConfig& config, const ImageSource& source, const ImageTraining& training,
                         uint64_t seed, const StudyOptions& study, std::optional<double>* residual) {
  if (!study.kept) return train_classifier(config, source, training, seed, study.quiet, residual);
  const auto folder = study.kept->next();
  const auto all = [](Pyramid& net) {
    auto named = parameters(net);
    for (const auto& p : statistics(net)) named.push_back(p);
    return named;
  };
  if (const auto file = latest_checkpoint(folder)) {
    Random random(seed);
    auto net = random_pyramid(config, random);
    const auto stored = load_checkpoint(*file);
    for (const auto& p : all(net)) *p.tensor = stored.tensors.at(p.name);
    const auto& found = stored.state.at("residual");
    if (residual != nullptr && found.is_number()) *residual = found.get<double>();
    return net;
  }
  std::optional<double> found;
  auto net = train_classifier(config, source, training, seed, study.quiet, &found);
  if (residual != nullptr) *residual = found;
  if (interrupted()) return net;
  Checkpoint checkpoint;
  checkpoint.state = {{"residual", found ? Json(*found) : Json(nullptr)}};
  for (const auto& p : all(net)) checkpoint.tensors[p.name] = p.tensor->detach();
  save_checkpoint(folder, training.steps, checkpoint);
  return net;
}

}  // namespace unbend
