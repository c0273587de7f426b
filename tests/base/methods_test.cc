#include "unbend/base/methods.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace unbend {
namespace {

TEST(Methods, AreThirtyFiveSortedAndDistinct) {
  EXPECT_EQ(methods().size(), 35u);
  std::set<std::string_view> slugs, names, papers;
  for (const Method& method : methods()) {
    slugs.insert(method.slug);
    names.insert(method.name);
    papers.insert(method.arxiv);
    EXPECT_TRUE(std::regex_match(std::string(method.slug), std::regex("[a-z_]+"))) << method.slug;
    EXPECT_TRUE(std::regex_match(std::string(method.arxiv), std::regex("\\d{4}\\.\\d{5}"))) << method.slug;
    EXPECT_TRUE(std::regex_search(std::string(method.venue), std::regex("20\\d\\d$"))) << method.slug;
    EXPECT_FALSE(method.title.empty() || method.authors.empty()) << method.slug;
  }
  EXPECT_EQ(slugs.size(), 35u);
  EXPECT_EQ(names.size(), 35u);
  EXPECT_EQ(papers.size(), 35u);
  EXPECT_TRUE(
      std::is_sorted(methods().begin(), methods().end(), [](const auto& a, const auto& b) { return a.slug < b.slug; }));
  EXPECT_FALSE(slugs.contains("hybrid")) << "the project's own recipe is not a published method";
}

TEST(Methods, AreFoundBySlug) {
  const Method* liger = find_method("liger");
  ASSERT_NE(liger, nullptr);
  EXPECT_EQ(liger->arxiv, "2503.01496");
  EXPECT_EQ(to_string(liger->foundation), "attention");
  EXPECT_EQ(find_method("Liger"), nullptr);
  EXPECT_EQ(to_string(MethodStatus::works), "works");
  EXPECT_EQ(to_string(Foundation::structure), "structure");
}

TEST(Nearest, FindsTyposAndNothingElse) {
  const std::vector<std::string> words{"convert", "distill", "generate", "lm"};
  EXPECT_EQ(nearest("convrt", words), "convert");
  EXPECT_EQ(nearest("distil", words), "distill");
  EXPECT_EQ(nearest("generat", words), "generate");
  EXPECT_EQ(nearest("ml", words), "");
  EXPECT_EQ(nearest("tokenise", words), "");
  EXPECT_EQ(nearest("", words), "");
}

}  // namespace
}  // namespace unbend
