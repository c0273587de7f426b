#include "unbend/tensor/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/safetensors_header.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

// In the order of safetensors_types().
constexpr std::array kScalarTypes = {
    at::kBool,  at::kByte,         at::kChar,   at::kFloat8_e5m2, at::kFloat8_e4m3fn, at::kFloat8_e8m0fnu,
    at::kShort, at::kUInt16,       at::kHalf,   at::kBFloat16,    at::kInt,           at::kUInt32,
    at::kFloat, at::kComplexFloat, at::kDouble, at::kLong,        at::kUInt64,
};

at::ScalarType scalar_type(std::string_view name) {
  return kScalarTypes[std::ranges::find(safetensors_types(), name, &SafetensorsType::name) -
                      safetensors_types().begin()];
}

std::size_t type_rank(at::ScalarType type) { return std::ranges::find(kScalarTypes, type) - kScalarTypes.begin(); }

}  // namespace

TensorFile load_safetensors(const std::filesystem::path& path) {
  const MappedFile file(path);
  auto header = parse_safetensors_header(file.bytes(), path.string());
  TensorFile out;
  out.metadata = std::move(header.metadata);
  for (const auto& entry : header.tensors) {
    auto tensor = at::empty(entry.shape, scalar_type(entry.type));
    if (entry.end > entry.begin)
      std::memcpy(tensor.data_ptr(), file.bytes().data() + entry.begin, entry.end - entry.begin);
    if (tensor.scalar_type() == at::kBool) tensor.copy_(tensor.view(at::kByte).ne(0));  // a bool of another byte breaks
    out.tensors.emplace(entry.name, std::move(tensor));
  }
  return out;
}

void save_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::vector<const std::pair<const std::string, at::Tensor>*> order;
  for (const auto& item : tensors) {
    require(item.second.defined(), "{}: tensor '{}' is undefined", path.string(), item.first);
    require(item.first != "__metadata__", "{}: __metadata__ cannot name a tensor", path.string());
    require(type_rank(item.second.scalar_type()) < kScalarTypes.size(),
            "{}: safetensors cannot hold tensor '{}' of type {}", path.string(), item.first,
            at::toString(item.second.scalar_type()));
    order.push_back(&item);
  }
  std::ranges::stable_sort(order, std::greater(),
                           [](const auto* item) { return type_rank(item->second.scalar_type()); });

  SafetensorsHeader header;
  header.metadata = metadata;
  for (const auto* item : order) {
    const auto& t = item->second;
    header.tensors.push_back({item->first, std::string(safetensors_types()[type_rank(t.scalar_type())].name),
                              t.sizes().vec(), 0, t.nbytes()});
  }
  std::vector<std::string_view> chunks;
  std::vector<at::Tensor> alive;
  const auto head = write_safetensors_header(header);
  chunks.push_back(head);
  for (const auto* item : order) {
    alive.push_back(item->second.detach().cpu().resolve_conj().resolve_neg().contiguous());
    if (const auto& t = alive.back(); t.numel() > 0)
      chunks.emplace_back(static_cast<const char*>(t.data_ptr()), t.nbytes());
  }
  write_file(path, chunks);
}

}  // namespace unbend
