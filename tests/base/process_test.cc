// Progress, interrupts and subprocesses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"
#include "unbend/base/subprocess.h"

namespace unbend {
namespace {

TEST(Format, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(850), "850");
  EXPECT_EQ(format_count(0.25), "0.2");
  EXPECT_EQ(format_count(999.6), "1000");
  EXPECT_EQ(format_count(12'345), "12.3K");
  EXPECT_EQ(format_count(123'456), "123K");
  EXPECT_EQ(format_count(999'960), "1.0M");
  EXPECT_EQ(format_count(4'100'000), "4.1M");
  EXPECT_EQ(format_count(-2e9), "-2.0G");
}

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(0.04), "0.0s");
  EXPECT_EQ(format_duration(9.96), "10s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m 00s");
  EXPECT_EQ(format_duration(65), "1m 05s");
  EXPECT_EQ(format_duration(7800), "2h 10m");
  EXPECT_EQ(format_duration(7199.9), "2h 00m");
}

TEST(Progress, EndsWithOnePlainLineWhenNotOnATerminal) {
  testing::internal::CaptureStderr();
  {
    Progress progress("distil", 4000, "tokens");
    progress.update(0);
    progress.update(1000, "loss 2.5");
    progress.update(4000);
    progress.finish("loss 2.1");
    progress.finish("again");
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, testing::StartsWith("distil: 4.0K/4.0K tokens, "));
  EXPECT_THAT(text, testing::EndsWith(", loss 2.1\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("\x1b")));
}

TEST(Progress, QuietShowsNothing) {
  testing::internal::CaptureStderr();
  Progress("x", 0, "steps", true).update(3);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Interrupt, FirstSignalSetsTheFlagAndTheSecondEndsTheProcess) {
  EXPECT_EXIT(
      {
        catch_interrupts();
        if (interrupted()) std::exit(1);
        std::raise(SIGINT);
        if (!interrupted()) std::exit(2);
        std::raise(SIGINT);
        std::exit(3);
      },
      testing::KilledBySignal(SIGINT), "");
  EXPECT_EXIT(
      {
        catch_interrupts();
        std::raise(SIGTERM);
        std::exit(interrupted() ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Command, PassesArgumentsAsTheyAreAndCapturesBothStreams) {
  const CommandResult result = run_command(
      {"sh", "-c", "printf '%s|' \"$@\"; echo bad >&2; exit 7", "sh", "a b", "$HOME;`id`", ""}, {.capture = true});
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_EQ(result.output, "a b|$HOME;`id`||");
  EXPECT_EQ(result.errors, "bad\n");
}

TEST(Command, DrainsBothStreamsInTurns) {
  const CommandResult result =
      run_command({"sh", "-c", "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"},
                  {.capture = true});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output.size(), 300'000u);
  EXPECT_EQ(result.errors.size(), 600'000u);
}

TEST(Command, EnvironmentSignalsAndMissingPrograms) {
  EXPECT_EQ(
      run_command({"sh", "-c", "echo $PATH-$UNBEND_X"}, {.capture = true, .environment = {"PATH=p", "UNBEND_X=1"}})
          .output,
      "p-1\n");
  EXPECT_EQ(run_command({"sh", "-c", "kill -9 $$"}).exit_code, 128 + 9);
  EXPECT_THROW(run_command({"unbend-no-such-program"}), Error);
  EXPECT_THROW(run_command({}), Error);
}

}  // namespace
}  // namespace unbend
