#include "unbend/lm/export.h"

#include <torch/types.h>

#include <algorithm>
#include <typeinfo>

#include "unbend/base/error.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/model.h"
#include "unbend/lm/delta.h"
#include "unbend/lm/softmax_mixer.h"
#include "unbend/lm/supra.h"

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

/// A mixer's parameter with the channels of q and k in the order of Llama files, which keep them in pairs.
at::Tensor in_pairs(const std::string& name, const at::Tensor& values, const Student& student) {
  const auto ends = [&](const char* what) { return name.ends_with(what); };
  const auto rows = [&](const at::Tensor& x) {
    return pairs_from_halves(x, x.size(0) / student.decoder.config.head_dim);
  };
  if (ends("_map") || ends("query_taps") || ends("key_taps")) return rows(values.flatten(0, 1)).view(values.sizes());
  if (ends("query_kernel") || ends("key_kernel")) return rows(rows(values).t()).t();
  const bool decays_keys = student.options.value("gate_axis", std::string()) == "key";  // ReGLA
  if (ends("query_bias") || ends("key_bias") || (decays_keys && (ends("gate_weight") || ends("gate_bias"))))
    return rows(values);
  return values;
}

/// Mixer parameters by name in the file.
std::map<std::string, at::Tensor> mixer_tensors(const Student& student) {
  std::map<std::string, at::Tensor> tensors;
  auto decoder = student.decoder;
  for (const auto& p : adapter(decoder)) {
    if (p.name.find(".mixer.") == std::string::npos) continue;  // layers.N.mixer.NAME
    auto values = p.tensor->detach().to(at::kFloat).contiguous();
    if (decoder.config.architecture == "llama") values = in_pairs(p.name, values, student);
    tensors["blk." + p.name.substr(std::string("layers.").size())] = values.contiguous();
  }
  return tensors;
}

/// Type of a mixer's tensor in a layer whose attention matrices have type `attention`. Every token reads all of a large
/// matrix, so it has 8 bits where those have no more; what is small, or read by the engine as numbers, is F32.
int mixer_type(const std::string& name, const at::Tensor& values, int attention) {
  constexpr std::int64_t kRows = 64, kBlock = 32;
  const auto multiplied = {"_kernel", "gate_weight", "gate_down", "gate_up"};
  const int f32 = engine::type_number("F32"), f16 = engine::type_number("F16"), eight = engine::type_number("Q8_0");
  if (std::ranges::none_of(multiplied, [&](const char* end) { return name.ends_with(end); })) return f32;
  if (values.dim() != 2 || values.size(0) < kRows || values.size(1) % kBlock != 0) return f32;
  if (engine::bits_per_weight(attention) <= engine::bits_per_weight(eight)) return eight;
  return attention == f16 ? f16 : f32;
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
  auto options = student.options;
  if (student.recipe == "supra" && options.at("slopes").empty())  // the engine has no rule for them
    options["slopes"] = decay_slopes(options.at("decay").get<std::string>(), student.decoder.config.heads,
                                     options.at("decay_start").get<double>());
  std::vector<std::string> kinds;
  for (const bool kept : softmax_layers(student.options, student.decoder.config.layers))
    kinds.push_back(kept ? "softmax" : student.recipe);
  changes.entries.insert(changes.entries.end(), {{"unbend.base_sha256", base.content_hash()},
                                                 {"unbend.recipe", student.recipe},
                                                 {"unbend.mixers", kinds},
                                                 {"unbend.options", options.dump()}});
  for (const auto& mixer : mixers) {
    const auto& name = mixer.first;
    const auto& values = mixer.second;
    const auto block = name.substr(0, name.find("mixer."));
    const int attention = type == "base" ? base.tensor(block + "attn_q.weight").type : engine::type_number(type);
    const int stored = mixer_type(name, values, attention);
    changes.tensors.push_back({name, stored, values.sizes().vec(), [&mixers, name, stored](std::span<std::byte> bytes) {
                                 engine::encode_rows(name, stored, values_of(mixers, name), mixers.at(name).size(-1),
                                                     bytes);
                               }});
  }
  // Programs that do not know mixers refuse a file with a tensor that they do not know, instead of running softmax.
  changes.tensors.push_back({"unbend.guard", engine::type_number("F32"), {1}, [](std::span<std::byte> bytes) {
                               std::ranges::fill(bytes, std::byte{0});
                             }});
  engine::check_mixers(base.path().string(), student.decoder.config, kinds, options);
  engine::rewrite(base, out, changes);
}

