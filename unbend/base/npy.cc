#include "unbend/base/npy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/npy_header.h"

namespace unbend {
namespace {

std::int64_t product(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

/// Elements whose first index varies fastest, put into C order.
std::vector<std::byte> to_c_order(const std::byte* from, const std::vector<std::int64_t>& shape, std::size_t width) {
  const auto count = static_cast<std::size_t>(product(shape));
  std::vector<std::byte> to(count * width);
  std::vector<std::size_t> index(shape.size(), 0), stride(shape.size(), width);
  for (std::size_t k = 1; k < shape.size(); ++k) stride[k] = stride[k - 1] * static_cast<std::size_t>(shape[k - 1]);
  std::size_t at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(&to[i * width], from + at, width);
    for (std::size_t k = shape.size(); k-- > 0;) {
      at += stride[k];
      if (++index[k] < static_cast<std::size_t>(shape[k])) break;
      at -= stride[k] * index[k];
      index[k] = 0;
    }
  }
  return to;
}

double from_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = 0;
  if (exponent == 31) {
    value = fraction ? NAN : INFINITY;
  } else {
    value = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  }
  return bits >> 15 ? -value : value;
}

template <class T>
std::vector<double> convert(std::span<const std::byte> bytes) {
  std::vector<double> out(bytes.size() / sizeof(T));
  for (std::size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, &bytes[i * sizeof(T)], sizeof(T));
    out[i] = static_cast<double>(value);
  }
  return out;
}

}  // namespace

std::int64_t NpyArray::size() const { return product(shape); }

NpyArray parse_npy(std::span<const std::byte> file, std::string_view where) {
  auto header = parse_npy_header(file, where);
  const auto data = file.subspan(header.begin);
  NpyArray array{header.type, std::move(header.shape), {}};
  if (header.fortran_order && array.shape.size() > 1 && !data.empty()) {
    array.bytes = to_c_order(data.data(), array.shape, static_cast<std::size_t>(array.type[1] - '0'));
  } else {
    array.bytes.assign(data.begin(), data.end());
  }
  if (array.type == "b1")  // other bytes than 0 and 1 are no bools to C++
    std::ranges::transform(array.bytes, array.bytes.begin(), [](std::byte b) { return std::byte{b != std::byte{0}}; });
  return array;
}

NpyArray read_npy(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_npy(file.bytes(), path.string());
}

std::vector<double> to_doubles(const NpyArray& array) {
  const auto& type = array.type;
  if (type == "f8") return convert<double>(array.bytes);
  if (type == "f4") return convert<float>(array.bytes);
  if (type == "i8") return convert<std::int64_t>(array.bytes);
  if (type == "u8") return convert<std::uint64_t>(array.bytes);
  if (type == "i4") return convert<std::int32_t>(array.bytes);
  if (type == "u4") return convert<std::uint32_t>(array.bytes);
  if (type == "i2") return convert<std::int16_t>(array.bytes);
  if (type == "u2") return convert<std::uint16_t>(array.bytes);
  if (type == "i1") return convert<std::int8_t>(array.bytes);
  if (type == "u1" || type == "b1") return convert<std::uint8_t>(array.bytes);
  require(type == "f2", "array of type '{}': expected one that .npy files hold", type);
  auto out = convert<std::uint16_t>(array.bytes);
  for (double& value : out) value = from_half(static_cast<std::uint16_t>(value));
  return out;
}

void write_npy(const std::filesystem::path& path, const std::string& type, const std::vector<std::int64_t>& shape,
               std::span<const std::byte> bytes) {
  require(static_cast<std::int64_t>(bytes.size()) == product(shape) * (type.at(1) - '0'),
          "{}: {} bytes to write for an array of {} elements of type '{}'", path.string(), bytes.size(), product(shape),
          type);
  const auto head = write_npy_header({type, false, shape, 0});
  const std::string_view data(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  write_file(path, std::vector<std::string_view>{head, data});
}

void write_npy(const std::filesystem::path& path, const std::vector<std::int64_t>& shape,
               std::span<const double> values) {
  write_npy(path, "f8", shape, std::as_bytes(values));
}

}  // namespace unbend
