#include "unbend/engine/model.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <span>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/json.h"

namespace unbend::engine {
namespace {

/// ggml ends the process where it has no product for a type.
bool has_products(int type) {
  return is_supported(type) && ggml_get_type_traits_cpu(static_cast<ggml_type>(type))->vec_dot != nullptr;
}

}  // namespace

std::shared_ptr<const Model> Model::open(const std::filesystem::path& path) {
  return std::shared_ptr<const Model>(new Model(Gguf::open(path)));
}

Model::Model(Gguf file) : file_(std::move(file)), config_(read_config(file_)) {
  const auto& c = config_;
  require(c.head_dim <= 1024, "{}: heads of width {} are not supported", file_.path().string(), c.head_dim);
  const std::size_t overhead = ggml_tensor_overhead() * (file_.tensors().size() + 2);
  context_.reset(ggml_init({overhead, nullptr, true}));
  embedding_ = tensor("token_embd.weight", {c.vocab, c.hidden});
  head_ = tensor(c.tied ? "token_embd.weight" : "output.weight", {c.vocab, c.hidden}, true);
  output_norm_ = tensor("output_norm.weight", {c.hidden});
  if (file_.find("rope_freqs.weight")) rope_factors_ = tensor("rope_freqs.weight", {c.head_dim / 2});

  std::vector<std::string> kinds(static_cast<std::size_t>(c.layers), "softmax");
  Json options;
  if (const auto* stored = file_.meta("unbend.mixers")) {
    const auto* names = std::get_if<std::vector<std::string>>(stored);
    require(names != nullptr, "{}: unbend.mixers must be a list of names", file_.path().string());
    kinds = *names;
    options = parse_json(file_.text("unbend.options"), file_.path().string() + ": unbend.options");
  }
  mixers_ = check_mixers(file_.path().string() + ": unbend.options", c, kinds, options);
  const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string blk = fmt::format("blk.{}.", i);
    LayerTensors t;
    t.attention_norm = tensor(blk + "attn_norm.weight", {c.hidden});
    t.q = tensor(blk + "attn_q.weight", {q, c.hidden}, true);
    t.k = tensor(blk + "attn_k.weight", {kv, c.hidden}, true);
    t.v = tensor(blk + "attn_v.weight", {kv, c.hidden}, true);
    t.output = tensor(blk + "attn_output.weight", {c.hidden, q}, true);
    if (c.qkv_bias) {
      t.q_bias = tensor(blk + "attn_q.bias", {q});
      t.k_bias = tensor(blk + "attn_k.bias", {kv});
      t.v_bias = tensor(blk + "attn_v.bias", {kv});
    }
    t.ffn_norm = tensor(blk + "ffn_norm.weight", {c.hidden});
    t.gate = tensor(blk + "ffn_gate.weight", {c.ffn, c.hidden}, true);
    t.up = tensor(blk + "ffn_up.weight", {c.ffn, c.hidden}, true);
    t.down = tensor(blk + "ffn_down.weight", {c.hidden, c.ffn}, true);

    const auto& s = mixers_[static_cast<std::size_t>(i)];
    if (const auto logits = gate_logits(c, s); logits > 0) {
      if (const auto* down = file_.find(blk + "mixer.gate_down")) {
        require(down->shape.size() == 2, "{}: tensor {} has shape [{}], expected [rank, {}]", file_.path().string(),
                down->name, fmt::join(down->shape, ", "), c.hidden);
        t.mixer_gate_down = tensor(down->name, {down->shape[0], c.hidden});
      }
      const auto* up = file_.find(blk + "mixer.gate_up");
      t.mixer_gate = tensor(up ? up->name : blk + "mixer.gate_weight",
                            {logits, t.mixer_gate_down ? t.mixer_gate_down->ne[1] : c.hidden});
      t.mixer_gate_bias = tensor(blk + "mixer.gate_bias", {logits});
    }
    if (s.by_settings() && s.recurrence.features == RecurrenceSettings::Features::Given) {
      t.query_kernel = tensor(blk + "mixer.query_kernel", {q, q});
      t.query_kernel_bias = tensor(blk + "mixer.query_bias", {q});
      const bool shared = c.heads == c.kv_heads;
      t.key_kernel = shared ? t.query_kernel : tensor(blk + "mixer.key_kernel", {kv, kv});
      t.key_kernel_bias = shared ? t.query_kernel_bias : tensor(blk + "mixer.key_bias", {kv});
    }
    layers_.push_back(t);
    mixer_weights_.push_back(read_mixer_weights(file_, blk, c, s));
  }
  // A tensor that we would ignore (a bias, a norm of queries) means that the model computes something else.
  for (const auto& t : file_.tensors())
    require(ggml_get_tensor(context_.get(), t.name.c_str()) || is_of_mixer(t.name) || t.name == "unbend.guard",
            "{}: tensor {} has no place in a model of the family '{}': this variant is not supported",
            file_.path().string(), t.name, c.architecture);
}

