#include "unbend/report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <regex>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/json.h"

namespace unbend {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// A report with one of everything, as the main job writes it. `hostile` stands in every place for text.
HtmlReport sample(const std::string& hostile) {
  const std::vector<double> contexts{256, 1024, 4096, 16384, 32768};
  HtmlReport report("SmolLM2-135M in linear time" + hostile,
                    "Recipe hybrid, window 256, 4 sinks. Two cores, AVX-512." + hostile);
  report.heading("Result" + hostile)
      .paragraph("The surrogate keeps a constant state; its cost per token stops growing with context." + hostile)
      .key_figures({{"3.9x", "decode speed at 32K", "17.1 against 4.4 tokens/s"},
                    {"1.012", "perplexity ratio at 512", "control 1.016"},
                    {"-94 %", "state at 32K", hostile},
                    {"91.3 %", "same top-1 token"}})
      .table({"Perplexity on held-out text" + hostile,
              {"model", "512", "2048", "top-1 (%)", "bar", "verdict"},
              {{"teacher", "14.21", "11.90", "-", "-", "-"},
               {"control" + hostile, "14.44 \u00b1 0.03", "12.70", "88.0", "<= 1.04", "MISS"},
               {"hybrid", "14.38 \u00b1 0.02", "12.52", "91.3", "<= 1.015", "pass"}}})
      .heading("Cost against context")
      .plot(
          {.title = "Decode speed",
           .x = {.label = "context (tokens)", .scale = Scale::Log2},
           .y = {.label = "tokens/s", .min = 0},
           .series = {{"teacher", contexts, {38, 33, 21, 8.1, 4.4}, {36, 32, 20, 7.8, 4.1}, {40, 34, 22, 8.5, 4.6}},
                      {"hybrid" + hostile, contexts, {31, 30, 29, 29, 28}, {30, 28, 27, 28, 26}, {33, 31, 31, 30, 30}}},
           .caption = "Median of five runs; bars span all runs." + hostile})
      .plot({.title = "State",
             .x = {.label = "context (tokens)", .scale = Scale::Log2},
             .y = {.label = "MiB", .scale = Scale::Log10},
             .series = {{"teacher", contexts, {5.6, 22.5, 90, 360, 720}}, {"hybrid", contexts, {7, 7, 7, 7, 7}}}});
  Series loss{"validation loss", {}, {}, {}, {}}, control{"control", {}, {}, {}, {}, true};
  for (int i = 1; i <= 120; ++i) {
    const double value = 2.6 + 1.4 * std::exp(-i / 20.0), spread = 0.12 * std::exp(-i / 60.0);
    loss.x.push_back(i * 1000);
    loss.y.push_back(i == 70 ? kNaN : value);
    loss.low.push_back(value - spread);
    loss.high.push_back(value + spread);
    control.x.push_back(i * 1000);
    control.y.push_back(value + 0.08);
  }
  report.heading("Training" + hostile)
      .plot({.title = "Loss",
             .x = {.label = "tokens"},
             .y = {.label = "nats per token"},
             .series = {loss, control},
             .caption = "Mean of three seeds and range.",
             .spread = Spread::Band})
      .plot(BarPlot{"Position buckets" + hostile,
                    "nats above the teacher" + hostile,
                    {"0-63", "64-255", "256-511", "512-2047" + hostile},
                    {{"control", {0, 0.021, 0.084, 0.12}, {0.001, 0.004, 0.008, 0.01}},
                     {"hybrid" + hostile, {0, 0.012, -0.018, kNaN}, {0.001, 0.004, 0.007, 0.01}}}})
      .heading("Samples")
      .text_block("Prompt: the capital of France" + hostile,
                  "The capital of France is Paris.\n\n  It lies on the Seine." + hostile)
      .list({"Texts: Debian documentation." + hostile, "Seeds 1, 2, 3."});
  return report;
}

TEST(Html, IsSelfContained) {
  const std::string page = sample("").html();
  EXPECT_THAT(page, testing::StartsWith("<!doctype html>"));
  EXPECT_THAT(page, HasSubstr("var uPlot="));
  EXPECT_THAT(page, HasSubstr("Leon Sorokin")) << "uPlot's licence asks for its notice";
  // Nothing is loaded: no src, no link, no import, no url() in styles.
  for (const char* loads : {" src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest"}) {
    EXPECT_THAT(page, Not(HasSubstr(loads))) << loads;
  }
  write_file(std::filesystem::path(testing::TempDir()) / "unbend-report-sample.html", page);
}

TEST(Html, TextStaysText) {
  const std::string hostile = "</script><script>alert(1)</script>\"'&<!--";
  const auto count = [](const std::string& text, const std::string& what) {
    std::size_t n = 0;
    for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; ++at) ++n;
    return n;
  };
  const std::string page = sample(hostile).html(), clean = sample("").html();
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  for (const char* tag : {"<script", "</script", "<!--", "<style", "<td", "<figure"}) {
    EXPECT_EQ(count(page, tag), count(clean, tag)) << tag;
  }
  // Script data are still what was given.
  std::smatch match;
  ASSERT_TRUE(std::regex_search(page, match, std::regex("id=\"plots\">([^<]*)</script>")));
  EXPECT_EQ(parse_json(match[1].str(), "plots")[0]["series"][1]["name"], "hybrid" + hostile);
}

