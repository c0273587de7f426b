// GGUF weights as a Decoder.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <set>

#include "unbend/base/error.h"
#include "unbend/lm/decoder.h"
#include "unbend/lm/softmax_mixer.h"
#include "unbend/tensor/check.h"

namespace unbend::lm {
namespace {

/// Infinities and NaN have the largest exponent; a maximum of integers is one quick pass.
bool all_finite(const float* x, std::int64_t n) {
  std::uint32_t largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<std::uint32_t>(x[i]) << 1U);
  return largest < 0xff000000U;
}

class Reader {
 public:
  Reader(const engine::Gguf& file, at::ScalarType type) : file_(file), type_(type) {}

  at::Tensor operator()(const std::string& name, std::vector<std::int64_t> shape, at::ScalarType type) {
    const auto& info = file_.tensor(name);
    read_.insert(name);
    require(info.shape == shape, "{}: tensor {} has shape [{}], expected [{}]", file_.path().string(), name,
            fmt::join(info.shape, ", "), fmt::join(shape, ", "));
    auto out = at::empty(shape, at::kFloat);
    auto* data = out.mutable_data_ptr<float>();
    const std::int64_t width = shape.back(), rows = info.elements() / width;
    std::atomic<bool> finite = true;
    at::parallel_for(0, rows, 256, [&](std::int64_t first, std::int64_t last) {
      file_.dequantize(info, first, last - first, data + first * width);
      if (!all_finite(data + first * width, (last - first) * width)) finite = false;
    });
    if (!finite) check_finite(out, fmt::format("{}: tensor {}", file_.path().string(), name));  // says where
    return out.to(type);
  }
  at::Tensor matrix(const std::string& name, std::int64_t out, std::int64_t in) {
    return (*this)(name, {out, in}, type_);
  }
  bool has_read(const std::string& name) const { return read_.contains(name); }

 private:
  const engine::Gguf& file_;
  std::set<std::string> read_;
  at::ScalarType type_;
};

}  // namespace

at::Tensor halves_from_pairs(const at::Tensor& rows, std::int64_t heads) {
  return rows.unflatten(0, {heads, -1, 2}).transpose(1, 2).reshape(rows.sizes());
}

at::Tensor pairs_from_halves(const at::Tensor& rows, std::int64_t heads) {
  return rows.unflatten(0, {heads, 2, -1}).transpose(1, 2).reshape(rows.sizes());
}

Decoder load_decoder(const engine::Gguf& file, at::ScalarType type) {
  require(file.meta("unbend.mixers") == nullptr,
          "{}: an exported student ({}): the engine runs it, LibTorch needs the base model and the adapter",
          file.path().string(), file.text("unbend.recipe", "unknown recipe"));
  Decoder decoder;
  const auto& c = decoder.config = read_config(file);
  Reader read(file, type);
  const auto residual = type == at::kDouble ? at::kDouble : at::kFloat;
  const bool pairs = c.architecture == "llama";
  const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  decoder.embedding = read.matrix("token_embd.weight", c.vocab, c.hidden);
  decoder.head = c.tied ? decoder.embedding : read.matrix("output.weight", c.vocab, c.hidden);
  decoder.output_norm = read("output_norm.weight", {c.hidden}, residual);
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string prefix = fmt::format("blk.{}.", i);
    const auto rotated = [&](const at::Tensor& w, std::int64_t heads) {
      return pairs ? halves_from_pairs(w, heads) : w;
    };
    Layer layer;
    layer.attention_norm = read(prefix + "attn_norm.weight", {c.hidden}, residual);
    layer.ffn_norm = read(prefix + "ffn_norm.weight", {c.hidden}, residual);
    layer.qkv.weight = at::cat({rotated(read.matrix(prefix + "attn_q.weight", q, c.hidden), c.heads),
                                rotated(read.matrix(prefix + "attn_k.weight", kv, c.hidden), c.kv_heads),
                                read.matrix(prefix + "attn_v.weight", kv, c.hidden)});
    if (c.qkv_bias)
      layer.qkv.bias = at::cat({rotated(read(prefix + "attn_q.bias", {q}, type), c.heads),
                                rotated(read(prefix + "attn_k.bias", {kv}, type), c.kv_heads),
                                read(prefix + "attn_v.bias", {kv}, type)});
    layer.qkv.parts = {{"q", q, {}}, {"k", kv, {}}, {"v", kv, {}}};
    layer.output = {read.matrix(prefix + "attn_output.weight", c.hidden, q), {}, {{"o", c.hidden, {}}}};
    layer.gate_up = {at::cat({read.matrix(prefix + "ffn_gate.weight", c.ffn, c.hidden),
                              read.matrix(prefix + "ffn_up.weight", c.ffn, c.hidden)}),
                     {},
                     {{"gate", c.ffn, {}}, {"up", c.ffn, {}}}};
    layer.down = {read.matrix(prefix + "ffn_down.weight", c.hidden, c.ffn), {}, {{"down", c.hidden, {}}}};
    layer.mixer = softmax_mixer();
    decoder.layers.push_back(std::move(layer));
  }
  // A tensor that we would ignore (a bias, a norm of queries) means that the model computes something else.
  for (const auto& t : file.tensors())
    require(read.has_read(t.name) || t.name == "rope_freqs.weight",
            "{}: tensor {} has no place in a model of the family '{}': this variant is not supported",
            file.path().string(), t.name, c.architecture);
  return decoder;
}

}  // namespace unbend::lm
