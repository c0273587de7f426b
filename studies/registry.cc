// From slugs to study functions, made from the table of methods.
#include "studies/study.h"

namespace unbend {

#define STUDY_planned(slug)
#define STUDY_trial(slug) StudyResult study_##slug(const StudyOptions& options);
#define STUDY_works(slug) STUDY_trial(slug)
#define METHOD(slug, name, title, authors, venue, arxiv, foundation, status) STUDY_##status(slug)
#include "unbend/methods.def"
#undef METHOD
#undef STUDY_trial

StudyResult study_hybrid(const StudyOptions& options);

StudyFunction find_study([[maybe_unused]] std::string_view wanted) {
#define STUDY_trial(slug) \
  if (wanted == #slug) return study_##slug;
#define METHOD(slug, name, title, authors, venue, arxiv, foundation, status) STUDY_##status(slug)
#include "unbend/methods.def"
#undef METHOD
  if (wanted == "hybrid") return study_hybrid;  // the project's own recipe: not a published method
  return nullptr;
}

}  // namespace unbend
