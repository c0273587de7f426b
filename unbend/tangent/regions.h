// Exact linear regions of a piecewise linear network on a square of a plane through its input space (as SplineCam draws
// them: Humayun et al. 2023, arXiv 2302.12828): polygons are cut by the folds of one layer after the other, and in each
// of them the network is one affine map.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <string>
#include <vector>

#include "unbend/base/drawing.h"
#include "unbend/nets/network.h"

namespace unbend {

/// The square of points origin + x across + y up, with x and y in [-1, 1].
struct Slice {
  at::Tensor origin, across, up;  ///< float64, of the shape of an input; across and up are orthogonal, of one length
  std::vector<Point> marks;       ///< where the points lie that it was laid through
  double unit;                    ///< length of across, in units of the input
  at::Tensor input(const Point& at) const { return origin + at.x * across + at.y * up; }
};

/// The plane through three points [3, ..]; the square leaves `margin` times its side free around them. Input error for
/// points that are equal or lie on one line.
Slice slice_through(const at::Tensor& points, double margin = .15);

struct LinearRegions {
  Slice slice;
  std::vector<std::vector<Point>> polygons;  ///< convex, counterclockwise; they tile the square
  at::Tensor maps;                           ///< [R, outputs, 3]: output = m[0] + x m[1] + y m[2] inside a polygon
  int64_t count() const { return static_cast<int64_t>(polygons.size()); }
};

double area(const std::vector<Point>& polygon);
Point centroid(const std::vector<Point>& polygon);  ///< the mean of its corners

/// Input error that names the layer for what is not piecewise linear (smooth activations, layer norms) and for maximum
/// pools; Computation error if there are more than `most` regions: take a smaller square. float64 throughout.
LinearRegions linear_regions(const Network& network, const Slice& slice, int64_t most = 50000);

struct Segment {
  Point from, to;
  int first, second;  ///< the classes that it parts; -1 and 0 for the zero line of a single output
};

/// Where the largest output changes; for a single output, where it is 0.
std::vector<Segment> decision_boundary(const LinearRegions& regions);

double length(const std::vector<Segment>& segments);  ///< in units of the square's half side

/// Regions within that distance (in units of the input) of a point of the square: those whose polygon comes so close.
int64_t regions_near(const LinearRegions& regions, const Point& at, double distance);

/// Regions coloured by the class of their largest output, lighter and darker at random; the boundary bold; the marks,
/// labelled (as many labels as marks). `classes` names the outputs; empty: their numbers.
Drawing draw(const LinearRegions& regions, const std::string& title, const std::vector<std::string>& labels,
             const std::vector<std::string>& classes = {});

}  // namespace unbend
