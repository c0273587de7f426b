#include "unbend/nets/pyramid_file.h"

#include <torch/types.h>

#include <algorithm>
#include <array>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/safetensors.h"

namespace unbend {
namespace {

constexpr const char* kKey = "unbend.pyramid";
constexpr int64_t kVersion = 1, kLargest = 1 << 16;

// Names in files, in the order of the enumerations.
constexpr std::array kMixings{"soft", "softmax", "linear", "none"};
constexpr std::array kSamplings{"convolution", "mean", "random"};
constexpr std::array kStarts{"safe", "before_ridge", "backtracking"};
constexpr std::array kSolvers{"newton", "cholesky"};

template <class Enum, size_t kCount>
Enum read_name(const Json& json, const char* key, const std::string& where,
               const std::array<const char*, kCount>& names) {
  const auto name = json_get<std::string>(json, key, where);
  const auto found = std::ranges::find(names, name);
  require(found != names.end(), "{}: \"{}\" must be one of {}, not '{}'", where, key, fmt::join(names, ", "), name);
  return static_cast<Enum>(found - names.begin());
}

template <class Enum, size_t kCount>
const char* name_of(Enum value, const std::array<const char*, kCount>& names) {
  return names[static_cast<size_t>(value)];
}

int64_t read_size(const Json& json, const char* key, const std::string& where) {
  const auto size = json_get<int64_t>(json, key, where);
  require(size >= 0 && size <= kLargest, "{}: \"{}\" is {}, not from 0 to {}", where, key, size, kLargest);
  return size;
}

Json stage_json(const StageConfig& s) {
  return {
      {"width", s.width}, {"heads", s.heads}, {"depth", s.depth}, {"ratio", s.ratio}, {"value_filter", s.value_filter}};
}

StageConfig read_stage(const Json& json, const std::string& where) {
  return {read_size(json, "width", where), read_size(json, "heads", where), read_size(json, "depth", where),
          read_size(json, "ratio", where), read_size(json, "value_filter", where)};
}

/// A lower bound of the numbers that such a network has, so that a file of a few bytes cannot ask for all memory.
double least_values(const PyramidConfig& c) {
  auto stages = c.stages;
  if (c.class_stage) stages.push_back(*c.class_stage);
  double values = 0, inputs = static_cast<double>(c.channels), side = static_cast<double>(c.grid);
  for (size_t i = 0; i + 1 < c.stem_strides.size(); ++i) {
    values += 9 * inputs * static_cast<double>(c.stem_width);
    inputs = static_cast<double>(c.stem_width);
  }
  for (const auto& s : stages) {
    const auto width = static_cast<double>(s.width), d = width / std::max(1., static_cast<double>(s.heads));
    values += 9 * inputs * width + side * side * width + static_cast<double>(s.depth) * 8 * width * width;
    if (c.mixing == TokenMixing::Soft && c.sampling == LandmarkSampling::Convolution)
      values += static_cast<double>(s.depth) * d * d * static_cast<double>(s.ratio) * static_cast<double>(s.ratio);
    values += static_cast<double>(s.depth * s.value_filter) * static_cast<double>(s.value_filter);
    inputs = width, side = side / 2;
  }
  return values + inputs * static_cast<double>(c.classes);
}

std::vector<Parameter> stored(Pyramid& net) {
  auto all = parameters(net);
  const auto more = statistics(net);
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

Json to_json(const PyramidConfig& c) {
  Json stages = Json::array();
  for (const auto& stage : c.stages) stages.push_back(stage_json(stage));
  const auto& inverse = c.soft.inverse;
  return {{"channels", c.channels},
          {"classes", c.classes},
          {"stem_strides", c.stem_strides},
          {"stem_width", c.stem_width},
          {"grid", c.grid},
          {"stages", stages},
          {"class_stage", c.class_stage ? stage_json(*c.class_stage) : Json(nullptr)},
          {"mixing", name_of(c.mixing, kMixings)},
          {"sampling", name_of(c.sampling, kSamplings)},
          {"normalize", c.soft.normalize},
          {"ridge", inverse.ridge},
          {"solver", name_of(inverse.solver, kSolvers)},
          {"start", name_of(inverse.start, kStarts)},
          {"iterations", inverse.iterations},
          {"tolerance", inverse.tolerance},
          {"drop", c.drop}};
}

PyramidConfig pyramid_config(const Json& json, const std::string& where) {
  require(json.is_object(), "{}: the configuration is no object", where);
  PyramidConfig c;
  c.channels = read_size(json, "channels", where), c.classes = read_size(json, "classes", where);
  c.stem_strides = json_get<std::vector<int64_t>>(json, "stem_strides", where);
  require(c.stem_strides.size() <= 8 &&
              std::ranges::all_of(c.stem_strides, [](int64_t stride) { return stride >= 1 && stride <= 16; }),
          "{}: \"stem_strides\" must be up to 8 numbers from 1 to 16", where);
  c.stem_width = read_size(json, "stem_width", where), c.grid = read_size(json, "grid", where);
  const auto stages = json_get<Json>(json, "stages", where), last = json_get<Json>(json, "class_stage", where);
  require(stages.is_array() && stages.size() <= 16, "{}: \"stages\" must be an array of up to 16", where);
  for (const auto& stage : stages) c.stages.push_back(read_stage(stage, where));
  if (!last.is_null()) c.class_stage = read_stage(last, where);
  c.mixing = read_name<TokenMixing>(json, "mixing", where, kMixings);
  c.sampling = read_name<LandmarkSampling>(json, "sampling", where, kSamplings);
  c.soft.normalize = json_get<bool>(json, "normalize", where);
  c.soft.inverse.ridge = json_get<double>(json, "ridge", where);
  c.soft.inverse.solver = read_name<InverseSolver>(json, "solver", where, kSolvers);
  c.soft.inverse.start = read_name<NewtonStart>(json, "start", where, kStarts);
  c.soft.inverse.iterations = read_size(json, "iterations", where);
  c.soft.inverse.tolerance = json_get<double>(json, "tolerance", where);
  c.drop = json_get<double>(json, "drop", where);
  return c;
}

void save_pyramid(const std::filesystem::path& path, const Pyramid& net, const Json& about) {
  auto copy = net;
  std::map<std::string, at::Tensor> tensors;
  for (const auto& p : stored(copy)) {
    check_finite(*p.tensor, p.name);
    tensors[p.name] = p.tensor->detach();
  }
  Json seeds = Json::array();  // of random landmarks
  for (const auto& stage : net.stages)
    for (const auto& block : stage.blocks) seeds.push_back(block.attention.config.seed);
  const Json json{{"version", kVersion}, {"config", to_json(net.config)}, {"seeds", seeds}, {"about", about}};
  save_safetensors(path, tensors, {{kKey, json.dump()}});
}

StoredPyramid load_pyramid(const std::filesystem::path& path) {
  const auto where = path.string();
  const auto file = load_safetensors(path);
  const auto found = file.metadata.find(kKey);
  require(found != file.metadata.end(), "{}: not a pyramid of this program (no '{}' in its metadata)", where, kKey);
  const auto json = parse_json(found->second, where);
  const auto version = json_get<int64_t>(json, "version", where);
  require(version == kVersion, "{}: version {} is not known (this program reads {})", where, version, kVersion);
  const auto config = pyramid_config(json_get<Json>(json, "config", where), where);
  double values = 0;
  for (const auto& [name, tensor] : file.tensors) values += static_cast<double>(tensor.numel());
  require(least_values(config) <= values, "{}: {:.0f} numbers are too few for its configuration", where, values);
  Random random(0);  // what it draws is overwritten
  StoredPyramid result{random_pyramid(config, random), json_get<Json>(json, "about", where)};
  assign(stored(result.net), file.tensors, where);
  const auto seeds = json_get<std::vector<uint64_t>>(json, "seeds", where);
  size_t next = 0;
  for (auto& stage : result.net.stages)
    for (auto& block : stage.blocks) {
      require(next < seeds.size(), "{}: \"seeds\" must have one for each block, not {}", where, seeds.size());
      block.attention.config.seed = seeds[next++];
    }
  return result;
}

}  // namespace unbend
