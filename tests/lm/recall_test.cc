// What all tasks share: which options they have, where their facts lie, and how much of a text they take.
#include "unbend/lm/recall.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "tests/error_message.h"
#include "tests/lm/tokenizers.h"

namespace unbend::lm {
namespace {

using testing::HasSubstr;

/// Tokens 0 .. count - 1, so that a token tells its place (the tokenizer's own ids play no part in `copy`).
TaskText counted_text(std::int64_t count) {
  auto text = task_text(*test_tokenizer("bytes"));
  text.stream.resize(count);
  std::iota(text.stream.begin(), text.stream.end(), 0);
  return text;
}

/// Where the text of each probe begins in the stream.
std::vector<TokenId> places(const std::vector<Probe>& probes, std::size_t skip) {
  std::vector<TokenId> begins;
  for (const auto& probe : probes) begins.push_back(probe.ids[skip]);
  return begins;
}

TEST(CopyTask, TakesPiecesByTheSeedThatDoNotOverlap) {
  const auto& task = find_task("copy");
  const auto text = counted_text(5000);
  const std::size_t bos = text.tokenizer.adds_bos() ? 1 : 0;
  TaskOptions options;
  options.size = 300, options.count = 8;
  const auto first = places(make_probes(task, text, options), bos);
  EXPECT_EQ(first, places(make_probes(task, text, options), bos));
  options.seed = 1;
  EXPECT_NE(first, places(make_probes(task, text, options), bos)) << "the seed decides";
  ASSERT_EQ(first.size(), 8);
  for (std::size_t i = 1; i < first.size(); ++i) EXPECT_GE(first[i], first[i - 1] + 300);
}

TEST(CopyTask, AsksNoTextTwice) {
  TaskOptions options;
  options.size = 300, options.count = 8;
  const auto probes = make_probes(find_task("copy"), counted_text(1000), options);
  ASSERT_EQ(probes.size(), 3);
  std::set<std::vector<TokenId>> distinct;
  for (const auto& probe : probes) distinct.insert(probe.ids);
  EXPECT_EQ(distinct.size(), 3);
  EXPECT_EQ(make_probes(find_task("copy"), counted_text(300), options).size(), 1);
  EXPECT_THAT(error_message([&] { make_probes(find_task("copy"), counted_text(299), options); }),
              HasSubstr("299 tokens of text are too few"));
}

TEST(Tasks, RefuseOptionsThatTheyDoNotHave) {
  const auto refused = [](const char* name, const TaskOptions& options, const std::vector<std::string>& given) {
    return error_message([&] { check_options(name ? &find_task(name) : nullptr, options, given); }, ErrorKind::Usage);
  };
  EXPECT_THAT(refused("copy", {}, {"depth"}), HasSubstr("task copy has no --depth"));
  EXPECT_THAT(refused("niah3", {}, {"depth", "digits"}), HasSubstr("niah3 has no --digits"));
  EXPECT_THAT(refused(nullptr, {}, {"pairs"}), HasSubstr("--pairs is of a --task"));
  for (const double depth : {-7., -.5, 1.5, static_cast<double>(NAN)}) {
    EXPECT_THAT(refused("niah1", {.depth = depth}, {"depth"}), HasSubstr("expected 0 to 1, or -1"));
    EXPECT_THAT(
        error_message([&] { make_probes(find_task("niah1"), task_text(*test_tokenizer("bytes")), {.depth = depth}); }),
        HasSubstr("expected 0 to 1, or -1"));
  }
  check_options(&find_task("niah1"), {.depth = 1, .digits = 5}, {"depth", "digits"});
  check_options(&find_task("mqar-ids"), {.pairs = 2}, {"pairs"});
  check_options(nullptr, {}, {});
  EXPECT_THROW(make_probes(find_task("passkey"), task_text(*test_tokenizer("bytes")), {.size = -5}), Error);
}

TEST(Tasks, AskForWhatAWindowHasLost) {
  EXPECT_EQ(size_beyond(find_task("copy"), 256, 8192, 257), 512);
  EXPECT_EQ(size_beyond(find_task("copy"), 0, 8192, 257), 512) << "its own";
  EXPECT_EQ(size_beyond(find_task("passkey"), 64, 8192, 257), 1024) << "its own is longer";
  EXPECT_EQ(size_beyond(find_task("passkey"), 512, 8192, 257), 2048);
  EXPECT_EQ(size_beyond(find_task("passkey"), 512, 1500, 257), 1500) << "the context";
  EXPECT_EQ(size_beyond(find_task("passkey"), 512, 0, 257), 2048) << "without a context";
  EXPECT_EQ(size_beyond(find_task("recall-ids"), 64, 4096, 257), 256);
  EXPECT_EQ(size_beyond(find_task("mqar-ids"), 256, 4096, 257), 256) << "fewer tokens than ids, in pairs";
  TaskOptions options;
  options.size = size_beyond(find_task("mqar-ids"), 256, 4096, 257);
  EXPECT_FALSE(make_probes(find_task("mqar-ids"), task_text(*test_tokenizer("bytes")), options).empty());
}

TEST(Tasks, KnowWhereTheirFactsLie) {
  const auto text = task_text(*test_tokenizer("bytes"), at::randint(97, 123, {1, 20000}, at::kLong));
  for (const char* name :
       {"copy", "codes", "mqar", "passkey", "niah1", "niah2", "niah3", "recall-ids", "passkey-ids"}) {
    SCOPED_TRACE(name);
    for (const auto& probe : make_probes(find_task(name), text, {.count = 5}))
      for (const auto& q : probe.questions) {
        ASSERT_TRUE(q.told >= 0 && q.told <= q.position);
        const bool whole = std::string_view(name) == "passkey" || std::string_view(name).starts_with("niah");
        if (whole) {  // the end of the number or UUID
          EXPECT_EQ(probe.ids[q.told], probe.questions.back().token);
        } else {
          EXPECT_EQ(probe.ids[q.told], q.token);
        }
      }
  }
  for (const auto& probe : make_probes(find_task("mqar-ids"), text, {.count = 5}))
    for (const auto& q : probe.questions) EXPECT_EQ(probe.ids[q.told], q.token);

  const auto passkey = [&](double depth, std::int64_t window) {
    return share_within(make_probes(find_task("passkey"), text, {.count = 5, .depth = depth}), window);
  };
  EXPECT_EQ(passkey(0, 256), 0.);
  EXPECT_EQ(passkey(1, 256), 1.);
  EXPECT_EQ(passkey(0, 1024), 1.);
  EXPECT_NEAR(*passkey(-1, 200), .2, 1e-9) << "one of the depths 0, .25, .5, .75 and 1 of a thousand tokens";
  EXPECT_EQ(share_within(make_probes(find_task("copy"), text, {.size = 512, .count = 2}), 256), 0.);
  EXPECT_EQ(share_within(make_probes(find_task("recall-ids"), text, {.count = 2}), 64), 1.);
  EXPECT_FALSE(share_within(make_probes(find_task("qa1"), text, {.count = 2}), 64).has_value());
}

}  // namespace
}  // namespace unbend::lm
