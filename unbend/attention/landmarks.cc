#include "unbend/attention/landmarks.h"

#include <torch/types.h>

#include <numeric>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

void check_ratio(const Grid& grid, int64_t ratio, int64_t least, const char* where) {
  require(ratio >= least, "{}: the ratio must be at least {}, not {}", where, least, ratio);
  require(grid.height % ratio == 0 && grid.width % ratio == 0,
          "{}: the ratio {} does not divide the grid of {} x {} tokens", where, ratio, grid.height, grid.width);
}

}  // namespace

void check_grid(const at::Tensor& tokens, const Grid& grid, const char* where) {
  check_floating(tokens, fmt::format("{}: tokens", where));
  require(grid.height >= 1 && grid.width >= 1, "{}: a grid of {} x {} has no tokens", where, grid.height, grid.width);
  require(tokens.dim() >= 2 && tokens.size(-2) == grid.tokens(), "{}: tokens {} do not fill a grid of {} x {} = {}",
          where, shape_string(tokens.sizes()), grid.height, grid.width, grid.tokens());
}

at::Tensor convolved_landmarks(const at::Tensor& tokens, const Grid& grid, const LandmarkConvolution& convolution) {
  const char* where = "convolved_landmarks";
  check_dims(tokens, 4, "convolved_landmarks: tokens");
  check_grid(tokens, grid, where);
  const int64_t batch = tokens.size(0), heads = tokens.size(1), d = tokens.size(3);
  check_dims(convolution.filter, 4, "convolved_landmarks: filter");
  const int64_t ratio = convolution.filter.size(2);
  check_shape(convolution.filter, {d, d, ratio, ratio}, "convolved_landmarks: filter");
  check_shape(convolution.norm_weight, {d}, "convolved_landmarks: norm_weight");
  check_shape(convolution.norm_bias, {d}, "convolved_landmarks: norm_bias");
  check_ratio(grid, ratio, 2, where);
  const auto image = tokens.reshape({batch * heads, grid.height, grid.width, d}).permute({0, 3, 1, 2});
  const auto cells = at::conv2d(image, convolution.filter, {}, ratio).flatten(2).transpose(1, 2);
  return at::gelu(at::layer_norm(cells, {d}, convolution.norm_weight, convolution.norm_bias, convolution.norm_eps))
      .view({batch, heads, -1, d});
}

at::Tensor mean_landmarks(const at::Tensor& tokens, const Grid& grid, int64_t ratio) {
  check_grid(tokens, grid, "mean_landmarks");
  check_ratio(grid, ratio, 1, "mean_landmarks");
  return tokens.unflatten(-2, {grid.height / ratio, ratio, grid.width / ratio, ratio}).mean({-4, -2}).flatten(-3, -2);
}

at::Tensor random_landmarks(const at::Tensor& tokens, int64_t count, Random random) {
  require(tokens.dim() >= 2, "random_landmarks: tokens must be [.., n, d], not {}", shape_string(tokens.sizes()));
  const int64_t n = tokens.size(-2);
  require(count >= 1 && count <= n, "random_landmarks: {} of {} tokens cannot be drawn without replacement", count, n);
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = 0; i < count; ++i) std::swap(order[i], order[i + static_cast<int64_t>(random.below(n - i))]);
  order.resize(count);
  return tokens.index_select(-2, at::tensor(order, at::kLong).to(tokens.device()));
}

}  // namespace unbend
