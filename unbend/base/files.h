// Files: whole reads, memory maps, atomic writes, content hashes. Every failure is an Error that names the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unbend {

/// Contents of `path`. Input error if it cannot be opened or read.
std::string read_file(const std::filesystem::path& path);

/// Says before long work what write_file would say after it: Usage error if `path` is a folder, or lies in none that
/// can be written to, or is one of `others`: files that are read, or written too. Nothing for empty paths, which stand
/// for no file.
void check_output(const std::filesystem::path& path, const std::vector<std::filesystem::path>& others = {});

/// The same for a folder of files to come: makes it, and Usage error if it cannot be made or written to.
void check_folder(const std::filesystem::path& path);

/// Writes beside `path` (same folder), syncs, then renames: readers see the old or the new contents, never a half.
/// Computation error if the disk is full or the folder is not writable; the temporary file is removed.
void write_file(const std::filesystem::path& path, std::string_view contents);
/// The same for contents in pieces, which need not be joined in memory.
void write_file(const std::filesystem::path& path, std::span<const std::string_view> pieces);
/// The same for contents made piece by piece: `next` is called until it gives nothing; each piece lives until the next
/// call.
void write_file(const std::filesystem::path& path, const std::function<std::optional<std::string_view>()>& next);

/// SHA-256 in lower-case hexadecimal.
std::string sha256(std::span<const std::byte> bytes);
std::string sha256_file(const std::filesystem::path& path);

/// A new folder among the system's temporary files, removed with all that is in it at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// A read-only memory map. Movable, not copyable.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace unbend