TEST(Html, EscapesEveryCharacterThatMatters) {
  EXPECT_EQ(escape_html("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  EXPECT_EQ(script_json(Json{{"a</script>", kNaN}}), "{\"a\\u003c/script>\":null}");
  EXPECT_EQ(script_json("caf\xe9"), "\"caf\xef\xbf\xbd\"");
}

TEST(Html, DrawsCellsAndPathsWithoutScripts) {
  HtmlReport report("r");
  report.plot(CellPlot{"Phases",
                       {"sigma", Scale::Log10},
                       {"lambda"},
                       {.1, 1, 10},
                       {1, 2},
                       {"good", "<bad>"},
                       {0, 0, 1, 1, -1, 1},
                       {false, false, true, false, false, false}});
  report.plot(PathPlot{"Paths", {"x"}, {"y"}, {{"a", {0, 1}, {0, 2}}, {"a", {1, 1}, {1, 0}}}, {"", {0}, {0}}});
  const std::string html = report.html();
  const auto count = [&](const std::string& text) {
    const std::regex pattern(text);
    return std::distance(std::sregex_iterator(html.begin(), html.end(), pattern), std::sregex_iterator());
  };
  EXPECT_EQ(count("<rect class=\"c0\""), 1);  // two cells of one class are one run
  EXPECT_EQ(count("<rect class=\"c1\""), 3);
  EXPECT_EQ(count("<rect class=\"mark\""), 1);
  EXPECT_EQ(count("<path class=\"path p0\""), 2);
  EXPECT_EQ(count("<path class=\"cross\""), 1);
  EXPECT_THAT(html, HasSubstr("&lt;bad&gt;"));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THROW(HtmlReport("r").plot(CellPlot{"P", {}, {}, {1, 2}, {1, 2}, {"a"}, {0, 0, 0}}), Error);
  EXPECT_THROW(HtmlReport("r").plot(CellPlot{"P", {}, {}, {1, 2}, {1, 2}, {"a"}, {0, 0, 0, 1}}), Error);
  EXPECT_THROW(HtmlReport("r").plot(CellPlot{"P", {}, {}, {2, 1}, {1, 2}, {"a"}, {0, 0, 0, 0}}), Error);
  EXPECT_THROW(HtmlReport("r").plot(PathPlot{"P", {}, {}, {}}), Error);
  EXPECT_THROW(HtmlReport("r").plot(PathPlot{"P", {}, {}, {{"a", {0, kNaN}, {0, 0}}}}), Error);
}

TEST(Html, RefusesPlotsThatCannotBeDrawn) {
  const auto message = [](const Series& series, Scale scale = Scale::Linear) -> std::string {
    try {
      HtmlReport("r").plot(LinePlot{"P", {"x", scale}, {"y", scale}, {series}});
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message({"s", {1, 2}, {3, kNaN}}), "accepted");
  EXPECT_EQ(message({"s", {1, 2}, {3}}), "plot \"P\", series \"s\": 2 x values, but 1 y values");
  EXPECT_THAT(message({"s", {1, 1}, {3, 4}}), HasSubstr("does not increase"));
  EXPECT_THAT(message({"s", {kNaN}, {3}}), HasSubstr("x[0] is nan"));
  EXPECT_THAT(message({"s", {0, 1}, {3, 4}}, Scale::Log2), HasSubstr("logarithmic"));
  EXPECT_THAT(message({"s", {1, 2}, {3, 0}}, Scale::Log10), HasSubstr("y[1] = 0"));
  EXPECT_THAT(message({"s", {1, 2}, {3, 4}, {1}, {2}}), HasSubstr("1 low values"));
  EXPECT_THAT(message({"s", {1, 2}, {3, 4}, {1, 2}, {}}), HasSubstr("0 high values"));
  EXPECT_THROW(HtmlReport("r").plot(LinePlot{"P", {}, {}, {}}), Error);
  EXPECT_THROW(HtmlReport("r").plot(BarPlot{"P", "", {"a"}, {{"s", {1, 2}}}}), Error);
  EXPECT_THROW(HtmlReport("r").plot(BarPlot{"P", "", {"a"}, {{"s", {1}, {1, 2}}}}), Error);
  EXPECT_THROW(HtmlReport("r").table({"", {"a"}, {{"1", "2"}}}), Error);
}

}  // namespace
}  // namespace unbend
