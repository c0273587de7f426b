#include "unbend/nets/pyramid.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

struct Preset {
  std::string_view name;
  int64_t third_width;
  std::array<int64_t, 4> depths;
};
constexpr Preset kPresets[] = {{"tiny", 320, {1, 2, 3, 2}},
                               {"small", 320, {1, 3, 7, 4}},
                               {"medium", 288, {1, 3, 29, 5}},
                               {"large", 320, {1, 3, 40, 5}},
                               {"huge", 352, {1, 5, 49, 5}}};

// Embeddings of a grid of side g for a grid of another shape; a class token's row stays.
at::Tensor resized(const at::Tensor& position, const Grid& grid, bool class_token) {
  const int64_t first = class_token ? 1 : 0, count = position.size(1) - first;
  const auto side = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(count))));
  if (grid.height == side && grid.width == side) return position;
  const auto image = position.slice(1, first).transpose(1, 2).unflatten(2, {side, side});
  const auto fitted = at::upsample_bilinear2d(image, {grid.height, grid.width}, false).flatten(2).transpose(1, 2);
  return class_token ? at::cat({position.narrow(1, 0, 1), fitted}, 1) : fitted;
}

at::Tensor as_map(const at::Tensor& tokens, const Grid& grid) {
  return tokens.transpose(1, 2).unflatten(2, {grid.height, grid.width});
}

void check_config(const PyramidConfig& config) {
  require(!config.stages.empty(), "pyramid: there must be a stage");
  require(!config.stem_strides.empty(), "pyramid: the stem needs a convolution");
  require(config.channels >= 1 && config.classes >= 1 && config.grid >= 1 && config.stem_width >= 1,
          "pyramid: channels, classes, grid and stem_width must be positive, not {}, {}, {}, {}", config.channels,
          config.classes, config.grid, config.stem_width);
  require(config.drop >= 0 && config.drop < 1, "pyramid: drop must lie in [0, 1), not {}", config.drop);
}

}  // namespace

PyramidConfig pyramid_config(std::string_view name, bool normalize) {
  for (const auto& preset : kPresets) {
    if (preset.name != name) continue;
    PyramidConfig config;
    config.soft.normalize = normalize;
    const auto stage = [&](size_t i, int64_t width, int64_t ratio, int64_t filter) {
      return StageConfig{width, width / 32, preset.depths[i], ratio, filter};
    };
    config.stages = {stage(0, 64, 8, 9), stage(1, 128, 4, 5), stage(2, preset.third_width, 2, 3)};
    config.class_stage = stage(3, 512, 0, 0);
    return config;
  }
  fail_input("pyramid: there is no configuration '{}': use tiny, small, medium, large or huge", name);
}

Pyramid random_pyramid(const PyramidConfig& config, Random& random) {
  check_config(config);
  auto stage_configs = config.stages;
  if (config.class_stage) stage_configs.push_back(*config.class_stage);
  int64_t depth = 0;
  for (const auto& stage : stage_configs) depth += stage.depth;
  Pyramid net{config, {}, {}, {}, {}};
  int64_t channels = config.channels, side = config.grid, block = 0;
  for (size_t i = 0; i < stage_configs.size(); ++i) {
    const auto& shape = stage_configs[i];
    const bool with_class = config.class_stage && i + 1 == stage_configs.size();
    PyramidStage stage;
    const auto strides = i == 0 ? config.stem_strides : std::vector<int64_t>{2};
    for (size_t j = 0; j < strides.size(); ++j) {
      const int64_t out = j + 1 == strides.size() ? shape.width : config.stem_width;
      stage.entry.push_back(make_convolution_unit(channels, out, strides[j], random));
      channels = out;
    }
    if (i > 0) side = (side + 1) / 2;
    stage.position = normal_tensor({1, side * side + (with_class ? 1 : 0), shape.width}, .02, random);
    GridAttentionConfig attention{.width = shape.width, .heads = shape.heads};
    if (with_class) {
      attention.mixing = TokenMixing::Softmax, attention.value_filter = 0;
    } else {
      attention.mixing = config.mixing, attention.soft = config.soft, attention.sampling = config.sampling;
      attention.ratio = shape.ratio, attention.value_filter = shape.value_filter;
    }
    for (int64_t j = 0; j < shape.depth; ++j, ++block) {
      attention.seed = random.bits();
      const double drop = depth > 1 ? config.drop * static_cast<double>(block) / static_cast<double>(depth - 1) : 0;
      stage.blocks.push_back(
          make_grid_block(attention, with_class ? GridBlock::Norm::Before : GridBlock::Norm::After, drop, random));
    }
    net.stages.push_back(std::move(stage));
  }
  if (config.class_stage) net.class_token = normal_tensor({1, 1, channels}, .02, random);
  net.norm = make_layer_norm(channels, 1e-6);
  net.head = make_linear(channels, config.classes, random);
  return net;
}

