// Training within studies.
#pragma once

#include <string>
#include <vector>

#include "studies/study.h"
#include "unbend/lm/distill.h"

namespace unbend {

/// Silence and checkpoints as the study's options ask for, which keep the next of its trainings.
lm::TrainOptions training_options(const StudyOptions& study);

/// lm::train() of one stage. (Studies do not catch signals: half-trained models give no results.)
lm::TrainReport train_in_study(const lm::Decoder& teacher, lm::Decoder& student, const lm::Stage& stage,
                               lm::BatchSource& source, const std::vector<std::string>& also,
                               const StudyOptions& study);

}  // namespace unbend
