#include "unbend/report/drawing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/report/html.h"

namespace unbend {
namespace {

using testing::HasSubstr;
using testing::Not;

Drawing sample() {
  Drawing d{"Map <1>", "two halves", {0, 0}, {2, 1}};
  d.polygons = {{{{0, 0}, {1, 0}, {1, 1}, {0, 1}}, 0, .5}, {{{1, 0}, {2, 0}, {2, 1}}, 7, 2}};
  d.lines = {{{1, 0}, {1, 1}}};
  d.marks = {{{.5, .25}, "here & there"}, {{1, .5}, "alone", false}};
  d.legend = {{0, "left"}, {7, "right"}};
  return d;
}

TEST(Drawing, PutsYUpwardsAndEscapes) {
  const auto svg = to_svg(sample());
  EXPECT_THAT(svg, HasSubstr("viewBox=\"0 0 600 300\""));
  EXPECT_THAT(svg, HasSubstr("d=\"M0 3000l3000 0 0-3000-3000 0z\""));
  EXPECT_THAT(svg, HasSubstr("fill-opacity=\"1.00\""));  // cut to what there is
  EXPECT_THAT(svg, HasSubstr("x1=\"300.00\" y1=\"300.00\" x2=\"300.00\" y2=\"0.00\""));
  EXPECT_THAT(svg, HasSubstr("cx=\"150.00\" cy=\"225.00\""));
  EXPECT_THAT(svg, HasSubstr("here &amp; there"));
  EXPECT_EQ(svg.find("<circle"), svg.rfind("<circle"));  // the other label has no dot
  EXPECT_THAT(svg, HasSubstr("<text x=\"300.00\" y=\"150.00\""));
  EXPECT_THAT(svg, HasSubstr("Map &lt;1&gt;"));
  EXPECT_THAT(svg, Not(HasSubstr("<1>")));
}

TEST(Drawing, WhatLooksTheSameIsOnePath) {
  auto d = sample();
  d.polygons.push_back({{{0, 0}, {.5, 0}, {0, .5}}, 7, 3});
  const auto svg = to_svg(d);
  EXPECT_THAT(svg, HasSubstr("fill-opacity=\"1.00\" d=\"M3000 3000l3000 0 0-3000zM0 3000l1500 0-1500-1500z\""));
}

TEST(Drawing, StandsInAReport) {
  HtmlReport report("Report");
  report.drawing(sample());
  EXPECT_THAT(report.html(), HasSubstr("<svg"));
  EXPECT_THAT(report.html(), HasSubstr("<i class=\"c7\"></i>right"));
  EXPECT_THAT(report.html(), HasSubstr("two halves</figcaption>"));
}

TEST(Drawing, RefusesWhatCannotBeShown) {
  auto d = sample();
  d.high = d.low;
  EXPECT_THROW(to_svg(d), Error);
  d = sample(), d.polygons[0].color = 8;
  EXPECT_THROW(to_svg(d), Error);
  d = sample(), d.lines[0].from.x = NAN;
  EXPECT_THROW(to_svg(d), Error);
}

}  // namespace
}  // namespace unbend
