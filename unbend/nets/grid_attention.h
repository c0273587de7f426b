// Attention between the tokens of an image, and the transformer block around it: softmax-free attention (SOFT, SOFT++;
// methods/soft.md, sections 1 to 7; Lu et al. 2024, arXiv 2207.03341) and what it is compared with.
#pragma once

#include <ATen/ATen.h>

#include "unbend/attention/landmarks.h"
#include "unbend/attention/soft_attention.h"
#include "unbend/nets/layers.h"

namespace unbend {

/// How tokens of an image see each other.
enum class TokenMixing {
  Soft,     ///< Gaussian kernel through landmarks, keys = queries; O(n)
  Softmax,  ///< exact softmax attention (Vaswani et al. 2017, arXiv 1706.03762); O(n^2) time, O(n) memory
  Linear,   ///< feature map elu + 1 (Katharopoulos et al. 2020, arXiv 2006.16236); O(n)
  None,     ///< not at all, but for the filter on the values; without that the layer is 0 and has no weights
};

enum class LandmarkSampling { Convolution, Mean, Random };

struct GridAttentionConfig {
  int64_t width, heads;  ///< heads divides width
  TokenMixing mixing = TokenMixing::Soft;
  SoftOptions soft = {};  ///< of TokenMixing::Soft, like the sampling: SOFT++ normalises
  LandmarkSampling sampling = LandmarkSampling::Convolution;
  int64_t ratio = 2;         ///< one landmark for ratio x ratio tokens, so their number grows with the grid
  uint64_t seed = 1;         ///< of LandmarkSampling::Random
  int64_t value_filter = 3;  ///< odd side of a filter on the grid of values, one per head, added to the heads; 0: none
};

/// Multi-head attention over tokens on a grid. All mixings but Soft and None have projections for queries and keys
/// apart.
struct GridAttention {
  GridAttentionConfig config;
  Linear q, k, v, output;         ///< undefined where the mixing does not use them
  LandmarkConvolution landmarks;  ///< of LandmarkSampling::Convolution
  at::Tensor value_filter;        ///< [H, 1, side, side] or undefined

  /// tokens [B, n, width] -> the same. Throws Error (Input) if they do not fill the grid, or the ratio does not divide
  /// it.
  at::Tensor operator()(const at::Tensor& tokens, const Grid& grid, const Pass& pass = {}) const;
};
/// Input error for a configuration that does not fit itself.
GridAttention make_grid_attention(const GridAttentionConfig& config, Random& random);

/// A transformer block with a perceptron of 4 x width hidden units.
struct GridBlock {
  /// Where LayerNorm stands: x = LN(x + f(x)), as in the SOFT stages; or x = x + f(LN(x)).
  enum class Norm { After, Before } norm;
  double drop;  ///< in training: After drops elements of f(x) (as the published code does), Before whole images
  GridAttention attention;
  LayerNorm attention_norm, perceptron_norm;
  Linear up, down;  ///< GELU between them: After its tanh form, Before the exact one

  at::Tensor operator()(const at::Tensor& tokens, const Grid& grid, const Pass& pass = {}) const;
};
GridBlock make_grid_block(const GridAttentionConfig& config, GridBlock::Norm norm, double drop, Random& random);

void collect(const std::string& prefix, GridAttention& layer, std::vector<Parameter>& all);
void collect(const std::string& prefix, GridBlock& block, std::vector<Parameter>& all);

}  // namespace unbend
