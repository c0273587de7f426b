// The rest of CONTRIBUTING.md's example: its line in the table and its study.
#include <gtest/gtest.h>

#include "studies/study.h"
#include "unbend/base/methods.h"

namespace unbend {

StudyResult study_running_mean(const StudyOptions& options);

namespace {

constexpr Method kExample[] = {
#define METHOD(slug, name, title, authors, venue, arxiv, foundation, status) \
  {#slug, name, title, authors, venue, arxiv, Foundation::foundation, MethodStatus::status},
#include "running_mean.def"
#undef METHOD
};

TEST(Contributing, LineOfTheTable) {
  static_assert(std::size(kExample) == 1);
  EXPECT_EQ(kExample[0].slug, "running_mean");
  EXPECT_EQ(kExample[0].status, MethodStatus::trial);
}

TEST(Contributing, Study) {
  const StudyResult result = study_running_mean({.seeds = 2, .out = {}});
  EXPECT_EQ(result.slug, kExample[0].slug);
  ASSERT_EQ(result.claims.size(), 1u);
  EXPECT_EQ(result.claims[0].measured.size(), 2u);
  EXPECT_TRUE(passed(result));
}

}  // namespace
}  // namespace unbend
