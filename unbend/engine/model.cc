#include "unbend/engine/model.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/json.h"

namespace unbend::engine {
namespace {

GateForm gate_form(const std::string& where, const Json& options) {
  if (!json_get<bool>(options, "gate", where)) return GateForm::None;
  const auto variant = json_get<std::string>(options, "variant", where);
  if (variant == "gla") return GateForm::LogSigmoid;
  if (variant == "mamba2") return GateForm::MeanSoftplus;
  if (variant == "mlstm") return GateForm::MeanLogSigmoid;
  if (variant == "rwkv6") return GateForm::Exp;
  fail_input("{}: the engine does not run Liger's variant '{}' (gla, mamba2, mlstm and rwkv6)", where, variant);
}

MixerSettings read_mixer(const std::string& where, const DecoderConfig& config, const std::string& kind,
                         const Json& options) {
  MixerSettings s;
  if (kind == "softmax") return s;
  if (kind != "window" && kind != "hybrid" && kind != "lolcats" && kind != "liger")
    fail_input("{}: the engine does not run mixer '{}' (softmax, window, hybrid, lolcats and liger)", where, kind);
  s.window = json_get<std::int64_t>(options, "window", where);
  s.sinks = json_get<std::int64_t>(options, "sinks", where);
  require(s.window >= 1 && s.window <= config.context && s.sinks >= 0 && s.sinks <= s.window,
          "{}: a window of {} with {} sinks cannot be", where, s.window, s.sinks);
  s.groups = config.kv_heads;
  if (kind == "window") {
    s.kind = MixerKind::Window;
  } else if (kind == "hybrid") {
    s.kind = MixerKind::Hybrid;
    s.linear = json_get<bool>(options, "linear", where);
    s.gate = json_get<bool>(options, "gate", where);
    if (json_get<std::string>(options, "state_heads", where) == "query") s.groups = config.heads;
  } else if (kind == "lolcats") {  // no gate, and a head's number is the window's factor
    s.kind = MixerKind::Hybrid;
    s.linear = json_get<bool>(options, "linear", where);
    s.gate = false;
    s.window_factor = true;
    s.groups = config.heads;
  } else {
    s.kind = MixerKind::Liger;
    s.gate_form = gate_form(where, options);
    s.gate_normalizer = json_get<double>(options, "gate_logit_normalizer", where);
    s.mix_linear = json_get<double>(options, "mix_linear", where);
    s.mix_window = json_get<double>(options, "mix_window", where);
    require(json_get<std::string>(options, "gate_source", where) == "k" &&
                json_get<std::int64_t>(options, "pool_size", where) == 1 &&
                json_get<std::string>(options, "feature_map", where) == "softmax",
            "{}: the engine runs Liger with gates from keys, unpooled, and softmax features only", where);
    require(std::isfinite(s.gate_normalizer) && s.gate_normalizer > 0 && std::isfinite(s.mix_linear) &&
                std::isfinite(s.mix_window) && s.mix_window != 0,
            "{}: gate_logit_normalizer {}, mix_linear {}, mix_window {}", where, s.gate_normalizer, s.mix_linear,
            s.mix_window);
  }
  return s;
}

std::vector<float> values(const Gguf& file, const std::string& name, const std::vector<std::int64_t>& shape) {
  const auto& info = file.tensor(name);
  require(info.shape == shape, "{}: tensor {} has shape [{}], expected [{}]", file.path().string(), name,
          fmt::join(info.shape, ", "), fmt::join(shape, ", "));
  std::vector<float> out(static_cast<std::size_t>(info.elements()));
  file.dequantize(info, 0, info.rows(), out.data());
  return out;
}

}  // namespace

std::vector<MixerSettings> check_mixers(const std::string& where, const DecoderConfig& config,
                                        const std::vector<std::string>& kinds, const Json& options) {
  require(static_cast<std::int64_t>(kinds.size()) == config.layers, "{}: {} mixers for {} layers", where, kinds.size(),
          config.layers);
  std::vector<MixerSettings> all;
  for (const auto& kind : kinds) all.push_back(read_mixer(where, config, kind, options));
  return all;
}

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
  const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim, d = c.head_dim;
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
    MixerWeights w;
    if (s.kind == MixerKind::Hybrid && s.linear) {
      w.query_map = values(file_, blk + "mixer.query_map", {c.heads, d, d / 2});
      w.key_map = values(file_, blk + "mixer.key_map", {s.groups, d, d / 2});
      w.scale = values(file_, blk + (s.window_factor ? "mixer.window_factor" : "mixer.log_scale"), {c.heads});
      for (auto& x : w.scale) x = s.window_factor ? 1 + std::exp(-x) : std::exp(x);
      if (s.gate) {
        t.mixer_gate = tensor(blk + "mixer.gate_weight", {s.groups, c.hidden});
        t.mixer_gate_bias = tensor(blk + "mixer.gate_bias", {s.groups});
      }
    }
    layers_.push_back(t);
    mixer_weights_.push_back(std::move(w));
  }
}

ggml_tensor* Model::tensor(const std::string& name, std::vector<std::int64_t> shape, bool matrix) {
  const auto& info = file_.tensor(name);
  require(info.shape == shape, "{}: tensor {} has shape [{}], expected [{}]", file_.path().string(), name,
          fmt::join(info.shape, ", "), fmt::join(shape, ", "));
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
