#include "unbend/lm/delta.h"

#include <torch/types.h>

#include <algorithm>
#include <span>

#include "unbend/base/error.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/safetensors.h"

namespace unbend::lm {
namespace {

constexpr const char* kKey = "unbend.delta";
constexpr std::int64_t kVersion = 1;

DeltaInfo parse_info(const std::map<std::string, std::string>& metadata, const std::string& where) {
  const auto found = metadata.find(kKey);
  require(found != metadata.end(), "{}: not a delta of this program (no '{}' in its metadata)", where, kKey);
  const Json json = parse_json(found->second, where);
  const auto version = json_get<std::int64_t>(json, "version", where);
  require(version == kVersion, "{}: delta version {} is not known (this program reads {})", where, version, kVersion);
  return {json_get<std::string>(json, "recipe", where), json_get<Json>(json, "options", where),
          json_get<std::string>(json, "base_name", where), json_get<std::string>(json, "base_sha256", where),
          json.value("training", Json::object())};
}

}  // namespace

void save_delta(const std::filesystem::path& path, const Student& student, const DeltaInfo& info, bool half) {
  std::map<std::string, at::Tensor> tensors;
  auto decoder = student.decoder;
  for (const auto& parameter : adapter(decoder)) {
    check_finite(*parameter.tensor, parameter.name);
    tensors[parameter.name] = parameter.tensor->detach().to(half ? at::kHalf : at::kFloat);
  }
  const Json json{{"version", kVersion},         {"recipe", student.recipe},      {"options", student.options},
                  {"base_name", info.base_name}, {"base_sha256", info.base_hash}, {"training", info.training}};
  save_safetensors(path, tensors, {{kKey, json.dump()}});
}

DeltaInfo read_delta_info(const std::filesystem::path& path) {
  return parse_info(load_safetensors(path).metadata, path.string());
}

void assign(const std::vector<Parameter>& parameters, const std::map<std::string, at::Tensor>& tensors,
            const std::string& where) {
  for (const auto& [name, target] : parameters) {
    const auto found = tensors.find(name);
    require(found != tensors.end(), "{}: tensor {} is missing", where, name);
    const auto& source = found->second;
    require(source.sizes() == target->sizes(), "{}: tensor {} has shape {}, expected {}", where, name,
            shape_string(source.sizes()), shape_string(target->sizes()));
    require(at::isFloatingType(source.scalar_type()), "{}: tensor {} is not of a floating type", where, name);
    check_finite(source, where + ": tensor " + name);
    *target = source.to(target->options());
  }
  require(tensors.size() == parameters.size(), "{}: {} tensors where the recipe has {}", where, tensors.size(),
          parameters.size());
}

Student load_delta(const std::filesystem::path& path, const Decoder& teacher, const engine::Gguf& base) {
  const auto file = load_safetensors(path);
  const auto info = parse_info(file.metadata, path.string());
  require(info.base_hash == base.content_hash(), "{}: made for another base model ({}, SHA-256 {}...), not for {}",
          path.string(), info.base_name, info.base_hash.substr(0, 12), base.path().string());
  const auto& recipe = find_recipe(info.recipe);
  auto student = convert(teacher, recipe, recipe_options(recipe, info.options), 0);
  assign(adapter(student.decoder), file.tensors, path.string());
  return student;
}

Decoder merge_lora(const Decoder& student) {
  auto merged = student.fork();
  for (auto& layer : merged.layers)
    for (auto* projection : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      projection->weight = projection->merged_weight();
      for (auto& part : projection->parts) part.lora = {};
    }
  return merged;
}

std::map<std::string, at::Tensor> merged_tensors(const Student& student) {
  const auto merged = merge_lora(student.decoder);
  const auto& c = merged.config;
  std::map<std::string, at::Tensor> changed;
  for (std::size_t i = 0; i < merged.layers.size(); ++i) {
    const auto& before = student.decoder.layers[i];
    const auto& after = merged.layers[i];
    const auto part = [&](const Projection& had, const Projection& has, std::size_t index, const std::string& name,
                          std::int64_t heads) {
      if (!had.parts[index].lora.defined()) return;
      std::int64_t row = 0;
      for (std::size_t p = 0; p < index; ++p) row += has.parts[p].rows;
      auto rows = has.weight.narrow(0, row, has.parts[index].rows).to(at::kFloat).contiguous();
      if (heads > 0 && c.architecture == "llama") rows = pairs_from_halves(rows, heads);
      changed[fmt::format("blk.{}.{}.weight", i, name)] = rows;
    };
    part(before.qkv, after.qkv, 0, "attn_q", c.heads);
    part(before.qkv, after.qkv, 1, "attn_k", c.kv_heads);
    part(before.qkv, after.qkv, 2, "attn_v", 0);
    part(before.output, after.output, 0, "attn_output", 0);
    part(before.gate_up, after.gate_up, 0, "ffn_gate", 0);
    part(before.gate_up, after.gate_up, 1, "ffn_up", 0);
    part(before.down, after.down, 0, "ffn_down", 0);
  }
  return changed;
}

std::span<const float> values_of(const std::map<std::string, at::Tensor>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return {};
  return {found->second.const_data_ptr<float>(), static_cast<std::size_t>(found->second.numel())};
}

void write_merged(const engine::Gguf& base, const Student& student, const std::filesystem::path& out) {
  const auto changed = merged_tensors(student);
  engine::Rewrite changes;
  changes.type = [](const engine::TensorInfo&) { return engine::type_number("F32"); };
  changes.values = [&](const engine::TensorInfo& tensor) { return values_of(changed, tensor.name); };
  changes.entries = {{"general.file_type", std::uint64_t{0}}};
  engine::rewrite(base, out, changes);
}

}  // namespace unbend::lm
