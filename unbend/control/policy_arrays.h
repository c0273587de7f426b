// Named arrays in one file: policies and checkpoints as safetensors, without LibTorch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace unbend::control {

class ArrayFile {
 public:
  std::map<std::string, std::string> metadata;

  void put(const std::string& name, std::vector<std::int64_t> shape, std::span<const float> values);
  void put(const std::string& name, std::span<const double> values);
  void put(const std::string& name, std::span<const std::uint64_t> values);

  bool has(const std::string& name) const { return arrays_.contains(name); }
  /// Input error naming file and array if it is missing, of another type, with numbers that are not finite or, with
  /// `count` >= 0, of another size.
  std::vector<float> floats(const std::string& name, std::int64_t count = -1) const;
  std::vector<double> doubles(const std::string& name, std::int64_t count = -1) const;
  std::vector<std::uint64_t> integers(const std::string& name, std::int64_t count = -1) const;
  const std::string& text(const std::string& key) const;  ///< of the metadata; Input error if it is missing

  void write(const std::filesystem::path& path) const;       ///< atomic
  static ArrayFile read(const std::filesystem::path& path);  ///< Input error for damaged files
  const std::string& where() const { return where_; }

 private:
  struct Array {
    std::string type;  // of safetensors
    std::vector<std::int64_t> shape;
    std::string bytes;
  };
  template <class T>
  std::vector<T> values(const std::string& name, const char* type, std::int64_t count) const;
  std::map<std::string, Array> arrays_;
  std::string where_ = "checkpoint";
};

}  // namespace unbend::control