bool Model::is_of_mixer(const std::string& tensor) const {
  for (std::size_t i = 0; i < mixers_.size(); ++i)
    if (mixers_[i].kind != MixerKind::Softmax && tensor.starts_with(fmt::format("blk.{}.mixer.", i))) return true;
  return false;
}

std::string Model::fingerprint() const {
  std::string text;
  for (const auto& [key, value] : file_.metadata())
    if (key.starts_with(config_.architecture + ".") || key.starts_with("unbend."))
      text += std::string_view(reinterpret_cast<const char*>(file_.encoded(key).data()), file_.encoded(key).size());
  for (const auto& t : file_.tensors()) {
    text += fmt::format("{} {} {}\n", t.name, t.type, fmt::join(t.shape, " "));
    const auto bytes = file_.data(t);
    for (const auto begin : {std::size_t{0}, bytes.size() / 2}) {
      const auto sample = bytes.subspan(begin, std::min<std::size_t>(64, bytes.size() - begin));
      text += std::string_view(reinterpret_cast<const char*>(sample.data()), sample.size());
    }
  }
  return sha256(std::as_bytes(std::span(text)));
}

ggml_tensor* Model::tensor(const std::string& name, std::vector<std::int64_t> shape, bool matrix) {
  const auto& info = file_.tensor(name);
  require(info.shape == shape, "{}: tensor {} has shape [{}], expected [{}]", file_.path().string(), name,
          fmt::join(info.shape, ", "), fmt::join(shape, ", "));
  require(has_products(info.type), "{}: tensor {} has type {}, which cannot be multiplied", file_.path().string(), name,
          type_name(info.type));
  require(matrix || shape.size() == 2 || info.type == GGML_TYPE_F32, "{}: tensor {} has type {}, expected F32",
          file_.path().string(), name, type_name(info.type));
  std::int64_t ne[4] = {1, 1, 1, 1};
  for (std::size_t i = 0; i < shape.size(); ++i) ne[i] = shape[shape.size() - 1 - i];
  auto* t = ggml_new_tensor(context_.get(), static_cast<ggml_type>(info.type), static_cast<int>(shape.size()), ne);
  ggml_set_name(t, name.c_str());
  const auto bytes = file_.data(info);
  t->data = const_cast<std::byte*>(bytes.data());
  if (matrix) repack(t, bytes.data());
  return t;
}

void Model::repack(ggml_tensor* t, const void* data) {
  auto* device = ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
  auto find = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts"));
  if (!find) return;
  for (auto* type = find(device); type && *type; ++type) {
    ggml_backend_buffer_ptr buffer(ggml_backend_buft_alloc_buffer(*type, ggml_backend_buft_get_alloc_size(*type, t)));
    if (!buffer) continue;
    t->data = nullptr;
    ggml_backend_tensor_alloc(buffer.get(), t, ggml_backend_buffer_get_base(buffer.get()));
    if (t->extra) {  // this type has a faster layout here
      ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
      buffers_.push_back(std::move(buffer));
      return;
    }
    t->buffer = nullptr;
    t->data = const_cast<void*>(data);
  }
}

}  // namespace unbend::engine
