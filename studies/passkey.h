// A passkey among fillers (lm/id_tasks.h) for studies of recipes: a small softmax teacher that finds it, students that
// are converted from it in two stages, and their accuracy beyond the length they were trained on.
#pragma once

#include <cstdint>
#include <string>

#include "studies/study.h"
#include "unbend/lm/recipe.h"

namespace unbend {

/// Tokens of every training sequence.
inline constexpr std::int64_t kPasskeyLength = 64;

/// A decoder of 2 layers, 64 wide, 2 heads, trained from random weights on the answers. Several needles are learned one
/// after the other: one for 300 steps, two for 1,000, then all until it is right, for at most 8,000. Computation error
/// if it does not reach 99 % on its length.
lm::Decoder passkey_teacher(std::uint64_t seed, const StudyOptions& study, std::int64_t needles = 1);

/// A student after attention transfer (250 steps of 32 sequences; 600 for several needles) and after LoRA (rank 8,
/// alpha 16 on q, k, v, o; as many steps more), with the mean squared error of its heads to the teacher's before and
/// after transfer.
struct PasskeyStudent {
  lm::Decoder transferred, tuned;
  double error_before = 0, error_after = 0;
};
PasskeyStudent passkey_student(const lm::Decoder& teacher, const std::string& recipe, const Json& options,
                               std::uint64_t seed, const StudyOptions& study, std::int64_t needles = 1);

/// 32 sequences [32, length] to look at mixers on.
at::Tensor passkey_sequences(std::int64_t length, std::int64_t needles);

/// Percent of right answers over 512 sequences of `length` tokens, equal for equal lengths and needles.
double passkey_accuracy(const lm::Decoder& decoder, std::int64_t length, std::int64_t needles = 1);

}  // namespace unbend
