#include "studies/images.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <filesystem>
#include <numeric>
#include <optional>
#include <vector>

#include "studies/kept.h"
#include "unbend/base/error.h"
#include "unbend/base/progress.h"
#include "unbend/tensor/adamw.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/checkpoint.h"
#include "unbend/tensor/npy.h"
#include "unbend/tensor/schedule.h"

namespace unbend {
namespace {

constexpr int64_t kSide = 28;

at::Tensor permutation(int64_t count, Random& random) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return at::tensor(order, at::kLong);
}

ImageSet select(const ImageSet& set, const at::Tensor& indices) {
  return {set.images.index_select(0, indices), set.labels.index_select(0, indices)};
}

}  // namespace

Digits load_digits() {
  const std::filesystem::path folder = "build/data/digits";
  if (!std::filesystem::exists(folder / "images.npy"))
    fail_input("{} is missing: run tools/setup.sh images from the repository's root, and the study there",
               folder.string());
  const auto images = load_npy(folder / "images.npy"), labels = load_npy(folder / "labels.npy");
  check_shape(images, {10000, kSide, kSide}, "the digits' images");
  check_shape(labels, {10000}, "the digits' labels");
  check_indices(labels, 10, "the digits' labels");
  const ImageSet all{images.unsqueeze(1).to(at::kFloat) / 255, labels};
  Random random(1);
  const auto order = permutation(10000, random);
  return {select(all, order.narrow(0, 0, 8000)), select(all, order.narrow(0, 8000, 2000))};
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

ImageSource shuffled(const ImageSet& set, int64_t batch, uint64_t seed) {
  const int64_t count = set.labels.size(0), steps = count / batch;
  require(steps >= 1, "a batch of {} does not fit into {} images", batch, count);
  return [=, random = Random(seed), order = at::Tensor()](int64_t step) mutable {
    if (step % steps == 0) order = permutation(count, random);
    return select(set, order.narrow(0, step % steps * batch, batch));
  };
}

Pyramid train_classifier(const PyramidConfig& config, const ImageSource& source, const ImageTraining& training,
                         uint64_t seed, const StudyOptions& study) {
  Random random(seed);
  auto net = random_pyramid(config, random);
  ParameterGroup decayed, rest;
  decayed.lr = rest.lr = training.learning_rate;
  decayed.weight_decay = .05, rest.weight_decay = 0;
  for (const auto& p : parameters(net)) {
    const bool matrix = p.tensor->dim() >= 2 && p.name != "class_token" && !p.name.ends_with("position");
    (matrix ? decayed : rest).parameters.push_back(p.tensor->requires_grad_());
  }
  AdamW optimizer({decayed, rest});
  const Pass pass{.training = true, .generator = at::make_generator<at::CPUGeneratorImpl>(random.bits())};
  const auto kept = study.kept ? study.kept->next() : std::filesystem::path();
  auto all = parameters(net);
  for (const auto& p : statistics(net)) all.push_back(p);
  if (const auto file = kept.empty() ? std::nullopt : latest_checkpoint(kept)) {
    const auto stored = load_checkpoint(*file).tensors;
    for (const auto& p : all) *p.tensor = stored.at(p.name);
    return net;
  }
  Progress progress(training.name, training.steps, "steps", study.quiet);
  for (int64_t step = 0; step < training.steps; ++step) {
    const auto batch = source(step);
    const auto loss = at::cross_entropy_loss(net.logits(batch.images, pass), batch.labels);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step(warmup_cosine(step, training.steps, .05, .05), 1);
    if (step % 10 == 9) progress.update(step + 1, fmt::format("loss {:.3f}", loss.item<double>()));
  }
  progress.finish();
  if (optimizer.skipped() > 0)
    fail_computation("{}: gradients of {} steps were not finite", training.name, optimizer.skipped());
  if (!kept.empty()) {
    Checkpoint checkpoint;
    for (const auto& p : all) checkpoint.tensors[p.name] = p.tensor->detach();
    save_checkpoint(kept, training.steps, checkpoint);
  }
  return net;
}

double accuracy(const Pyramid& net, const ImageSet& set, bool enlarged) {
  const at::NoGradGuard no_grad;
  const int64_t count = set.labels.size(0);
  int64_t right = 0;
  for (int64_t first = 0; first < count; first += 100) {
    auto images = set.images.slice(0, first, first + 100);
    if (enlarged) images = at::upsample_bilinear2d(images, {2 * images.size(2), 2 * images.size(3)}, false);
    right += (net.logits(images).argmax(1) == set.labels.slice(0, first, first + 100)).sum().item<int64_t>();
  }
  return 100. * static_cast<double>(right) / static_cast<double>(count);
}

}  // namespace unbend
