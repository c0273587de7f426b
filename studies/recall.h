// The recall task for studies of recipes: a small softmax teacher that can do it, students that are converted from it,
// and what tells memory from guessing. Task, recipe and figures: unbend/lm/tasks.h and shared/evidence.md, section 3.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "studies/study.h"
#include "unbend/lm/recipe.h"

namespace unbend {

/// Window of every student: 8 pairs and 32 fillers put each answer out of reach of two layers of it.
inline constexpr std::int64_t kRecallWindow = 16;

/// A decoder of 2 layers, 64 wide, 2 heads, trained from random weights for 600 steps of 64 sequences: 4 pairs without
/// fillers, then 8 pairs with 32. Computation error if it is interrupted.
lm::Decoder recall_teacher(std::uint64_t seed, const StudyOptions& study);

/// What of a student trains beside its mixers.
enum class RecallTraining {
  Lora,  ///< rank 16 on q, k and v, and the whole output projection
  Full,  ///< every weight
};

/// Converts the teacher by `recipe` with `options` (LoRA's are set here, the window if it has one and it is not given),
/// then trains it
/// on the answers for 400 steps of 64 sequences whose fillers grow from 0 to 32 over the first half.
lm::Student recall_student(const lm::Decoder& teacher, const std::string& recipe, Json options, RecallTraining training,
                           std::uint64_t seed, const StudyOptions& study);

/// Percent of right answers at each of the 8 queries, over 2,048 sequences that are equal for equal `fillers`.
struct RecallAccuracy {
  std::vector<double> at_query;
  double mean() const;
  double lowest() const;
};
RecallAccuracy recall_accuracy(const lm::Decoder& decoder, std::int64_t fillers = 32);

/// Largest absolute change of any logit at a query when every stored value is replaced: 0 without a way back to the
/// pairs.
double stored_value_effect(const lm::Decoder& decoder);

/// Largest absolute difference of any logit between the chunked form of a forward pass over 8 pairs and 64 fillers (96
/// tokens, so that the state crosses a border of chunks) and, in turn, its recurrent form, and pieces of 61, 7, 1, 1,
/// ... tokens given to extend().
double streaming_error(const lm::Decoder& decoder);

}  // namespace unbend
