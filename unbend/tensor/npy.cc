#include "unbend/tensor/npy.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/npy_header.h"
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
  const MappedFile file(path);
  auto header = parse_npy_header(file.bytes(), path.string());
  const auto type =
      std::ranges::find(kTypes, std::string_view(header.type), [](const auto& item) { return item.first; })->second;
  if (header.fortran_order) std::ranges::reverse(header.shape);
  auto out = at::empty(header.shape, type);
  if (out.numel() > 0) std::memcpy(out.data_ptr(), file.bytes().data() + header.begin, out.nbytes());
  if (type == at::kBool) out = out.view(at::kByte).ne(0);  // other bytes than 0 and 1 are no bools to C++
  if (!header.fortran_order) return out;
  std::vector<std::int64_t> axes(header.shape.size());
  std::iota(axes.rbegin(), axes.rend(), 0);
  return out.permute(axes).contiguous();
}

void save_npy(const std::filesystem::path& path, const at::Tensor& t) {
  require(t.defined(), "{}: the tensor to save is undefined", path.string());
  const auto type = std::ranges::find(kTypes, t.scalar_type(), [](const auto& item) { return item.second; });
  require(type != std::end(kTypes), "{}: .npy cannot hold tensors of type {}", path.string(),
          at::toString(t.scalar_type()));
  const auto data = t.detach().cpu().contiguous();
  const auto head = write_npy_header({std::string(type->first), false, data.sizes().vec(), 0});
  write_file(path, std::vector<std::string_view>{
                       head, {data.numel() ? static_cast<const char*>(data.data_ptr()) : "", data.nbytes()}});
}

}  // namespace unbend
