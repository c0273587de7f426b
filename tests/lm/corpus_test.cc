#include "unbend/lm/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/lm/batch_source.h"

namespace unbend::lm {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

const fs::path kModel = UNBEND_SOURCE_DIR "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";

// Documents of these lengths; ids count up from 0 over the whole file, so that an id tells its place.
std::shared_ptr<TokenFile> counting_file(const std::vector<std::int64_t>& lengths) {
  auto file = std::make_shared<TokenFile>();
  for (const auto length : lengths) {
    file->starts.push_back(file->starts.back() + length);
    file->sources.push_back({fmt::format("document {}", file->sources.size()), "00"});
  }
  file->ids.resize(file->starts.back());
  std::iota(file->ids.begin(), file->ids.end(), 0);
  file->vocabulary = static_cast<int>(file->ids.size()) + 1;
  file->tokenizer = "abc";
  return file;
}

std::int64_t document_of(const TokenFile& file, TokenId id) {
  return std::ranges::upper_bound(file.starts, id) - file.starts.begin() - 1;
}

class Folder : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  const fs::path folder_ = fs::temp_directory_path() / fmt::format("unbend_corpus_{}", ::getpid());
};

class TokenFiles : public Folder {};
class Windows : public Folder {};

TEST_F(TokenFiles, ComeBackWithEqualBytes) {
  for (const int vocabulary : {100, 1 << 16, 100'000}) {
    auto file = *counting_file({5, 1, 40});
    file.vocabulary = vocabulary;
    file.ids[3] = vocabulary - 1;
    save_tokens(folder_ / "t", file);
    const auto back = load_tokens(folder_ / "t", "abc");
    EXPECT_EQ(back.ids, file.ids);
    EXPECT_EQ(back.starts, file.starts);
    EXPECT_EQ(back.sources, file.sources);
    EXPECT_EQ(back.vocabulary, vocabulary);
    const auto bytes = read_file(folder_ / "t");
    save_tokens(folder_ / "t", back);
    EXPECT_EQ(read_file(folder_ / "t"), bytes);
  }
}

TEST_F(TokenFiles, BadOnesAreRefused) {
  const auto path = folder_ / "t";
  auto file = *counting_file({5, 6});
  save_tokens(path, file);
  EXPECT_THAT(error_message([&] { load_tokens(path, "other"); }), HasSubstr("another tokenizer"));
  file.ids[2] = file.vocabulary;
  EXPECT_THAT(error_message([&] { save_tokens(path, file); }), HasSubstr("not in the vocabulary"));
  file.ids[2] = 0;
  for (const auto& starts : {std::vector<std::int64_t>{0, 5, 5, 11}, {1, 5, 11}, {0, 5, 12}, {}}) {
    file.starts = starts;
    save_tokens(path, file);
    EXPECT_THAT(error_message([&] { load_tokens(path); }), HasSubstr("'starts' does not rise"));
  }
  file = *counting_file({5, 6});
  file.sources.pop_back();
  save_tokens(path, file);
  EXPECT_THAT(error_message([&] { load_tokens(path); }), HasSubstr("1 sources for 2 documents"));
  save_windows(path, {{"w", {{1, 2}}}}, 10, "abc");
  EXPECT_THAT(error_message([&] { load_tokens(path); }), HasSubstr("not a file of format"));
  write_file(path, "text");
  EXPECT_THAT(error_message([&] { load_tokens(path); }), HasSubstr(path.string()));
}

TEST_F(TokenFiles, MadeFromTexts) {
  fs::create_directories(folder_ / "in");
  write_file(folder_ / "in" / "1.txt", "The quick brown fox.\n");
  write_file(folder_ / "in" / "2.html", "<p>Caf&eacute;</p>");
  const auto made = make_token_file({folder_ / "in"}, kModel, folder_ / "t", true);
  const auto file = load_tokens(folder_ / "t", tokenizer_hash(engine::Gguf::open(kModel)));
  EXPECT_EQ(file.ids, made.ids);
  ASSERT_EQ(file.documents(), 2);
  const auto tokenizer = engine::Tokenizer::load(kModel);
  EXPECT_EQ(file.vocabulary, tokenizer.size());
  EXPECT_EQ(tokenizer.decode(std::span(file.ids).first(file.starts[1])), "The quick brown fox.");
  EXPECT_EQ(tokenizer.decode(std::span(file.ids).subspan(file.starts[1])), "Caf\xc3\xa9");
  EXPECT_EQ(file.sources[0].sha256, sha256(std::as_bytes(std::span(std::string_view("The quick brown fox.")))));
  EXPECT_THAT(error_message([&] { make_token_file({folder_ / "in"}, folder_ / "t", folder_ / "u", true); }),
              HasSubstr((folder_ / "t").string()));
}

TEST_F(TokenFiles, TailsSplitOff) {
  const auto file = counting_file({10, 10, 10});
  const auto [head, tail] = split_tail(*file, 0.5);
  EXPECT_THAT(head.starts, testing::ElementsAre(0, 10, 15));
  EXPECT_THAT(tail.starts, testing::ElementsAre(0, 5, 15));
  EXPECT_EQ(head.sources[1].name, "document 1");
  EXPECT_EQ(tail.sources[0].name, "document 1");
  EXPECT_EQ(head.ids.back() + 1, tail.ids.front());
  EXPECT_THAT(split_tail(*file, 1.0 / 3).second.starts, testing::ElementsAre(0, 10));
  EXPECT_THROW(split_tail(*file, 1), Error);
}

TEST_F(Windows, StayInsideDocuments) {
  const auto file = counting_file({10, 3, 9});
  EXPECT_THAT(full_windows(*file, 4), testing::ElementsAre(Window{0, 4}, Window{4, 4}, Window{13, 4}, Window{17, 4}));
  Random random(1);
  const auto chosen = choose_windows(*file, 4, 2, random);
  EXPECT_EQ(chosen.size(), 2);
  const auto rest = choose_windows(*file, 2, 4, random, chosen);
  for (const auto& a : chosen)
    for (const auto& b : rest) EXPECT_TRUE(b.start + b.length <= a.start || a.start + a.length <= b.start);
  EXPECT_THROW(choose_windows(*file, 4, 5, random), Error);
}

TEST_F(Windows, AreSaved) {
  const FrozenWindows windows{{"a", {{1, 2, 3}, {4, 5, 6}}}, {"b", {{7}}}};
  for (const int vocabulary : {8, 1 << 20}) {
    save_windows(folder_ / "w", windows, vocabulary, "abc");
    EXPECT_EQ(load_windows(folder_ / "w", "abc"), windows);
  }
  EXPECT_THROW(load_windows(folder_ / "w", "abd"), Error);
  EXPECT_THROW(save_windows(folder_ / "w", windows, 7, "abc"), Error);
  EXPECT_THROW(save_windows(folder_ / "w", {{"a", {{1, 2}, {3}}}}, 8, "abc"), Error);
}

TEST(TokenBatches, EveryTargetOnceNothingLeaks) {
  Random random(9);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::int64_t> lengths;
    for (auto n = 1 + random.below(12); n > 0; --n) lengths.push_back(1 + random.below(200));
    lengths.push_back(60);
    const auto file = counting_file(lengths);
    const auto bos = round % 2 ? file->vocabulary - 1 : -1;
    const BatchOptions options{.length = 2 + static_cast<std::int64_t>(random.below(60)),
                               .rows = 1 + static_cast<std::int64_t>(random.below(5)),
                               .least = 1 + static_cast<std::int64_t>(random.below(20)),
                               .bos = bos,
                               .seed = 3};
    TokenBatches batches(file, options);
    std::set<TokenId> learned;
    std::int64_t positions = 0, rows = 0;
    for (std::int64_t i = 0; i < batches.stats().batches; ++i) {
      const auto batch = batches.next();
      ASSERT_LE(batch.length, options.length);
      ASSERT_LE(batch.rows, options.rows);
      positions += batch.rows * batch.length;
      rows += batch.rows;
      for (std::int64_t row = 0; row < batch.rows; ++row) {
        const auto at = row * batch.length, lead = std::int64_t{bos >= 0};
        ASSERT_TRUE(!lead || (batch.ids[at] == bos && batch.targets[at] == -1));
        const auto first = batch.ids[at + lead];
        for (std::int64_t t = lead; t < batch.length; ++t) {
          const auto id = batch.ids[at + t], target = batch.targets[at + t];
          if (target < 0) continue;
          ASSERT_EQ(id, first + t - lead) << "context is contiguous";
          ASSERT_EQ(target, id + 1);
          ASSERT_EQ(document_of(*file, target), document_of(*file, first)) << "one document per sequence";
          ASSERT_TRUE(learned.insert(target).second) << "each target once";
        }
      }
    }
    const auto& stats = batches.stats();
    EXPECT_EQ(positions, stats.positions);
    EXPECT_EQ(rows, stats.sequences);
    EXPECT_EQ(static_cast<std::int64_t>(learned.size()), stats.targets);
    // Every token is learned, dropped, or the first of a document that has something to learn.
    const auto space = options.length - (bos >= 0);
    std::int64_t firsts = 0;
    for (const auto length : lengths) firsts += length - 1 >= std::min(space, options.least);
    EXPECT_EQ(stats.targets + stats.dropped + firsts, file->starts.back());
    EXPECT_EQ(batches.position().epoch, 1);
  }
}

