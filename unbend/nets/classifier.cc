#include "unbend/nets/classifier.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <deque>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"
#include "unbend/tensor/adamw.h"
#include "unbend/tensor/schedule.h"

namespace unbend {
namespace {

// Landmarks along a side: as in the published networks, and what is still near enough to cost and to do the same.
constexpr int64_t kLandmarkSide = 7, kFewest = 4, kMost = 14;

// Tokens per landmark along the side of a grid; 0 if no ratio leaves a sensible number of landmarks.
int64_t landmark_ratio(int64_t grid, int64_t least) {
  for (int64_t side = kLandmarkSide; side <= kMost; ++side)
    if (grid % side == 0 && grid / side >= least) return grid / side;
  for (int64_t side = kLandmarkSide - 1; side >= 1; --side) {
    const bool enough = side >= kFewest || grid / side == least;  // or all that such a small grid can give
    if (grid % side == 0 && grid / side >= least && enough) return grid / side;
  }
  return 0;
}

// Of the stages of images of a side that all stages can halve; none if there is a stage without one.
std::optional<std::vector<int64_t>> landmark_ratios(const ClassifierShape& shape, int64_t side) {
  const int64_t least = shape.sampling == LandmarkSampling::Convolution ? 2 : 1;
  std::vector<int64_t> ratios;
  for (int64_t i = 0; i < shape.stages; ++i) {
    ratios.push_back(landmark_ratio(side >> (i + 1), least));
    if (ratios.back() == 0) return std::nullopt;
  }
  return ratios;
}

// "60 or 64": the nearest sides with ratios, for the message that refuses one without.
std::string nearest_sides(const ClassifierShape& shape, int64_t multiple) {
  int64_t below = shape.side - multiple, above = shape.side + multiple;
  while (below > 0 && !landmark_ratios(shape, below)) below -= multiple;
  while (!landmark_ratios(shape, above)) above += multiple;  // ends: grids that 8 divides often enough have ratios
  return below > 0 ? fmt::format("{} or {}", below, above) : std::to_string(above);
}

}  // namespace

PyramidConfig classifier_config(const ClassifierShape& shape) {
  require(shape.stages >= 1 && shape.stages <= 8 && shape.depth >= 1,
          "classifier: 1 to 8 stages of at least 1 block, not {} of {}", shape.stages, shape.depth);
  const int64_t multiple = int64_t{1} << shape.stages;
  require(shape.side >= multiple && shape.side % multiple == 0,
          "classifier: images of side {} cannot be halved {} times: take a multiple of {}", shape.side, shape.stages,
          multiple);
  PyramidConfig config;
  config.channels = shape.channels, config.classes = shape.classes;
  config.stem_strides = {2, 1, 1}, config.grid = shape.side / 2, config.drop = 0;
  const bool soft = shape.mixing == TokenMixing::Soft;
  const auto ratios =
      soft ? landmark_ratios(shape, shape.side) : std::vector<int64_t>(static_cast<size_t>(shape.stages), 2);
  if (!ratios)
    fail_input(
        "classifier: images of side {} give a grid of tokens that cannot be cut into {} to {} cells a side, one for a "
        "landmark: take {}",
        shape.side, kFewest, kMost, nearest_sides(shape, multiple));
  for (int64_t i = 0; i < shape.stages; ++i) {
    const int64_t times = int64_t{1} << i;
    config.stages.push_back(
        {shape.width * times, shape.heads * times, shape.depth, (*ratios)[static_cast<size_t>(i)], shape.value_filter});
  }
  config.mixing = shape.mixing, config.soft.normalize = shape.normalize, config.sampling = shape.sampling;
  config.soft.inverse.solver = shape.solver;
  return config;
}

Pyramid train_classifier(const PyramidConfig& config, const ImageSource& source, const ImageTraining& training,
                         uint64_t seed, bool quiet, std::optional<double>* residual) {
  Random random(seed);
  const auto device = training.device;
  auto net = random_pyramid(config, random).to(device, at::kFloat);
  ParameterGroup decayed, rest;
  decayed.lr = rest.lr = training.learning_rate;
  decayed.weight_decay = .05, rest.weight_decay = 0;
  for (const auto& p : parameters(net)) {
    const bool matrix = p.tensor->dim() >= 2 && p.name != "class_token" && !p.name.ends_with("position");
    (matrix ? decayed : rest).parameters.push_back(p.tensor->requires_grad_());
  }
  AdamW optimizer({decayed, rest});
  Pass pass{.training = true, .generator = at::make_generator<at::CPUGeneratorImpl>(random.bits())};
  std::vector<at::Tensor> residuals;
  std::deque<double> largest;  // of the last hundred steps
  Progress progress(training.name, training.steps, "steps", quiet);
  for (int64_t step = 0; step < training.steps && !interrupted(); ++step) {
    const bool look = step % 10 == 9 || step + 1 == training.steps;  // at numbers, for which other devices must wait
    const auto batch = source(step);
    residuals.clear();
    pass.residuals = residual != nullptr && look ? &residuals : nullptr;
    const auto logits = net.logits(pixels(batch.images.to(device)), pass);
    const auto loss = at::cross_entropy_loss(logits, batch.labels.to(device));
    optimizer.zero_grad();
    loss.backward();
    optimizer.step(warmup_cosine(step, training.steps, .05, .05), 1);
    if (look) progress.update(step + 1, fmt::format("loss {:.3f}", loss.item<double>()));
    if (residuals.empty()) continue;
    for (auto& r : residuals) r = r.max();
    largest.push_back(at::stack(residuals).max().item<double>());
    if (largest.size() > 10) largest.pop_front();
  }
  progress.finish();
  if (!largest.empty()) *residual = *std::ranges::max_element(largest);
  if (optimizer.skipped() > 0)
    fail_computation("{}: gradients of {} steps were not finite", training.name, optimizer.skipped());
  return net;
}

at::Tensor predicted(const Pyramid& net, const at::Tensor& images, bool enlarged) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> all;
  for (const auto& part : images.split(100)) {
    auto batch = pixels(part.to(net.head.weight.device()));
    if (enlarged) batch = at::upsample_bilinear2d(batch, {2 * batch.size(2), 2 * batch.size(3)}, false);
    all.push_back(net.logits(batch).argmax(1).to(images.device()));
  }
  return at::cat(all);
}

double accuracy(const Pyramid& net, const ImageSet& set, bool enlarged) {
  const auto right = (predicted(net, set.images, enlarged) == set.labels).sum().item<int64_t>();
  return 100. * static_cast<double>(right) / static_cast<double>(set.size());
}

}  // namespace unbend
