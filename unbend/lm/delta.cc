#include "unbend/lm/delta.h"

#include <torch/types.h>

#include <set>
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

/// The student as its recipe and options make it. What is wrong with these is the file's mistake, not the caller's.
Student untrained(const DeltaInfo& info, const Decoder& teacher, const std::string& where) {
  try {
    const auto& recipe = find_recipe(info.recipe);
    return convert(teacher, recipe, recipe_options(recipe, info.options), 0);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::Computation) throw;
    fail_input("{}: {}", where, error.what());
  }
}

/// What a delta holds: the adapter, and the weights that the student has of its own.
std::vector<Parameter> stored(Student& student) {
  auto all = adapter(student.decoder);
  const std::set<std::string> own(student.own.begin(), student.own.end());
  for (const auto& weight : weights(student.decoder))
    if (own.contains(weight.name)) all.push_back(weight);
  return all;
}

}  // namespace

void save_delta(const std::filesystem::path& path, const Student& student, const DeltaInfo& info, bool half) {
  std::map<std::string, at::Tensor> tensors;
  auto copy = student;
  for (const auto& parameter : stored(copy)) {
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

Student load_delta(const std::filesystem::path& path, const Decoder& teacher, const engine::Gguf& base) {
  const auto file = load_safetensors(path);
  const auto info = parse_info(file.metadata, path.string());
  require(info.base_hash == base.content_hash(), "{}: made for another base model ({}, SHA-256 {}...), not for {}",
          path.string(), info.base_name, info.base_hash.substr(0, 12), base.path().string());
  auto student = untrained(info, teacher, path.string());
  // Its own weights are all in the file; the others are the teacher's, whatever the recipe began with.
  student.own.clear();
  auto original = teacher;
  const auto theirs = weights(original), mine = weights(student.decoder);
  for (std::size_t i = 0; i < mine.size(); ++i)
    if (file.tensors.contains(mine[i].name))
      student.own.push_back(mine[i].name);
    else
      *mine[i].tensor = *theirs[i].tensor;
  assign(stored(student), file.tensors, path.string());
  if (student.decoder.config.tied) student.decoder.head = student.decoder.embedding;
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
  const std::set<std::string> own(student.own.begin(), student.own.end());
  std::map<std::string, at::Tensor> changed;
  const auto whole = [&](const std::string& weight, const std::string& name, const at::Tensor& values) {
    if (own.contains(weight)) changed[name] = values.to(at::kFloat).contiguous();
  };
  whole("embedding", "token_embd.weight", merged.embedding);
  whole("head", "output.weight", merged.head);
  whole("output_norm", "output_norm.weight", merged.output_norm);
  for (std::size_t i = 0; i < merged.layers.size(); ++i) {
    const auto& before = student.decoder.layers[i];
    const auto& after = merged.layers[i];
    const std::string layer = fmt::format("layers.{}.", i), block = fmt::format("blk.{}.", i);
    whole(layer + "attention_norm", block + "attn_norm.weight", after.attention_norm);
    whole(layer + "ffn_norm", block + "ffn_norm.weight", after.ffn_norm);
    struct Target {
      const char* name;
      std::int64_t heads = 0;  // rotated: of so many heads
    };
    const auto parts = [&](const std::string& name, const Projection& had, const Projection& has,
                           const std::vector<Target>& targets) {
      std::int64_t row = 0;
      for (std::size_t p = 0; p < targets.size(); ++p) {
        const auto& target = targets[p];
        const std::int64_t count = has.parts[p].rows;
        const auto store = [&](const at::Tensor& values, const char* kind) {
          auto rows = values.narrow(0, row, count).to(at::kFloat).contiguous();
          if (target.heads > 0 && c.architecture == "llama") rows = pairs_from_halves(rows, target.heads);
          changed[block + target.name + kind] = rows;
        };
        if (had.parts[p].lora.defined() || own.contains(layer + name + ".weight")) store(has.weight, ".weight");
        if (own.contains(layer + name + ".bias")) store(has.bias, ".bias");
        row += count;
      }
    };
    parts("qkv", before.qkv, after.qkv, {{"attn_q", c.heads}, {"attn_k", c.kv_heads}, {"attn_v"}});
    parts("output", before.output, after.output, {{"attn_output"}});
    parts("gate_up", before.gate_up, after.gate_up, {{"ffn_gate"}, {"ffn_up"}});
    parts("down", before.down, after.down, {{"ffn_down"}});
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
