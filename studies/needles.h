// Needles in texts of bytes (niah1 to niah3 of docs/tasks.md) for studies of recipes: a softmax teacher that finds
// them, a student converted from it on texts of the same length, and how far beyond it both still do.
#pragma once

#include <cstdint>
#include <string>

#include "studies/study.h"
#include "unbend/lm/recall.h"
#include "unbend/lm/recipe.h"

namespace unbend {

/// Bytes of every training text, and digits of a number in it.
inline constexpr std::int64_t kNeedleLength = 512, kNeedleDigits = 4;

/// A task and its haystacks: for training from the training bytes of the King James Bible, for tests from the others.
struct NeedleTask {
  const lm::Task* task;
  lm::TaskText training, test;
};
NeedleTask needle_task(const std::string& name);

/// A decoder of 4 layers, 128 wide, 4 heads, trained from random weights on the answers, 64 texts a step: by 300 steps
/// of half the length until it finds nine in ten, at most 1,500, then by 100 of the whole one, at most 500.
lm::Decoder needle_teacher(const NeedleTask& task, std::uint64_t seed, const StudyOptions& study);

/// A student after attention transfer and LoRA (rank 8, alpha 16, on q, k, v, o), 600 steps of 8 texts each.
lm::Decoder needle_student(const lm::Decoder& teacher, const NeedleTask& task, const std::string& recipe,
                           std::uint64_t seed, const StudyOptions& study);

/// Percent of answers that are right as a whole, over `count` texts of `length` bytes, equal for equal arguments. The
/// needle lies `depth` (0 to 1) of the way through the haystack, or anywhere.
double needle_accuracy(const lm::Decoder& decoder, const NeedleTask& task, std::int64_t length, std::int64_t count,
                       double depth = -1);

}  // namespace unbend
