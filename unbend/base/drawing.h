// A flat picture as data: polygons, lines and marks in the units of what is drawn. unbend/report/drawing.h shows it.
#pragma once

#include <string>
#include <vector>

namespace unbend {

struct Point {
  double x, y;
};

struct Drawing {
  struct Polygon {
    std::vector<Point> corners;
    int color;       ///< 0 to 7: the reports' colours
    double opacity;  ///< of the fill, 0 to 1
  };
  struct Line {
    Point from, to;
  };
  struct Mark {
    Point at;
    std::string label;
    bool dot = true;  ///< with a dot at the place; otherwise the label alone begins there
  };
  std::string title, caption;
  Point low, high;  ///< corners of what is shown
  std::vector<Polygon> polygons = {};
  std::vector<Line> lines = {};  ///< bold
  std::vector<Mark> marks = {};
  std::vector<std::pair<int, std::string>> legend = {};  ///< colours and what they mean
};

}  // namespace unbend
