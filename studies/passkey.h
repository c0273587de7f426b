// A passkey among fillers (lm/id_tasks.h) for studies of recipes: a small softmax teacher that finds it, students that
// are converted from it in two stages, and their accuracy beyond the length they were trained on.
#pragma once

#include <cstdint>
#include <string>

#include "unbend/lm/recipe.h"

namespace unbend {

/// Tokens of every training sequence.
inline constexpr std::int64_t kPasskeyLength = 64;

/// A decoder of 2 layers, 64 wide, 2 heads, trained from random weights on next tokens, weight 1 on the answer.
/// Computation error if it does not reach 99 % on its length.
lm::Decoder passkey_teacher(std::uint64_t seed, bool quiet);

/// A student after attention transfer (250 steps of 32 sequences) and after LoRA (rank 8, alpha 16 on q, k, v, o; 250
/// steps more), with the mean squared error of its heads to the teacher's before and after transfer.
struct PasskeyStudent {
  lm::Decoder transferred, tuned;
  double error_before = 0, error_after = 0;
};
PasskeyStudent passkey_student(const lm::Decoder& teacher, const std::string& recipe, const Json& options,
                               std::uint64_t seed, bool quiet);

/// Percent of right answers over 512 sequences of `length` tokens, equal for equal lengths.
double passkey_accuracy(const lm::Decoder& decoder, std::int64_t length);

}  // namespace unbend
