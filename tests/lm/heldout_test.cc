// data/heldout_docs.safetensors can be made again from the Debian packages that it came from, byte for byte.
// UNBEND_UPDATE_DATA=1 writes the file instead of comparing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>

#include "unbend/base/files.h"
#include "unbend/base/json.h"
#include "unbend/base/subprocess.h"
#include "unbend/lm/corpus.h"

namespace unbend::lm {
namespace {

namespace fs = std::filesystem;

const fs::path kSource = UNBEND_SOURCE_DIR;
const fs::path kModel = kSource / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
const fs::path kFile = kSource / "data/heldout_docs.safetensors", kNotes = kSource / "data/heldout_docs.json";

std::vector<std::string> texts(const std::string& what) {
  const auto result = run_command({(kSource / "tools/texts.sh").string(), what, "docs"}, {.capture = true});
  std::istringstream lines(result.exit_code == 0 ? result.output : "");
  std::vector<std::string> out;
  for (std::string line; std::getline(lines, line);) out.push_back(line);
  return out;
}

// 16 windows of 2,048 tokens, then 64 of 512 that touch none of them, by chance over all documents.
FrozenWindows choose(const TokenFile& file) {
  Random random(20);
  const auto rows = [&](const std::vector<Window>& windows) {
    std::vector<std::vector<TokenId>> out;
    for (const auto& w : windows) out.emplace_back(file.ids.begin() + w.start, file.ids.begin() + w.start + w.length);
    return out;
  };
  const auto long_ones = choose_windows(file, 2048, 16, random);
  const auto short_ones = choose_windows(file, 512, 64, random, long_ones);
  return {{"docs_512", rows(short_ones)}, {"docs_2048", rows(long_ones)}};
}

TEST(Heldout, FileIsWhatItsNotesSay) {
  const auto notes = read_json(kNotes);
  EXPECT_EQ(sha256_file(kFile), notes["sha256"].get<std::string>());
  const auto windows = load_windows(kFile, tokenizer_hash(engine::Gguf::open(kModel)));
  ASSERT_EQ(windows.size(), 2);
  EXPECT_EQ(windows.at("docs_512").size(), 64);
  EXPECT_EQ(windows.at("docs_512")[0].size(), 512);
  EXPECT_EQ(windows.at("docs_2048").size(), 16);
  EXPECT_EQ(windows.at("docs_2048")[0].size(), 2048);
}

TEST(Heldout, CanBeMadeAgain) {
  auto notes = read_json(kNotes);
  const auto versions = texts("versions");
  const bool update = std::getenv("UNBEND_UPDATE_DATA") != nullptr;
  if (versions.empty()) GTEST_SKIP() << "the packages are not installed (tools/setup.sh texts)";
  if (!update && notes["packages"].get<std::vector<std::string>>() != versions)
    GTEST_SKIP() << "other versions of the packages are installed: " << testing::PrintToString(versions);

  const auto list = texts("list");
  ASSERT_GT(list.size(), 100);
  const auto hash = tokenizer_hash(engine::Gguf::open(kModel));
  const auto file = tokenize(read_texts({list.begin(), list.end()}), engine::Tokenizer::load(kModel), hash);
  const auto made = fs::temp_directory_path() / fmt::format("unbend_heldout_{}.safetensors", ::getpid());
  save_windows(made, choose(file), file.vocabulary, hash);
  const auto bytes = read_file(made), digest = sha256_file(made);
  fs::remove(made);
  if (update) {
    write_file(kFile, bytes);
    notes["sha256"] = digest;
    notes["packages"] = versions;
    notes["tokens"] = file.ids.size();
    write_json(kNotes, notes);
  }
  EXPECT_EQ(digest, notes["sha256"].get<std::string>());
  EXPECT_EQ(static_cast<std::int64_t>(file.ids.size()), notes["tokens"].get<std::int64_t>());
}

}  // namespace
}  // namespace unbend::lm
