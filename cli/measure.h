// What the verbs on measures share: options, and measures embedded in one of three spaces.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "unbend/base/drawing.h"
#include "unbend/base/json.h"
#include "unbend/report/table.h"
#include "unbend/transport/measure_file.h"

namespace unbend {

inline std::string six_digits(double x) { return fmt::format("{:.6g}", x); }

struct MeasureArguments {
  std::vector<std::string> files;
  std::string space = "plane", masses = "unit", method = "lopt", reference, out, report, labels;
  bool images = false, reduce = false, histogram = false, exact = false, raw = false, mass_feature = false,
       json = false;
  double above = 0, lambda = 0, period = 2 * std::numbers::pi, p = 2;
  std::int64_t first = 0, reference_size = 100, nodes = 360, circles = 100, components = 2;
  std::vector<double> weights;
  std::uint64_t seed = 1;
  int steps = 5, threads = 0;
};

/// Measures of one space, embedded.
class Space {
 public:
  using Panels = std::vector<std::pair<std::string, transport::Measure>>;
  virtual ~Space() = default;
  virtual std::int64_t size() const = 0;
  virtual std::string name(std::int64_t i) const = 0;
  virtual std::string summary() const = 0;        ///< one line
  virtual Table table() const = 0;                ///< the measures
  virtual std::string quantity() const = 0;       ///< what distances() gives
  virtual bool squared() const { return false; }  ///< whether that is a squared distance
  virtual std::vector<double> features() const = 0;
  virtual std::vector<double> euclidean_features() const { return features(); }
  virtual std::vector<double> distances() const = 0;
  virtual double exact(std::int64_t i, std::int64_t j) const = 0;
  virtual transport::Measure between(std::int64_t i, std::int64_t j, double t) const = 0;
  virtual transport::Measure mean(Json& details) const = 0;
  virtual std::optional<transport::Measure> from_features(const std::vector<double>&) const { return {}; }
  virtual Drawing panels(const std::string& title, const Panels& frames) const = 0;
  virtual Drawing picture(const std::string& title) const = 0;  ///< of the first measures
  const std::vector<std::string>& notes() const { return notes_; }

 protected:
  std::vector<std::string> notes_;
};

/// Reads the files and embeds. Input errors name the file.
std::unique_ptr<Space> load_space(const MeasureArguments& a);

}  // namespace unbend
