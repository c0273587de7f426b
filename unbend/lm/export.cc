#include "unbend/lm/export.h"

#include <torch/types.h>

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/model.h"
#include "unbend/lm/delta.h"

namespace unbend::lm {
namespace {

/// llama.cpp's number for files whose matrices are mostly of a type (general.file_type), where it has one.
std::uint64_t file_type(const std::string& type) {
  const std::pair<const char*, std::uint64_t> known[]{
      {"F32", 0},   {"F16", 1},   {"Q4_0", 2},  {"Q4_1", 3},  {"Q8_0", 7},  {"Q5_0", 8}, {"Q5_1", 9},
      {"Q2_K", 10}, {"Q3_K", 12}, {"Q4_K", 15}, {"Q5_K", 17}, {"Q6_K", 18}, {"BF16", 32}};
  for (const auto& [name, number] : known)
    if (type == name) return number;
  return 1024;  // "guessed"
}

/// Mixer parameters by name in the file. Maps take channels in the file's order: Llama files keep those of q and k in
/// pairs.
std::map<std::string, at::Tensor> mixer_tensors(const Student& student) {
  std::map<std::string, at::Tensor> tensors;
  auto decoder = student.decoder;
  for (const auto& p : adapter(decoder)) {
    if (p.name.find(".mixer.") == std::string::npos) continue;  // layers.N.mixer.NAME
    auto values = p.tensor->detach().to(at::kFloat).contiguous();
    if (decoder.config.architecture == "llama" && p.name.ends_with("_map"))
      values = pairs_from_halves(values.flatten(0, 1), values.size(0)).view(values.sizes());
    tensors["blk." + p.name.substr(std::string("layers.").size())] = values.contiguous();
  }
  return tensors;
}

}  // namespace

void export_student(const engine::Gguf& base, const Student& student, const std::filesystem::path& out,
                    const std::string& type) {
  const auto merged = merged_tensors(student);
  const auto mixers = mixer_tensors(student);
  engine::Rewrite changes;
  changes.values = [&](const engine::TensorInfo& tensor) { return values_of(merged, tensor.name); };
  const int eight = engine::type_number("Q8_0");
  const auto at_least_eight = [=](int wanted) {
    return engine::bits_per_weight(wanted) < engine::bits_per_weight(eight) ? eight : wanted;
  };
  if (type == "base") {
    changes.type = [&, at_least_eight](const engine::TensorInfo& tensor) {
      return merged.contains(tensor.name) ? at_least_eight(tensor.type) : tensor.type;
    };
  } else {
    const int wanted = engine::type_number(type);
    changes.type = [=](const engine::TensorInfo& tensor) {
      if (tensor.shape.size() < 2) return tensor.type;
      const bool outer = tensor.name == "token_embd.weight" || tensor.name == "output.weight";
      return outer ? at_least_eight(wanted) : wanted;
    };
    changes.entries.emplace_back("general.file_type", file_type(engine::type_name(wanted)));
  }
  const auto keep_every = student.options.value("keep_every", std::int64_t{0});
  std::vector<std::string> kinds;
  for (std::int64_t i = 0; i < student.decoder.config.layers; ++i)
    kinds.push_back(keep_every > 0 && (i + 1) % keep_every == 0 ? "softmax" : student.recipe);
  changes.entries.insert(changes.entries.end(), {{"unbend.base_sha256", base.content_hash()},
                                                 {"unbend.recipe", student.recipe},
                                                 {"unbend.mixers", kinds},
                                                 {"unbend.options", student.options.dump()}});
  for (const auto& [name, values] : mixers) {
    const auto* data = reinterpret_cast<const std::byte*>(values.const_data_ptr<float>());
    changes.tensors.push_back({name, engine::type_number("F32"), values.sizes().vec(),
                               [=](std::span<std::byte> bytes) { std::copy_n(data, bytes.size(), bytes.begin()); }});
  }
  // Programs that do not know mixers refuse a file with a tensor that they do not know, instead of running softmax.
  changes.tensors.push_back({"unbend.guard", engine::type_number("F32"), {1}, [](std::span<std::byte> bytes) {
                               std::ranges::fill(bytes, std::byte{0});
                             }});
  engine::check_mixers(base.path().string(), student.decoder.config, kinds, student.options);
  engine::rewrite(base, out, changes);
}

}  // namespace unbend::lm
