// Training within studies.
#pragma once

#include <string>
#include <vector>

#include "unbend/lm/distill.h"

namespace unbend {

/// lm::train() of one stage, nothing kept. (Studies do not catch signals: half-trained models give no results.)
lm::TrainReport train_in_study(const lm::Decoder& teacher, lm::Decoder& student, const lm::Stage& stage,
                               lm::BatchSource& source, const std::vector<std::string>& also, bool quiet);

}  // namespace unbend
