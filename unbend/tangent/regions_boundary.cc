#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/random.h"
#include "unbend/tangent/regions.h"

namespace unbend {
namespace {

using Polygon = std::vector<Point>;

// The outputs of a region: numbers [outputs, 3].
struct Outputs {
  const double* maps;
  int64_t count;
  double at(int64_t output, const Point& p) const {
    const double* m = maps + 3 * output;
    return m[0] + p.x * m[1] + p.y * m[2];
  }
  int largest(const Point& p) const {
    int best = 0;
    for (int64_t i = 1; i < count; ++i)
      if (at(i, p) > at(best, p)) best = static_cast<int>(i);
    return best;
  }
};

Outputs outputs_of(const LinearRegions& regions, int64_t region) {
  const int64_t count = regions.maps.size(1);
  return {regions.maps.const_data_ptr<double>() + region * 3 * count, count};
}

double distance(const Point& a, const Point& b) { return std::hypot(a.x - b.x, a.y - b.y); }

Point between(const Point& a, const Point& b, double t) { return {a.x + t * (b.x - a.x), a.y + t * (b.y - a.y)}; }

// Where a function that is affine on a convex polygon is 0: the ends of the segment; none if it only touches.
template <class F>
std::vector<Point> zero_line(const Polygon& polygon, const F& f) {
  std::vector<Point> ends;
  for (size_t i = 0; i < polygon.size(); ++i) {
    const auto &p = polygon[i], &q = polygon[(i + 1) % polygon.size()];
    const double a = f(p), b = f(q);
    if (a == 0) ends.push_back(p);
    if (a * b < 0) ends.push_back(between(p, q, a / (a - b)));
  }
  return ends.size() == 2 ? ends : std::vector<Point>{};
}

// The part of a segment on which an affine function is not negative.
template <class F>
bool clip(Point& from, Point& to, const F& f) {
  const double a = f(from), b = f(to);
  if (a < 0 && b < 0) return false;
  if (a < 0)
    from = between(from, to, a / (a - b));
  else if (b < 0)
    to = between(from, to, a / (a - b));
  return true;
}

double distance_to(const Polygon& polygon, const Point& at) {
  bool inside = true;
  double nearest = INFINITY;
  for (size_t i = 0; i < polygon.size(); ++i) {
    const auto &p = polygon[i], &q = polygon[(i + 1) % polygon.size()];
    const double dx = q.x - p.x, dy = q.y - p.y, squared = dx * dx + dy * dy;
    if (dx * (at.y - p.y) - dy * (at.x - p.x) < 0) inside = false;
    const double t = squared > 0 ? std::clamp(((at.x - p.x) * dx + (at.y - p.y) * dy) / squared, 0., 1.) : 0;
    nearest = std::min(nearest, distance(at, between(p, q, t)));
  }
  return inside ? 0 : nearest;
}

}  // namespace

std::vector<Segment> decision_boundary(const LinearRegions& regions) {
  std::vector<Segment> all;
  for (int64_t r = 0; r < regions.count(); ++r) {
    const auto& polygon = regions.polygons[r];
    const auto outputs = outputs_of(regions, r);
    const auto add = [&](Point from, Point to, int first, int second) {
      if (distance(from, to) > 1e-12) all.push_back({from, to, first, second});
    };
    if (outputs.count == 1) {
      const auto ends = zero_line(polygon, [&](const Point& p) { return outputs.at(0, p); });
      if (!ends.empty()) add(ends[0], ends[1], -1, 0);
      continue;
    }
    const int one = outputs.largest(polygon[0]);  // the largest at all corners is the largest inside
    if (std::ranges::all_of(polygon, [&](const Point& p) { return outputs.largest(p) == one; })) continue;
    for (int i = 0; i < outputs.count; ++i) {
      for (int j = i + 1; j < outputs.count; ++j) {
        const auto ends = zero_line(polygon, [&](const Point& p) { return outputs.at(i, p) - outputs.at(j, p); });
        if (ends.empty()) continue;
        Point from = ends[0], to = ends[1];
        bool left = true;
        for (int k = 0; left && k < outputs.count; ++k)
          if (k != i && k != j)
            left = clip(from, to, [&](const Point& p) { return outputs.at(i, p) - outputs.at(k, p); });
        if (left) add(from, to, i, j);
      }
    }
  }
  return all;
}

double length(const std::vector<Segment>& segments) {
  double sum = 0;
  for (const auto& s : segments) sum += distance(s.from, s.to);
  return sum;
}

int64_t regions_near(const LinearRegions& regions, const Point& at, double distance) {
  return std::ranges::count_if(regions.polygons, [&](const Polygon& polygon) {
    return distance_to(polygon, at) <= distance / regions.slice.unit;
  });
}

Drawing draw(const LinearRegions& regions, const std::string& title, const std::vector<std::string>& labels,
             const std::vector<std::string>& classes) {
  require(labels.size() == regions.slice.marks.size(), "drawing of regions: {} labels for {} marks", labels.size(),
          regions.slice.marks.size());
  const int64_t outputs = regions.maps.size(1);
  require(classes.empty() || std::ssize(classes) == outputs, "drawing of regions: {} names for {} outputs",
          classes.size(), outputs);
  const auto boundary = decision_boundary(regions);
  Drawing drawing{title,
                  fmt::format("{} linear regions; the square's side is {:.3g}. Bold: where the class changes.",
                              regions.count(), 2 * regions.slice.unit),
                  {-1, -1},
                  {1, 1}};
  Random shade(1);
  std::vector<bool> seen(std::max<int64_t>(outputs, 2));
  for (int64_t r = 0; r < regions.count(); ++r) {
    const auto here = outputs_of(regions, r);
    const auto middle = centroid(regions.polygons[r]);
    const int kind = outputs == 1 ? (here.at(0, middle) > 0 ? 1 : 0) : here.largest(middle);
    seen[kind] = true;
    drawing.polygons.push_back({regions.polygons[r], kind % 8, .2 + .05 * std::floor(10 * shade.uniform())});
  }
  // They do not overlap, so their order is free: a picture is smaller where those that look the same stand together.
  std::ranges::stable_sort(drawing.polygons, {}, [](const auto& p) { return std::pair(p.color, p.opacity); });
  for (const auto& s : boundary) drawing.lines.push_back({s.from, s.to});
  for (size_t i = 0; i < labels.size(); ++i) drawing.marks.push_back({regions.slice.marks[i], labels[i]});
  for (size_t k = 0; k < seen.size(); ++k) {
    if (!seen[k]) continue;
    const auto name = outputs == 1      ? std::string(k == 1 ? "above 0" : "below 0")
                      : classes.empty() ? fmt::format("class {}", k)
                                        : classes[k];
    drawing.legend.emplace_back(static_cast<int>(k % 8), name);
  }
  return drawing;
}

}  // namespace unbend