void export_decoder(const Decoder& decoder, const std::vector<std::string>& entries, const std::filesystem::path& out) {
  auto copy = decoder;  // adapter() gives references
  const auto& c = decoder.config;
  require(c.architecture == "llama" && !c.qkv_bias && c.rope.kind == engine::RopeScaling::Kind::None &&
              c.rope.frequency_factors.empty(),
          "{}: only Llama models without biases and rotary scaling can be written", out.string());
  require(adapter(copy).empty(), "{}: the decoder has an adapter: export it as a student", out.string());
  auto all = entries;
  const auto entry = [&](const std::string& key, const engine::MetaValue& value) {
    all.push_back(engine::encode_entry(key, value));
  };
  const auto size = [&](const char* key, std::int64_t value) {
    entry(std::string("llama.") + key, static_cast<std::uint64_t>(value));
  };
  entry("general.architecture", "llama");
  entry("general.file_type", file_type("F32"));
  size("block_count", c.layers), size("embedding_length", c.hidden), size("feed_forward_length", c.ffn);
  size("attention.head_count", c.heads), size("attention.head_count_kv", c.kv_heads);
  size("attention.key_length", c.head_dim), size("attention.value_length", c.head_dim);
  size("rope.dimension_count", c.head_dim), size("context_length", c.context), size("vocab_size", c.vocab);
  // libllama wants reals of 32 bits.
  const auto real = [&](const char* key, double value) {
    entry(std::string("llama.") + key, static_cast<double>(static_cast<float>(value)));
  };
  real("attention.layer_norm_rms_epsilon", c.rms_eps), real("rope.freq_base", c.rope_base);
  if (c.attention_scale != 0) real("attention.scale", c.attention_scale);

  const auto softmax = softmax_mixer();
  std::vector<engine::TensorSource> tensors;
  const auto tensor = [&](const std::string& name, const at::Tensor& values) {
    const auto stored = values.detach().to(at::kCPU, at::kFloat).contiguous();
    tensors.push_back({name, engine::type_number("F32"), stored.sizes().vec(), [stored](std::span<std::byte> bytes) {
                         std::copy_n(reinterpret_cast<const std::byte*>(stored.const_data_ptr<float>()), bytes.size(),
                                     bytes.begin());
                       }});
  };
  tensor("token_embd.weight", decoder.embedding);
  tensor("output_norm.weight", decoder.output_norm);
  if (!c.tied) tensor("output.weight", decoder.head);
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const auto& layer = decoder.layers[i];
    require(typeid(*layer.mixer) == typeid(*softmax), "{}: layer {} is not softmax: export it as a student",
            out.string(), i);
    const auto name = [&](const char* what) { return fmt::format("blk.{}.{}.weight", i, what); };
    tensor(name("attn_norm"), layer.attention_norm);
    tensor(name("ffn_norm"), layer.ffn_norm);
    const auto qkv =
        layer.qkv.weight.split_with_sizes({c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim});
    tensor(name("attn_q"), pairs_from_halves(qkv[0], c.heads));
    tensor(name("attn_k"), pairs_from_halves(qkv[1], c.kv_heads));
    tensor(name("attn_v"), qkv[2]);
    tensor(name("attn_output"), layer.output.weight);
    const auto gate_up = layer.gate_up.weight.split(c.ffn);
    tensor(name("ffn_gate"), gate_up[0]);
    tensor(name("ffn_up"), gate_up[1]);
    tensor(name("ffn_down"), layer.down.weight);
  }
  engine::write_gguf(out, all, tensors);
}

}  // namespace unbend::lm
