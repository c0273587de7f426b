// Training within studies.
#pragma once

#include <string>
#include <vector>

#include "unbend/lm/distill.h"

namespace unbend {

/// lm::train() of one stage and nothing kept. Computation error if Ctrl-C ends it: a study with half-trained models has
/// no results.
lm::TrainReport train_in_study(const lm::Decoder& teacher, lm::Decoder& student, const lm::Stage& stage,
                               lm::BatchSource& source, const std::vector<std::string>& also, bool quiet);

}  // namespace unbend
