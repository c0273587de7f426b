#include "studies/training.h"

#include "studies/kept.h"

namespace unbend {

lm::TrainOptions training_options(const StudyOptions& study) {
  lm::TrainOptions options;
  options.quiet = study.quiet;
  if (study.kept) options.checkpoints = study.kept->next();
  return options;
}

lm::TrainReport train_in_study(const lm::Decoder& teacher, lm::Decoder& student, const lm::Stage& stage,
                               lm::BatchSource& source, const std::vector<std::string>& also,
                               const StudyOptions& study) {
  auto options = training_options(study);
  options.also = also;
  return lm::train(teacher, student, {stage}, source, options);
}

}  // namespace unbend
