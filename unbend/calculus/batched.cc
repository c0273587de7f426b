#include "unbend/calculus/batched.h"

#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/DynamicLayer.h>
#include <ATen/functorch/PlumbingHelper.h>

#include "unbend/base/error.h"

namespace unbend {
namespace {

struct Level {
  int64_t id;
  explicit Level(int64_t size)
      : id(at::functorch::initAndPushDynamicLayer(at::functorch::TransformType::Vmap, c10::SymInt(size),
                                                  at::functorch::RandomnessType::Error)) {}
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
  ~Level() { at::functorch::popDynamicLayerAndDeleteMetadata(); }
};

}  // namespace

std::optional<Tensors> batched(const std::function<Tensors(const Tensors&)>& one, const Tensors& many) {
  if (many.empty() || many[0].size(0) == 0) return std::nullopt;
  const int64_t count = many[0].size(0);
  std::vector<std::pair<at::Tensor, std::optional<int64_t>>> results;
  try {
    const Level level(count);
    Tensors hidden;
    for (const at::Tensor& x : many) hidden.push_back(at::functorch::addBatchDim(x, 0, level.id));
    for (const at::Tensor& y : one(hidden)) {
      auto [value, axis] = at::functorch::unwrapTensorAtLevel(y, level.id);
      results.emplace_back(std::move(value), axis);
    }
  } catch (const std::exception&) {  // LibTorch's, ours or the caller's: one by one says what is wrong
    return std::nullopt;
  }
  Tensors all;
  for (const auto& [value, axis] : results) {
    if (axis) {
      all.push_back(value.movedim(*axis, 0));
    } else {  // the same for all vectors
      std::vector<int64_t> shape{count};
      shape.insert(shape.end(), value.sizes().begin(), value.sizes().end());
      all.push_back(value.expand(shape));
    }
  }
  return all;
}

}  // namespace unbend
