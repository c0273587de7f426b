#include "studies/training.h"

namespace unbend {

lm::TrainReport train_in_study(const lm::Decoder& teacher, lm::Decoder& student, const lm::Stage& stage,
                               lm::BatchSource& source, const std::vector<std::string>& also, bool quiet) {
  lm::TrainOptions options;
  options.also = also;
  options.quiet = quiet;
  return lm::train(teacher, student, {stage}, source, options);
}

}  // namespace unbend
