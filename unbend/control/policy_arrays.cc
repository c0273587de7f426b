#include "unbend/control/policy_arrays.h"

#include <cmath>
#include <cstring>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/safetensors_header.h"

namespace unbend::control {
namespace {

template <class T>
std::string bytes_of(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

}  // namespace

void ArrayFile::put(const std::string& name, std::vector<std::int64_t> shape, std::span<const float> values) {
  arrays_[name] = {"F32", std::move(shape), bytes_of(values)};
}
void ArrayFile::put(const std::string& name, std::span<const double> values) {
  arrays_[name] = {"F64", {static_cast<std::int64_t>(values.size())}, bytes_of(values)};
}
void ArrayFile::put(const std::string& name, std::span<const std::uint64_t> values) {
  arrays_[name] = {"U64", {static_cast<std::int64_t>(values.size())}, bytes_of(values)};
}

template <class T>
std::vector<T> ArrayFile::values(const std::string& name, const char* type, std::int64_t count) const {
  const auto found = arrays_.find(name);
  require(found != arrays_.end(), "{}: there is no array '{}'", where_, name);
  const Array& array = found->second;
  require(array.type == type, "{}: array '{}' has the type {}, {} expected", where_, name, array.type, type);
  std::vector<T> values(array.bytes.size() / sizeof(T));
  require(count < 0 || std::ssize(values) == count, "{}: array '{}' has {} values, {} expected", where_, name,
          values.size(), count);
  if (!values.empty()) std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
  if constexpr (std::is_floating_point_v<T>) {
    for (std::size_t i = 0; i < values.size(); ++i)
      require(std::isfinite(values[i]), "{}: array '{}', number {}: {} is not finite", where_, name, i, values[i]);
  }
  return values;
}

std::vector<float> ArrayFile::floats(const std::string& name, std::int64_t count) const {
  return values<float>(name, "F32", count);
}
std::vector<double> ArrayFile::doubles(const std::string& name, std::int64_t count) const {
  return values<double>(name, "F64", count);
}
std::vector<std::uint64_t> ArrayFile::integers(const std::string& name, std::int64_t count) const {
  return values<std::uint64_t>(name, "U64", count);
}

const std::string& ArrayFile::text(const std::string& key) const {
  const auto found = metadata.find(key);
  require(found != metadata.end(), "{}: there is no '{}' in its metadata: not a file of this kind", where_, key);
  return found->second;
}

void ArrayFile::write(const std::filesystem::path& path) const {
  SafetensorsHeader header;
  header.metadata = metadata;
  std::vector<std::string_view> pieces(1);
  for (const auto& [name, array] : arrays_) {
    header.tensors.push_back({name, array.type, array.shape, 0, array.bytes.size()});
    pieces.push_back(array.bytes);
  }
  const std::string head = write_safetensors_header(header);
  pieces[0] = head;
  write_file(path, pieces);
}

ArrayFile ArrayFile::read(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto header = parse_safetensors_header(file.bytes(), path.string());
  ArrayFile arrays;
  arrays.where_ = path.string();
  arrays.metadata = header.metadata;
  for (const auto& t : header.tensors) {
    const auto part = file.bytes().subspan(t.begin, t.end - t.begin);
    arrays.arrays_[t.name] = {t.type, t.shape, {reinterpret_cast<const char*>(part.data()), part.size()}};
  }
  return arrays;
}

}  // namespace unbend::control
