#include "unbend/base/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <thread>

#include "unbend/base/error.h"

namespace unbend {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

class Files : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "unbend-files-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::size_t count() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  fs::path folder_;
};

template <class Call>
Error error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no Error was thrown";
  return {ErrorKind::Usage, ""};
}

TEST_F(Files, ReadsBackWhatWasWritten) {
  std::string contents(3'000'000, 'x');
  contents[5] = '\0';
  write_file(folder_ / "a", contents);
  EXPECT_EQ(read_file(folder_ / "a"), contents);
  write_file(folder_ / "a", "short");
  EXPECT_EQ(read_file(folder_ / "a"), "short");
  write_file(folder_ / "a", "");
  EXPECT_EQ(read_file(folder_ / "a"), "");
  EXPECT_EQ(count(), 1u) << "temporary files were left";
}

TEST_F(Files, WritingKeepsTheModeAndHonoursTheMask) {
  const fs::path path = folder_ / "a";
  const mode_t mask = ::umask(027);
  write_file(path, "1");
  ::umask(mask);
  struct stat status;
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
  ::chmod(path.c_str(), 0600);
  write_file(path, "2");
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(Files, ErrorsNameThePathAndTheReason) {
  const Error missing = error_of([&] { read_file(folder_ / "none"); });
  EXPECT_EQ(missing.kind(), ErrorKind::Input);
  EXPECT_THAT(missing.what(), HasSubstr((folder_ / "none").string()));
  EXPECT_THAT(missing.what(), HasSubstr("No such file"));
  EXPECT_THAT(error_of([&] { read_file(folder_); }).what(), HasSubstr("folder"));
  EXPECT_THAT(error_of([&] { MappedFile{folder_}; }).what(), HasSubstr("folder"));
  EXPECT_THAT(error_of([&] { sha256_file(folder_ / "none"); }).what(), HasSubstr("No such file"));
  const Error unwritable = error_of([&] { write_file(folder_ / "no" / "such", "x"); });
  EXPECT_EQ(unwritable.kind(), ErrorKind::Computation);
  EXPECT_THAT(unwritable.what(), HasSubstr("such"));
  EXPECT_EQ(error_of([&] { write_file(folder_, "x"); }).kind(), ErrorKind::Computation);
}

TEST_F(Files, OutputsAreCheckedBeforeTheWork) {
  check_output("");  // no file is asked for
  check_output("a");
  check_output(folder_ / "a");
  EXPECT_EQ(count(), 0u);
  for (const fs::path& path : {folder_, folder_ / "", folder_ / "no" / "such", fs::path("no-such-folder/a"),
                               fs::path(std::string(300, 'x')) / "a"})
    EXPECT_EQ(error_of([&] { check_output(path); }).kind(), ErrorKind::Usage) << path;
  EXPECT_THAT(error_of([&] { check_output(folder_ / "no" / "such"); }).what(), HasSubstr("there is no folder"));
}

TEST_F(Files, OutputsMustNotReplaceInputsOrEachOther) {
  const fs::path input = folder_ / "in", other = folder_ / "other";
  write_file(input, "x");
  fs::create_symlink("in", folder_ / "link");
  check_output(other, {input, ""});
  check_output("", {input, ""});
  check_output("a", {"b"});
  const auto refusal = [](const fs::path& path, const fs::path& taken) {
    const Error error = error_of([&] { check_output(path, {"", taken}); });
    EXPECT_EQ(error.kind(), ErrorKind::Usage) << path;
    return std::string(error.what());
  };
  EXPECT_THAT(refusal(input, input), HasSubstr("the same file as " + input.string()));
  refusal(folder_ / "link", input);
  refusal(folder_ / "." / "in", input);
  refusal(other, folder_ / ".." / folder_.filename() / "other");  // neither is there yet
  refusal("a", "./a");
  refusal("a", fs::current_path() / "a");
}

TEST_F(Files, FoldersForOutputsAreTriedBeforeTheWork) {
  check_folder("");
  check_folder(folder_ / "new" / "deep");
  check_folder(folder_ / "new" / "deep" / "");
  EXPECT_TRUE(fs::is_empty(folder_ / "new" / "deep"));
  write_file(folder_ / "file", "x");
  for (const fs::path& path :
       {folder_ / "file", folder_ / "file" / "below", fs::path("/proc/foo"), fs::path("/proc")}) {
    const Error error = error_of([&] { check_folder(path); });
    EXPECT_EQ(error.kind(), ErrorKind::Usage) << path;
    EXPECT_THAT(error.what(), HasSubstr("cannot write in " + path.string()));
  }
}

TEST_F(Files, FailedWriteLeavesTheOldContentsAndNoTemporary) {
  const fs::path path = folder_ / "a";
  write_file(path, "old");
  // A limit on file size stands in for a full disk.
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const struct rlimit small { 1000, before.rlim_max };
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const Error error = error_of([&] { write_file(path, std::string(100'000, 'y')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(error.kind(), ErrorKind::Computation);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count(), 1u);
}

TEST_F(Files, ReadersNeverSeeAHalf) {
  const fs::path path = folder_ / "a";
  write_file(path, std::string(100'000, '0'));
  std::thread writer([&] {
    for (int i = 1; i <= 20; ++i) write_file(path, std::string(100'000, static_cast<char>('0' + i % 10)));
  });
  for (int i = 0; i < 200; ++i) {
    const std::string seen = read_file(path);
    ASSERT_EQ(seen.size(), 100'000u);
    ASSERT_EQ(seen.find_first_not_of(seen[0]), std::string::npos);
  }
  writer.join();
}

TEST_F(Files, Sha256KnownAnswers) {  // FIPS 180-4 examples
  EXPECT_EQ(sha256({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256(bytes_of("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string million(1'000'000, 'a');
  write_file(folder_ / "a", million);
  EXPECT_EQ(sha256_file(folder_ / "a"), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(sha256_file(folder_ / "a"), sha256(bytes_of(million)));
}

TEST_F(Files, MapsAndMoves) {
  write_file(folder_ / "a", "hello");
  write_file(folder_ / "empty", "");
  MappedFile map(folder_ / "a");
  ASSERT_EQ(map.bytes().size(), 5u);
  EXPECT_EQ(std::memcmp(map.bytes().data(), "hello", 5), 0);
  MappedFile moved(std::move(map));
  EXPECT_EQ(moved.bytes().size(), 5u);
  MappedFile empty(folder_ / "empty");
  EXPECT_TRUE(empty.bytes().empty());
  empty = std::move(moved);
  EXPECT_EQ(std::memcmp(empty.bytes().data(), "hello", 5), 0);
}

}  // namespace
}  // namespace unbend
