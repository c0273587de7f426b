// GGUF files put together byte by byte, valid or not.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>

#include "unbend/engine/gguf.h"

namespace unbend::engine {

inline constexpr std::uint32_t kU8 = 0, kU16 = 2, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9,
                               kU64 = 10;

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

inline std::string gguf_string(std::string_view text) {
  return bytes_of<std::uint64_t>(text.size()) + std::string(text);
}

/// A metadata entry; `payload` is the value's encoding.
inline std::string entry(std::string_view key, std::uint32_t type, std::string_view payload) {
  return gguf_string(key) + bytes_of(type) + std::string(payload);
}

inline std::string text_entry(std::string_view key, std::string_view text) {
  return entry(key, kString, gguf_string(text));
}

inline std::string u32_entry(std::string_view key, std::uint32_t value) { return entry(key, kU32, bytes_of(value)); }

inline std::string array_entry(std::string_view key, std::uint32_t type, std::uint64_t count,
                               std::string_view payload) {
  return entry(key, kArray, bytes_of(type) + bytes_of(count) + std::string(payload));
}

inline std::string strings_entry(std::string_view key, const std::vector<std::string>& strings) {
  std::string payload;
  for (const std::string& text : strings) payload += gguf_string(text);
  return array_entry(key, kString, strings.size(), payload);
}

/// `sizes` as GGUF stores them: innermost first.
inline std::string tensor_entry(std::string_view name, const std::vector<std::int64_t>& sizes, std::uint32_t type,
                                std::uint64_t offset) {
  std::string bytes = gguf_string(name) + bytes_of(static_cast<std::uint32_t>(sizes.size()));
  for (const std::int64_t size : sizes) bytes += bytes_of(size);
  return bytes + bytes_of(type) + bytes_of(offset);
}

struct GgufBytes {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::vector<std::string> metadata, tensors;
  std::string data;
  std::size_t alignment = 32;

  std::string file() const {
    std::string bytes =
        magic + bytes_of(version) + bytes_of<std::uint64_t>(tensors.size()) + bytes_of<std::uint64_t>(metadata.size());
    for (const std::string& part : metadata) bytes += part;
    for (const std::string& part : tensors) bytes += part;
    if (!tensors.empty()) bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    return bytes + data;
  }
};

/// A small valid file: metadata of every kind, an F32, a Q4_0 and an F16 tensor.
inline GgufBytes valid_gguf() {
  GgufBytes gguf;
  gguf.metadata = {text_entry("general.architecture", "llama"),
                   u32_entry("general.alignment", 32),
                   entry("a.u8", kU8, bytes_of<std::uint8_t>(200)),
                   entry("a.i32", kI32, bytes_of<std::int32_t>(-7)),
                   entry("a.f32", kF32, bytes_of(0.5f)),
                   entry("a.bool", kBool, bytes_of<std::uint8_t>(1)),
                   entry("a.u64", kU64, bytes_of<std::uint64_t>(~0ull)),
                   array_entry("a.integers", kI32, 2, bytes_of<std::int32_t>(3) + bytes_of<std::int32_t>(-4)),
                   array_entry("a.flags", kBool, 2, std::string("\0\1", 2)),
                   strings_entry("a.strings", {"one", "two"})};
  gguf.tensors = {tensor_entry("f", {4, 2}, 0, 0), tensor_entry("q", {32, 2}, 2, 32), tensor_entry("h", {2}, 1, 96)};
  for (int i = 0; i < 8; ++i) gguf.data += bytes_of(static_cast<float>(i));
  gguf.data += std::string(36, '\x3c') + std::string(28, '\0');
  gguf.data += bytes_of<std::uint16_t>(0x3c00) + bytes_of<std::uint16_t>(0xc000);
  return gguf;
}

class Folder : public TemporaryFolder {
 public:
  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path() / name, std::ios::binary) << bytes;
    return path() / name;
  }
};

inline std::string smollm2() {
  return std::string(UNBEND_SOURCE_DIR) + "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace unbend::engine
