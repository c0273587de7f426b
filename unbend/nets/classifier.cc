#include "unbend/nets/classifier.h"

#include <fmt/format.h>
#include <torch/types.h>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"
#include "unbend/tensor/adamw.h"
#include "unbend/tensor/schedule.h"

namespace unbend {

PyramidConfig classifier_config(const ClassifierShape& shape) {
  require(shape.stages >= 1 && shape.stages <= 8 && shape.depth >= 1,
          "classifier: 1 to 8 stages of at least 1 block, not {} of {}", shape.stages, shape.depth);
  PyramidConfig config;
  config.channels = shape.channels, config.classes = shape.classes;
  config.stem_strides = {2, 1, 1}, config.grid = shape.side / 2, config.drop = 0;
  for (int64_t i = 0; i < shape.stages; ++i) {
    const int64_t times = int64_t{1} << i, ratio = int64_t{1} << (shape.stages - i);
    config.stages.push_back({shape.width * times, shape.heads * times, shape.depth, ratio, shape.value_filter});
  }
  config.mixing = shape.mixing, config.soft.normalize = shape.normalize, config.sampling = shape.sampling;
  return config;
}

Pyramid train_classifier(const PyramidConfig& config, const ImageSource& source, const ImageTraining& training,
                         uint64_t seed, bool quiet) {
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
  const Pass pass{.training = true, .generator = at::make_generator<at::CPUGeneratorImpl>(random.bits())};
  Progress progress(training.name, training.steps, "steps", quiet);
  for (int64_t step = 0; step < training.steps && !interrupted(); ++step) {
    const auto batch = source(step);
    const auto logits = net.logits(pixels(batch.images.to(device)), pass);
    const auto loss = at::cross_entropy_loss(logits, batch.labels.to(device));
    optimizer.zero_grad();
    loss.backward();
    optimizer.step(warmup_cosine(step, training.steps, .05, .05), 1);
    if (step % 10 == 9) progress.update(step + 1, fmt::format("loss {:.3f}", loss.item<double>()));
  }
  progress.finish();
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
