#include "unbend/tensor/npy.h"

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/base/npy.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

constexpr std::pair<std::string_view, at::ScalarType> kTypes[] = {
    {"b1", at::kBool},  {"u1", at::kByte},   {"i1", at::kChar},  {"u2", at::kUInt16},
    {"i2", at::kShort}, {"u4", at::kUInt32}, {"i4", at::kInt},   {"u8", at::kUInt64},
    {"i8", at::kLong},  {"f2", at::kHalf},   {"f4", at::kFloat}, {"f8", at::kDouble},
};

}  // namespace

at::Tensor load_npy(const std::filesystem::path& path) {
  const auto array = read_npy(path);
  const auto type =
      std::ranges::find(kTypes, std::string_view(array.type), [](const auto& item) { return item.first; })->second;
  auto out = at::empty(array.shape, type);
  if (out.numel() > 0) std::ranges::copy(array.bytes, static_cast<std::byte*>(out.data_ptr()));
  return out;
}

void save_npy(const std::filesystem::path& path, const at::Tensor& t) {
  require(t.defined(), "{}: the tensor to save is undefined", path.string());
  const auto type = std::ranges::find(kTypes, t.scalar_type(), [](const auto& item) { return item.second; });
  require(type != std::end(kTypes), "{}: .npy cannot hold tensors of type {}", path.string(),
          at::toString(t.scalar_type()));
  const auto data = t.detach().cpu().contiguous();
  const auto* bytes = data.numel() ? static_cast<const std::byte*>(data.data_ptr()) : nullptr;
  write_npy(path, std::string(type->first), data.sizes().vec(), {bytes, data.nbytes()});
}

}  // namespace unbend
