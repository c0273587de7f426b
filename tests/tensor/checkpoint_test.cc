#include "unbend/tensor/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/random.h"
#include "unbend/tensor/safetensors.h"

namespace unbend {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public testing::Test {
 protected:
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_)) found.push_back(entry.path().filename().string());
    std::ranges::sort(found);
    return found;
  }

  const fs::path folder_ = fs::temp_directory_path() / fmt::format("unbend_checkpoint_{}", ::getpid()) / "deep";
};

TEST_F(CheckpointTest, EverythingComesBackExactly) {
  Random random(7);
  for (int i = 0; i < 5; ++i) random.normal();
  Checkpoint saved{{{"w", at::randn({3, 4})}, {"n", at::arange(5)}},
                   {{"loss", 0.1 + 0.2}, {"random", random.state()}, {"step", std::int64_t{1} << 60}}};
  const auto file = save_checkpoint(folder_, 12, saved);
  EXPECT_EQ(file.filename(), "step-0000000012.safetensors");
  const auto back = load_checkpoint(file);
  EXPECT_EQ(back.state, saved.state);
  EXPECT_EQ(back.state["loss"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(Random(back.state["random"].get<Random::State>()).bits(), random.bits());
  EXPECT_TRUE(back.tensors.at("w").equal(saved.tensors.at("w")));
}

TEST_F(CheckpointTest, KeepsTheNewestAndCleansUp) {
  EXPECT_FALSE(latest_checkpoint(folder_));
  save_checkpoint(folder_, 1, {});
  write_file(folder_ / ".step-0000000009.safetensors.AbCdEf", "half of a fi");
  write_file(folder_ / "notes.txt", "not ours");
  for (const int step : {2, 10, 100}) save_checkpoint(folder_, step, {}, 2);
  EXPECT_THAT(names(), testing::ElementsAre("notes.txt", "step-0000000010.safetensors", "step-0000000100.safetensors"));
  EXPECT_EQ(latest_checkpoint(folder_)->filename(), "step-0000000100.safetensors");
  // A run that starts again from an older step must not lose what it just wrote.
  const auto older = save_checkpoint(folder_, 5, {}, 1);
  EXPECT_TRUE(fs::exists(older));
}

TEST_F(CheckpointTest, DamagedFilesAreSkippedAndRefused) {
  save_checkpoint(folder_, 1, {{{"w", at::ones({100})}}, {{"step", 1}}});
  const auto newest = save_checkpoint(folder_, 2, {{{"w", at::ones({100})}}, {{"step", 2}}});
  fs::resize_file(newest, fs::file_size(newest) - 1);
  testing::internal::CaptureStderr();
  EXPECT_EQ(load_checkpoint(*latest_checkpoint(folder_)).state["step"], 1);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("skipped: " + newest.string()));
  EXPECT_THROW(load_checkpoint(newest), Error);
  const auto oldest = folder_ / "step-0000000001.safetensors";
  fs::resize_file(oldest, 0);
  testing::internal::CaptureStderr();
  EXPECT_FALSE(latest_checkpoint(folder_)) << "nothing whole is left";
  const auto said = testing::internal::GetCapturedStderr();
  for (const auto& file : {newest, oldest}) EXPECT_THAT(said, testing::HasSubstr(file.string()));
  save_safetensors(folder_ / "other.safetensors", {{"w", at::ones({1})}});
  EXPECT_THROW(load_checkpoint(folder_ / "other.safetensors"), Error);
}

TEST_F(CheckpointTest, KilledAtAnyMomentLeavesAUsableOne) {
  const std::int64_t size = 1 << 18;
  save_checkpoint(folder_, 0, {{{"w", at::full({size}, 0.0f)}}, {{"step", 0}}});
  Random random(3);
  for (int round = 0; round < 8; ++round) {
    const auto start = load_checkpoint(*latest_checkpoint(folder_)).state["step"].get<std::int64_t>();
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (auto step = start + 1;; ++step) {
        const std::vector<float> data(size, static_cast<float>(step));
        save_checkpoint(folder_, step,
                        {{{"w", at::from_blob(const_cast<float*>(data.data()), {size})}}, {{"step", step}}}, 1);
      }
    }
    ::usleep(static_cast<useconds_t>(5000 + random.below(30'000)));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const auto latest = latest_checkpoint(folder_);
    ASSERT_TRUE(latest);
    const auto back = load_checkpoint(*latest);
    EXPECT_GE(back.state["step"].get<std::int64_t>(), start);
    EXPECT_TRUE(back.tensors.at("w").eq(back.state["step"].get<double>()).all().item<bool>());
  }
  save_checkpoint(folder_, 1'000'000, {}, 1);
  EXPECT_THAT(names(), testing::ElementsAre("step-0001000000.safetensors"));
}

TEST(TensorNames, PrefixesGoOnAndOff) {
  std::map<std::string, at::Tensor> all{{"a", at::ones({1})}};
  add_under(all, "optimizer.", {{"x", at::ones({2})}, {"y", at::ones({3})}});
  EXPECT_EQ(all.size(), 3);
  const auto back = tensors_under(all, "optimizer.");
  ASSERT_EQ(back.size(), 2);
  EXPECT_EQ(back.at("y").numel(), 3);
  EXPECT_TRUE(tensors_under(all, "z").empty());
}

}  // namespace
}  // namespace unbend