TEST(TokenBatches, LongDocumentsNeedNoPadding) {
  const auto file = counting_file({1000, 700, 513, 514});
  TokenBatches batches(file, {.length = 256, .rows = 3});
  for (std::int64_t i = 0; i < batches.stats().batches; ++i) {
    const auto batch = batches.next();
    EXPECT_EQ(batch.length, 256);
    for (std::int64_t row = 0; row < batch.rows; ++row) EXPECT_GE(batch.targets[(row + 1) * 256 - 1], 0);
  }
  EXPECT_EQ(batches.stats().dropped, 1);  // the 514th token of the last document is a tail of one
}

TEST(TokenBatches, EpochsDifferAndPositionsRestore) {
  const auto file = counting_file({300, 20, 500, 45, 44, 43});
  const BatchOptions options{.length = 32, .rows = 2, .least = 4, .seed = 5};
  TokenBatches whole(file, options), other(file, {.length = 32, .rows = 2, .least = 4, .seed = 6});
  const auto epoch = whole.stats().batches;
  std::vector<std::vector<TokenId>> seen;
  std::vector<TokenBatches::Position> positions;
  for (std::int64_t i = 0; i < 3 * epoch; ++i) {
    positions.push_back(whole.position());
    seen.push_back(whole.next().ids);
  }
  EXPECT_FALSE(std::equal(seen.begin(), seen.begin() + epoch, seen.begin() + epoch));
  int equal = 0;
  for (std::int64_t i = 0; i < epoch; ++i) equal += other.next().ids == seen[i];
  EXPECT_LT(equal, epoch / 2) << "another seed";
  for (const auto i : {std::int64_t{0}, epoch - 1, epoch, 2 * epoch + 3}) {
    TokenBatches resumed(file, options);
    resumed.seek(positions[i]);
    for (auto k = i; k < 3 * epoch; ++k) ASSERT_EQ(resumed.next().ids, seen[k]) << i << " " << k;
  }
  EXPECT_THROW(whole.seek({0, epoch}), Error);
  EXPECT_THROW(whole.seek({-1, 0}), Error);
}

