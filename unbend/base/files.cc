#include "unbend/base/files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "unbend/base/error.h"

namespace unbend {
namespace {

/// An open file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }

 private:
  int number_;
};

std::string reason() { return std::strerror(errno); }

/// Opens `path` for reading and refuses folders, which open() accepts.
int open_to_read(const std::filesystem::path& path, struct stat* status) {
  const int number = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(number >= 0, "cannot open {}: {}", path.string(), reason());
  const bool known = ::fstat(number, status) == 0;
  if (!known || S_ISDIR(status->st_mode)) {
    const std::string why = known ? "it is a folder, not a file" : reason();
    ::close(number);
    fail_input("cannot read {}: {}", path.string(), why);
  }
  return number;
}

/// Calls `take` with the contents of the open file piece by piece; works for pipes too.
template <class Take>
void read_pieces(const Descriptor& file, const std::filesystem::path& path, const Take& take) {
  constexpr std::size_t kPiece = 1 << 20;
  const auto piece = std::make_unique<char[]>(kPiece);
  while (true) {
    const ssize_t count = ::read(file.get(), piece.get(), kPiece);
    if (count < 0 && errno == EINTR) continue;
    require(count >= 0, "cannot read {}: {}", path.string(), reason());
    if (count == 0) return;
    take(std::string_view(piece.get(), static_cast<std::size_t>(count)));
  }
}

/// A running SHA-256.
class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
      fail_computation("libcrypto has no SHA-256");
    }
  }
  void add(const void* data, std::size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
  std::string hexadecimal() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
    unsigned size = 0;
    EVP_DigestFinal_ex(context_.get(), bytes.data(), &size);
    std::string text;
    for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", bytes[i]);
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

/// What a file made with the caller's permissions gets; the temporary file starts private.
mode_t default_mode() {
  const mode_t mask = ::umask(0);
  ::umask(mask);
  return 0666 & ~mask;
}

bool is_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return path.filename().empty() || std::filesystem::is_directory(path, ignored);
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : ".";
}

/// Whether writing to one path would replace what the other has: links are followed, neither needs to exist.
bool same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code error;
  if (std::filesystem::equivalent(a, b, error)) return true;
  const auto one = std::filesystem::weakly_canonical(std::filesystem::absolute(a, error), error);
  if (error) return false;
  const auto other = std::filesystem::weakly_canonical(std::filesystem::absolute(b, error), error);
  return !error && one == other;
}

/// Removes the file unless it was renamed away.
struct Temporary {
  std::string path;
  bool kept = false;
  ~Temporary() {
    if (!kept) ::unlink(path.c_str());
  }
};

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  struct stat status;
  const Descriptor file(open_to_read(path, &status));
  std::string contents;
  if (status.st_size > 0) contents.reserve(static_cast<std::size_t>(status.st_size));
  read_pieces(file, path, [&](std::string_view piece) { contents += piece; });
  return contents;
}

void check_output(const std::filesystem::path& path, const std::vector<std::filesystem::path>& others) {
  if (path.empty()) return;
  const std::filesystem::path folder = folder_of(path);
  const auto refuse = [&](const std::string& why) { fail_usage("cannot write {}: {}", path.string(), why); };
  if (is_folder(path)) refuse("it is a folder, not a file");
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    const bool odd = error && error != std::errc::no_such_file_or_directory;
    refuse(fmt::format("there is no folder {}{}", folder.string(), odd ? " (" + error.message() + ")" : ""));
  }
  if (::access(folder.c_str(), W_OK) != 0) refuse(fmt::format("the folder {} is not writable", folder.string()));
  for (const auto& other : others)
    if (!other.empty() && same_file(path, other))
      refuse(fmt::format("it is the same file as {}, which is read or written too", other.string()));
}

void check_folder(const std::filesystem::path& path) {
  if (path.empty()) return;
  const auto refuse = [&](const std::string& why) { fail_usage("cannot write in {}: {}", path.string(), why); };
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) refuse(fmt::format("it cannot be made a folder: {}", error.message()));
  // Rights say little here: root has all of them, even where no file can be made (/proc).
  Temporary probe{(path / ".probe.XXXXXX").string()};
  const int number = ::mkostemp(probe.path.data(), O_CLOEXEC);
  probe.kept = number < 0;
  if (number < 0) refuse(reason());
  const Descriptor closes(number);
}

void write_file(const std::filesystem::path& path, std::string_view contents) {
  write_file(path, std::span(&contents, 1));
}

void write_file(const std::filesystem::path& path, std::span<const std::string_view> pieces) {
  write_file(path, [&]() -> std::optional<std::string_view> {
    if (pieces.empty()) return std::nullopt;
    const std::string_view piece = pieces.front();
    pieces = pieces.subspan(1);
    return piece;
  });
}

void write_file(const std::filesystem::path& path, const std::function<std::optional<std::string_view>()>& next) {
  const auto fail = [&](const std::string& why) { fail_computation("cannot write {}: {}", path.string(), why); };
  if (is_folder(path)) fail("it is a folder, not a file");
  const std::filesystem::path folder = folder_of(path);

  Temporary temporary{(folder / fmt::format(".{}.XXXXXX", path.filename().string())).string()};
  const int number = ::mkostemp(temporary.path.data(), O_CLOEXEC);
  if (number < 0) {
    temporary.kept = true;
    fail(reason());
  }
  const Descriptor file(number);
  struct stat old;
  ::fchmod(number, ::stat(path.c_str(), &old) == 0 ? old.st_mode & 07777 : default_mode());
  while (std::optional<std::string_view> piece = next()) {
    while (!piece->empty()) {
      const ssize_t count = ::write(number, piece->data(), piece->size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(reason());
      piece->remove_prefix(static_cast<std::size_t>(count));
    }
  }
  if (::fsync(number) != 0) fail(reason());
  if (::rename(temporary.path.c_str(), path.c_str()) != 0) fail(reason());
  temporary.kept = true;

  // The rename itself must survive a crash too. Some file systems cannot sync a folder: then there is nothing more to
  // do.
  const Descriptor parent(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent.get() >= 0) ::fsync(parent.get());
}

std::string sha256(std::span<const std::byte> bytes) {
  Digest digest;
  digest.add(bytes.data(), bytes.size());
  return digest.hexadecimal();
}

std::string sha256_file(const std::filesystem::path& path) {
  struct stat status;
  const Descriptor file(open_to_read(path, &status));
  Digest digest;
  read_pieces(file, path, [&](std::string_view piece) { digest.add(piece.data(), piece.size()); });
  return digest.hexadecimal();
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  struct stat status;
  const Descriptor file(open_to_read(path, &status));
  require(S_ISREG(status.st_mode), "cannot map {}: it is not a regular file", path.string());
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // mmap refuses empty maps
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) {
    size_ = 0;
    fail_input("cannot map {}: {}", path.string(), reason());
  }
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "unbend-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) fail_computation("cannot make a temporary folder: {}", reason());
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace unbend
