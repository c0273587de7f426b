// A pyramid of stages for images: each halves the grid of tokens, the last one gathers an image in a class token. The
// backbone of SOFT and SOFT++ (methods/soft.md, section 7; Lu et al. 2024, arXiv 2207.03341).
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string_view>
#include <vector>

#include "unbend/nets/grid_attention.h"

namespace unbend {

struct StageConfig {
  int64_t width, heads, depth;
  int64_t ratio = 2;         ///< tokens per landmark along a side (GridAttentionConfig)
  int64_t value_filter = 3;  ///< side (GridAttentionConfig)
};

struct PyramidConfig {
  int64_t channels = 3, classes = 1000;
  std::vector<int64_t> stem_strides = {2, 1, 2};  ///< of the convolutions before the first stage
  int64_t stem_width = 32;                        ///< channels between them
  int64_t grid = 56;                              ///< side of the grid that the first position embedding is made for
  std::vector<StageConfig> stages;                ///< at least one; each later one halves the grid
  /// The last stage: softmax attention of a class token and all others. Without it, the logits come from the mean
  /// token.
  std::optional<StageConfig> class_stage;
  TokenMixing mixing = TokenMixing::Soft;  ///< of `stages`, like the next two
  LandmarkSampling sampling = LandmarkSampling::Convolution;
  SoftOptions soft = {};
  double drop = .1;  ///< rises linearly from 0 in the first block to this in the last
};

/// "tiny", "small", "medium", "large" or "huge" for images of 224 x 224; `normalize` for SOFT++. Throws Error (Input)
/// for another name. "small" has 7 blocks in its third stage, which its published size (24M parameters, 3.3 GFLOP) asks
/// for; the published code says 20. From C++ only, with random weights (docs/vision.md).
PyramidConfig pyramid_config(std::string_view name, bool normalize);

struct PyramidStage {
  std::vector<ConvolutionUnit> entry;
  at::Tensor position;  ///< [1, g * g, width] for a grid of side g, one more in front for a class token
  std::vector<GridBlock> blocks;
};

/// A network on images. Copies share tensors; fork() does not.
class Pyramid {
 public:
  PyramidConfig config;
  std::vector<PyramidStage> stages;  ///< the class stage is the last one
  at::Tensor class_token;            ///< [1, 1, width] or undefined
  LayerNorm norm;
  Linear head;

  /// images [B, channels, h, w] -> one map [B, width, h_i, w_i] per stage, fine to coarse: for detection, segmentation.
  /// h and w are multiples of side_multiple(); position embeddings are resized (bilinearly) to grids of other sizes
  /// than their own.
  std::vector<at::Tensor> features(const at::Tensor& images, const Pass& pass = {}) const;

  /// [B, classes].
  at::Tensor logits(const at::Tensor& images, const Pass& pass = {}) const;

  int64_t side_multiple() const;
  Pyramid fork() const;
  Pyramid to(at::Device device, at::ScalarType type) const;

 private:
  at::Tensor run(const at::Tensor& images, const Pass& pass, std::vector<at::Tensor>* maps) const;
};

/// Random weights, float32: linear layers and embeddings N(0, 0.02^2).
Pyramid random_pyramid(const PyramidConfig& config, Random& random);

/// Every trainable tensor by reference ("stages.0.blocks.1.attention.q.weight"), and the running statistics of the
/// convolutions, which belong to a stored network too.
std::vector<Parameter> parameters(Pyramid& net);
std::vector<Parameter> statistics(Pyramid& net);

}  // namespace unbend