int64_t Pyramid::side_multiple() const {
  int64_t stride = 1, multiple = 1;
  for (const int64_t s : config.stem_strides) stride *= s;
  for (size_t i = 0; i < stages.size(); ++i) {
    if (i > 0) stride *= 2;
    const bool landmarks = i < config.stages.size() && config.mixing == TokenMixing::Soft;
    multiple = std::lcm(multiple, stride * (landmarks ? config.stages[i].ratio : 1));
  }
  return multiple;
}

// The last stage's tokens, with the class token in front if there is one; the maps on the way if they are wanted.
at::Tensor Pyramid::run(const at::Tensor& images, const Pass& pass, std::vector<at::Tensor>* maps) const {
  check_shape(images, {-1, config.channels, -1, -1}, "pyramid: images");
  check_same_type(images, "pyramid: images", head.weight, "the weights");
  const int64_t multiple = side_multiple();
  require(
      images.size(2) >= 1 && images.size(2) % multiple == 0 && images.size(3) >= 1 && images.size(3) % multiple == 0,
      "pyramid: images of {} x {} do not fit: both sides must be multiples of {}", images.size(2), images.size(3),
      multiple);
  auto map = images;
  at::Tensor tokens;
  for (size_t i = 0; i < stages.size(); ++i) {
    const auto& stage = stages[i];
    const bool with_class = class_token.defined() && i + 1 == stages.size();
    for (const auto& unit : stage.entry) map = unit(map, pass);
    const Grid grid{map.size(2), map.size(3)};
    tokens = map.flatten(2).transpose(1, 2);
    if (with_class) tokens = at::cat({class_token.expand({tokens.size(0), -1, -1}), tokens}, 1);
    tokens = tokens + resized(stage.position, grid, with_class);
    const Grid seen = with_class ? Grid{1, grid.tokens() + 1} : grid;
    for (const auto& block : stage.blocks) tokens = block(tokens, seen, pass);
    if (i + 1 < stages.size() || maps != nullptr) map = as_map(with_class ? tokens.slice(1, 1) : tokens, grid);
    if (maps != nullptr) maps->push_back(map);
  }
  return tokens;
}

std::vector<at::Tensor> Pyramid::features(const at::Tensor& images, const Pass& pass) const {
  std::vector<at::Tensor> maps;
  run(images, pass, &maps);
  return maps;
}

at::Tensor Pyramid::logits(const at::Tensor& images, const Pass& pass) const {
  const auto tokens =
      norm(class_token.defined() ? run(images, pass, nullptr).select(1, 0) : run(images, pass, nullptr));
  return head(class_token.defined() ? tokens : tokens.mean(1));
}

Pyramid Pyramid::fork() const { return to(head.weight.device(), head.weight.scalar_type()); }

Pyramid Pyramid::to(at::Device device, at::ScalarType type) const {
  Pyramid copy = *this;
  for (auto& list : {parameters(copy), statistics(copy)}) {
    for (const auto& p : list)
      *p.tensor = p.tensor->detach().to(device, type, false, true).requires_grad_(p.tensor->requires_grad());
  }
  return copy;
}

std::vector<Parameter> parameters(Pyramid& net) {
  std::vector<Parameter> all;
  for (size_t i = 0; i < net.stages.size(); ++i) {
    auto& stage = net.stages[i];
    const auto prefix = fmt::format("stages.{}.", i);
    for (size_t j = 0; j < stage.entry.size(); ++j) collect(fmt::format("{}entry.{}.", prefix, j), stage.entry[j], all);
    all.push_back({prefix + "position", &stage.position});
    for (size_t j = 0; j < stage.blocks.size(); ++j)
      collect(fmt::format("{}blocks.{}.", prefix, j), stage.blocks[j], all);
  }
  if (net.class_token.defined()) all.push_back({"class_token", &net.class_token});
  collect("norm.", net.norm, all);
  collect("head.", net.head, all);
  return all;
}

std::vector<Parameter> statistics(Pyramid& net) {
  std::vector<Parameter> all;
  for (size_t i = 0; i < net.stages.size(); ++i) {
    for (size_t j = 0; j < net.stages[i].entry.size(); ++j) {
      const auto prefix = fmt::format("stages.{}.entry.{}.", i, j);
      all.push_back({prefix + "running_mean", &net.stages[i].entry[j].running_mean});
      all.push_back({prefix + "running_variance", &net.stages[i].entry[j].running_variance});
    }
  }
  return all;
}

}  // namespace unbend