TEST(TokenBatches, AsASourceOfTensorsThatResumes) {
  const auto file = counting_file({300, 20, 500});
  const BatchOptions options{.length = 32, .rows = 2, .least = 4};
  const auto source = batch_source(file, options), other = batch_source(file, options);
  TokenBatches plain(file, options);
  for (int i = 0; i < 30; ++i) plain.next(), source->next();
  other->restore(Json::parse(source->state().dump()));
  for (int i = 0; i < 5; ++i) {
    const auto expected = plain.next();
    const auto batch = source->next(), again = other->next();
    EXPECT_EQ(batch.ids.sizes(), (at::IntArrayRef{expected.rows, expected.length}));
    EXPECT_TRUE(batch.ids.flatten().eq(at::tensor(expected.ids)).all().item<bool>());
    EXPECT_TRUE(batch.targets.flatten().eq(at::tensor(expected.targets)).all().item<bool>());
    EXPECT_TRUE(batch.ids.equal(again.ids));
  }
  EXPECT_TRUE(window_tensor(*file, {{3, 2}, {301, 2}}).equal(at::tensor({3, 4, 301, 302}, at::kLong).reshape({2, 2})));
}

TEST(SpreadRows, ASampleIsSpreadOverAll) {
  const auto all = at::arange(14, at::kLong).reshape({7, 2});
  EXPECT_TRUE(spread_rows(all, 3).equal(at::tensor({0, 1, 4, 5, 8, 9}, at::kLong).reshape({3, 2})));
  EXPECT_TRUE(spread_rows(all, 7).equal(all));
  EXPECT_TRUE(spread_rows(all, 40).equal(all));
}

TEST(TokenBatches, NothingToLearnIsRefused) {
  EXPECT_THROW(TokenBatches(counting_file({10, 20}), {.length = 512, .least = 32}), Error);
  EXPECT_THROW(TokenBatches(counting_file({10, 20}), {.length = 1, .least = 1}), Error);
  EXPECT_THROW(TokenBatches(counting_file({100}), {.bos = 5000}), Error);
}

}  // namespace
}  // namespace unbend::lm
