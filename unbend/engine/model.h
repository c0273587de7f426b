// A decoder's weights as ggml tensors over the memory-mapped file, with the mixer of every layer.
#pragma once

#include <ggml-cpp.h>

#include <memory>
#include <string>
#include <vector>

#include "unbend/engine/config.h"
#include "unbend/engine/gguf.h"
#include "unbend/engine/mixer_files.h"

namespace unbend::engine {

struct LayerTensors {
  ggml_tensor *attention_norm = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *output = nullptr;
  ggml_tensor *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;  // null without biases
  ggml_tensor *ffn_norm = nullptr, *gate = nullptr, *up = nullptr, *down = nullptr;
  ggml_tensor *mixer_gate_down = nullptr, *mixer_gate = nullptr, *mixer_gate_bias = nullptr;  // where there are gates
  ggml_tensor *query_kernel = nullptr, *query_kernel_bias = nullptr;                          // features Given
  ggml_tensor *key_kernel = nullptr, *key_kernel_bias = nullptr;
};

/// A model that is ready to run; shared by everything that runs it.
class Model {
 public:
  /// Maps the file. Matrices of types for which ggml has a faster layout on this machine are copied into it, as
  /// libllama does. Input error for families, mixers or tensors that cannot be run.
  static std::shared_ptr<const Model> open(const std::filesystem::path& path);

  const Gguf& file() const { return file_; }
  const DecoderConfig& config() const { return config_; }
  const std::vector<MixerSettings>& mixers() const { return mixers_; }  ///< per layer
  const std::vector<MixerWeights>& mixer_weights() const { return mixer_weights_; }
  const std::vector<LayerTensors>& layers() const { return layers_; }
  ggml_tensor* embedding() const { return embedding_; }
  ggml_tensor* output_norm() const { return output_norm_; }
  ggml_tensor* head() const { return head_; }
  ggml_tensor* rope_factors() const { return rope_factors_; }  ///< null without
  /// What the state of a sequence belongs to: SHA-256 of the settings and of samples of every tensor, wherever the file
  /// lies.
  std::string fingerprint() const;
  std::string recipe() const { return file_.text("unbend.recipe", "softmax"); }

 private:
  explicit Model(Gguf file);
  ggml_tensor* tensor(const std::string& name, std::vector<std::int64_t> shape, bool matrix = false);
  void repack(ggml_tensor* tensor, const void* data);
  bool is_of_mixer(const std::string& tensor) const;

  Gguf file_;
  DecoderConfig config_;
  ggml_context_ptr context_;
  std::vector<ggml_backend_buffer_ptr> buffers_;
  std::vector<LayerTensors> layers_;
  std::vector<MixerSettings> mixers_;
  std::vector<MixerWeights> mixer_weights_;
  ggml_tensor *embedding_ = nullptr, *output_norm_ = nullptr, *head_ = nullptr, *rope_factors_ = nullptr;
};

}  // namespace unbend::engine
