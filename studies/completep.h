// The parts of the study of CompleteP.
#pragma once

#include "studies/study.h"

namespace unbend {

/// B, D and the toy of C: networks on handwritten digits.
void study_completep_digits(StudyResult& result, const StudyOptions& options);
/// C: transformers on text.
void study_completep_text(StudyResult& result, const StudyOptions& options);

}  // namespace unbend
