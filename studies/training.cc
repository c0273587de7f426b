#include "studies/training.h"

#include "unbend/base/error.h"

namespace unbend {

lm::TrainReport train_in_study(const lm::Decoder& teacher, lm::Decoder& student, const lm::Stage& stage,
                               lm::BatchSource& source, const std::vector<std::string>& also, bool quiet) {
  lm::TrainOptions options;
  options.also = also;
  options.quiet = quiet;
  auto report = lm::train(teacher, student, {stage}, source, options);
  if (report.interrupted) fail_computation("interrupted in stage {}", stage.name);
  return report;
}

}  // namespace unbend
