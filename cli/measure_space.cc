#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "cli/measure.h"
#include "unbend/base/error.h"
#include "unbend/base/progress.h"
#include "unbend/transport/hellinger_kantorovich.h"
#include "unbend/transport/lopt.h"
#include "unbend/transport/picture.h"
#include "unbend/transport/reference.h"
#include "unbend/transport/sphere.h"

namespace unbend {
namespace {

using namespace transport;

using Arguments = MeasureArguments;

constexpr std::size_t kShown = 5;  // measures in a picture

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

MeasureFile file_options(const Arguments& a) {
  MeasureFile options;
  options.masses = a.masses == "unit" ? Masses::Unit : a.masses == "equal" ? Masses::Equal : Masses::Column;
  options.images = a.images;
  options.above = a.above;
  return options;
}

std::vector<NamedMeasure> read_all(const Arguments& a) {
  std::vector<NamedMeasure> all;
  for (const auto& path : a.files) {
    auto some = read_measures(path, file_options(a));
    if (a.first > 0 && static_cast<std::int64_t>(some.size()) > a.first) some.resize(at(a.first));
    for (auto& m : some) all.push_back(std::move(m));
  }
  for (auto& [name, m] : all)  // folders only make tables wide
    name = std::filesystem::path(name).filename().string();
  return all;
}

std::vector<Measure> bare(const std::vector<NamedMeasure>& named) {
  std::vector<Measure> out;
  for (const auto& m : named) out.push_back(m.measure);
  return out;
}

std::vector<double> rooted(std::vector<double> squares) {
  for (double& x : squares) x = std::sqrt(std::max(0.0, x));
  return squares;
}

// ---- points of any dimension

class Plane : public Space {
 public:
  explicit Plane(const Arguments& a) : a_(a), named_(read_all(a)), measures_(bare(named_)) {
    for (const auto& [name, m] : named_) {
      if (m.size() > 0 && dim_ == 0) dim_ = m.dim;
      require(m.size() == 0 || m.dim == dim_, "{}: points of {} dimensions, those before have {}", name, m.dim, dim_);
      if (a_.method == "lot")
        require(m.total() > 0, "{}: its total mass is 0, which method lot cannot scale to 1", name);
    }
    require(dim_ > 0, "none of the measures has points");
    lambda_ = a_.lambda;
    if (lambda_ == 0) {
      lambda_ = variance();
      require(std::isfinite(lambda_), "the points lie too far apart, their variance overflows: --lambda is needed");
    }
    require(std::isfinite(lambda_) && lambda_ > 0, "lambda is {}, expected a positive number", lambda_);
    make_reference();
    Progress progress("embedding", size(), "measures", a_.json || size() < 20);
    if (a_.method == "hk") {
      hk_.length = std::sqrt(2 * lambda_) * 2 / std::numbers::pi;
      for (std::int64_t i = 0; i < size(); ++i) {
        hk_embedded_.push_back(hk_embed(reference_, measures_[at(i)], hk_));
        progress.update(i + 1);
      }
    } else {
      embedded_ = embed_all(
          measures_,
          [&](const Measure& m) {
            return a_.method == "lot" ? lot_embed(reference_, m) : lopt_embed(reference_, m, lambda_);
          },
          a_.threads, [&](std::int64_t done) { progress.update(done); });
    }
    progress.finish();
    warn();
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(measures_.size()); }
  std::string name(std::int64_t i) const override { return named_[at(i)].name; }
  std::string summary() const override {
    const std::string head = fmt::format("{} measures in {} dimensions, reference of {} atoms and mass {:.4g}", size(),
                                         dim_, reference_.size(), reference_.total());
    if (a_.method == "lot") return head + ": linear optimal transport, masses scaled to 1";
    return fmt::format("{}: {}, lambda {:.4g}{}: nothing moves further than {:.4g}", head,
                       a_.method == "hk" ? "linear Hellinger-Kantorovich" : "linear partial transport", lambda_,
                       a_.lambda == 0 ? " (variance of all points)" : "", std::sqrt(2 * lambda_));
  }
  Table table() const override {
    Table t{"Measures", {"measure", "atoms", "mass", "transported", "out of reach", "to the reference"}, {}};
    for (std::int64_t i = 0; i < size(); ++i) {
      const Measure& m = measures_[at(i)];
      const double rest = rest_of(i).total();
      const double kept = a_.method == "lot" ? 1 : m.total() - rest;
      t.rows.push_back({name(i), fmt::format("{}", m.size()), six_digits(m.total()), six_digits(kept), six_digits(rest),
                        six_digits(value_of(i))});
    }
    return t;
  }
  std::string quantity() const override {
    return a_.method == "lopt"  ? "LOPT discrepancy (a squared cost)"
           : a_.method == "lot" ? "LOT distance"
                                : "linear HK distance (squared)";
  }
  bool squared() const override { return a_.method != "lot"; }
  std::vector<double> features() const override {
    if (a_.method == "hk") return hk_features(reference_, hk_embedded_, hk_.length);
    return transport::features(reference_, embedded_, a_.mass_feature, lambda_);
  }
  std::vector<double> distances() const override {
    if (a_.method == "lopt") return lopt_matrix(embedded_, lambda_, a_.threads);
    if (a_.method == "lot") return rooted(lopt_matrix(embedded_, uncapped_lambda(embedded_, dim_), a_.threads));
    const auto rows = features();
    const auto width = static_cast<std::int64_t>(rows.size()) / size();
    std::vector<double> matrix(at(size() * size()), 0.0);
    for (std::int64_t i = 0; i < size(); ++i)
      for (std::int64_t j = 0; j < size(); ++j)
        if (i != j)
          matrix[at(i * size() + j)] = squared_distance(std::span(rows).subspan(at(i * width), at(width)),
                                                        std::span(rows).subspan(at(j * width), at(width))) +
                                       hk_.length * hk_.length * (rest_of(i).total() + rest_of(j).total());
    return matrix;
  }
  double exact(std::int64_t i, std::int64_t j) const override {
    const Measure &x = measures_[at(i)], &y = measures_[at(j)];
    if (a_.method == "lopt") return partial_transport(x, y, lambda_).value;
    if (a_.method == "hk") return hk_embed(x, y, hk_).value;
    return std::sqrt(balanced_transport(normalised(x, name(i)), normalised(y, name(j))).value);
  }
  Measure between(std::int64_t i, std::int64_t j, double t) const override {
    if (a_.method == "hk") fail_usage("interpolation is for the methods lopt and lot");
    if (!a_.reference.empty()) return interpolate(reference_, embedded_[at(i)], embedded_[at(j)], t);
    if (!direct_)
      direct_ = a_.method == "lot" ? lot_embed(measures_[at(i)], measures_[at(j)])
                                   : lopt_embed(measures_[at(i)], measures_[at(j)], lambda_);
    return interpolate(a_.method == "lot" ? normalised(measures_[at(i)], name(i)) : measures_[at(i)], *direct_, t);
  }
  Measure mean(Json& details) const override {
    if (a_.method != "lopt") fail_usage("barycentres are for the method lopt");
    BarycenterOptions options;
    options.weights = a_.weights;
    options.threads = a_.threads;
    const Barycenter found = barycenter(reference_, measures_, lambda_, options);
    details["rounds"] = found.rounds;
    details["change"] = found.change;
    return found.measure;
  }
  std::optional<Measure> from_features(const std::vector<double>& row) const override {
    if (a_.method == "hk") return {};
    Measure m = reference_;
    for (std::int64_t n = 0; n < m.size(); ++n)
      for (std::int64_t k = 0; k < dim_ && m.masses[at(n)] > 0; ++k)
        m.points[at(n * dim_ + k)] += row[at(n * dim_ + k)] / std::sqrt(m.masses[at(n)]);
    return m;
  }
  Drawing panels(const std::string& title, const Panels& frames) const override { return point_panels(title, frames); }
  Drawing picture(const std::string& title) const override {
    Panels frames;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(kShown - 1, size()); ++i)
      frames.emplace_back(name(i), measures_[at(i)]);
    frames.emplace_back("reference", reference_);
    return point_panels(title, frames, dim_ > 2 ? "The first two coordinates." : "");
  }

 private:
  const Measure& rest_of(std::int64_t i) const {
    return a_.method == "hk" ? hk_embedded_[at(i)].rest : embedded_[at(i)].rest;
  }
  double value_of(std::int64_t i) const {
    return a_.method == "hk" ? hk_embedded_[at(i)].value : embedded_[at(i)].value;
  }

  /// Mean squared distance of all points to their centre.
  double variance() const {
    std::vector<double> centre(at(dim_), 0.0);
    double count = 0, sum = 0;
    for (const Measure& m : measures_)
      for (std::int64_t i = 0; i < m.size(); ++i, ++count)
        for (std::int64_t k = 0; k < dim_; ++k) centre[at(k)] += m.point(i)[at(k)];
    for (double& x : centre) x /= count;
    for (const Measure& m : measures_)
      for (std::int64_t i = 0; i < m.size(); ++i) sum += squared_distance(m.point(i), centre);
    return sum > 0 ? sum / count : 1;
  }

  void make_reference() {
    if (a_.reference.empty()) {
      double total = 0;
      for (const Measure& m : measures_) total += m.total() / static_cast<double>(size());
      require(total > 0, "the measures have no mass");
      Random random(a_.seed);
      reference_ = kmeans_reference(measures_, a_.reference_size, total, random);
    } else {
      reference_ = read_measures(a_.reference, file_options(a_)).at(0).measure;
      require(reference_.dim == dim_, "{}: points of {} dimensions, the measures' have {}", a_.reference,
              reference_.dim, dim_);
    }
    if (a_.method == "lot") reference_ = normalised(reference_, "reference");
  }

  void warn() {
    for (std::int64_t i = 0; i < size() && a_.method != "lot"; ++i) {
      const double mass = measures_[at(i)].total(), ratio = mass / reference_.total();
      if (mass > 0 && (ratio > 10 || ratio < .1))
        notes_.push_back(
            fmt::format("{}: its mass is {:.3g} times the reference's: what is out of reach decides", name(i), ratio));
      if (mass > 0 && rest_of(i).total() >= mass * (1 - 1e-12))
        notes_.push_back(fmt::format("{}: nothing of it is within {:.4g} of the reference: a larger lambda?", name(i),
                                     std::sqrt(2 * lambda_)));
    }
  }

  Arguments a_;
  std::vector<NamedMeasure> named_;
  std::vector<Measure> measures_;
  std::int64_t dim_ = 0;
  double lambda_ = 0;
  Measure reference_;
  HkOptions hk_;
  std::vector<Embedding> embedded_;
  std::vector<HkEmbedding> hk_embedded_;
  mutable std::optional<Embedding> direct_;
};

// ---- angles

class Circle : public Space {
 public:
  explicit Circle(const Arguments& a) : a_(a), named_(read_all(a)) {
    for (const auto& [name, m] : named_) {
      require(m.dim == 1 || m.size() == 0, "{}: {} columns, where angles are expected{}", name, m.dim,
              a.masses == "column" ? " and masses" : " (--masses column takes the last as masses)");
      measures_.push_back(
          a.histogram ? circular_histogram(m.points, name)
                      : circular_atoms(m.points, m.masses, a.period, name, a.reduce ? Range::Reduce : Range::Refuse));
      const bool closed_form = a.p == 2 && a.reference.empty();
      if (!closed_form && !reference_) make_reference();
      maps_.push_back(closed_form ? lcot_embed(measures_.back()) : lcot_embed(measures_.back(), *reference_, a.p));
      if (!a.histogram && a.masses != "unit" && std::abs(measures_.back().given - 1) > 1e-6)
        notes_.push_back(
            fmt::format("{}: its masses sum to {:.6g} and were scaled to 1", name, measures_.back().given));
    }
    require(!maps_.empty(), "no measures");
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(maps_.size()); }
  std::string name(std::int64_t i) const override { return named_[at(i)].name; }
  std::string summary() const override {
    return fmt::format("{} measures on the circle{}: LCOT, p = {:g}", size(),
                       a_.histogram ? ", histograms" : fmt::format(" of period {:.6g}", a_.period), a_.p);
  }
  Table table() const override {
    Table t{"Measures", {"measure", a_.histogram ? "bins" : "atoms", "alpha (turns)", "to uniform (turns)"}, {}};
    for (std::int64_t i = 0; i < size(); ++i)
      t.rows.push_back({name(i), fmt::format("{}", measures_[at(i)].size()), six_digits(maps_[at(i)].shift),
                        six_digits(std::sqrt(transport_to_uniform(measures_[at(i)])))});
    return t;
  }
  std::string quantity() const override { return "LCOT distance (turns)"; }
  std::vector<double> features() const override {
    std::vector<double> own(at(a_.nodes), 0.0), rows;  // where the reference lies, from an even spread
    if (reference_) own = lcot_grid(lcot_embed(*reference_, *reference_, a_.p), a_.nodes);
    for (const auto& m : maps_)
      for (std::int64_t k = 0; const double e : lcot_grid(m, a_.nodes)) rows.push_back(e - own[at(k++)]);
    return rows;
  }
  std::vector<double> euclidean_features() const override {
    std::vector<double> rows;
    for (const auto& m : maps_) {
      const auto e = chordal_features(m, a_.nodes);
      rows.insert(rows.end(), e.begin(), e.end());
    }
    return rows;
  }
  std::vector<double> distances() const override {
    auto matrix = lcot_matrix(maps_, a_.p, a_.threads);
    for (double& x : matrix) x = std::pow(x, 1 / a_.p);
    return matrix;
  }
  double exact(std::int64_t i, std::int64_t j) const override {
    return std::pow(circular_transport(measures_[at(i)], measures_[at(j)], a_.p).cost, 1 / a_.p);
  }
  Measure between(std::int64_t i, std::int64_t j, double t) const override {
    return as_measure(interpolate(maps_[at(i)], maps_[at(j)], t, !a_.raw));
  }
  Measure mean(Json& details) const override {
    details["histogram"] = a_.histogram;
    return as_measure(barycenter(maps_, a_.weights, true, a_.nodes));
  }
  Drawing panels(const std::string& title, const Panels& frames) const override {
    std::vector<std::pair<std::string, std::vector<double>>> bins;
    for (const auto& [label, m] : frames) {
      std::vector<double> histogram(at(kBins), 0.0);
      for (std::int64_t i = 0; i < m.size(); ++i)
        histogram[std::min(at(kBins - 1), static_cast<std::size_t>(reduced(m.points[at(i)], unit()) * kBins))] +=
            m.masses[at(i)];
      bins.emplace_back(label, std::move(histogram));
    }
    return circle_panels(title, bins,
                         "Mass by angle: the first to the right, counter-clockwise; areas by square roots.");
  }
  Drawing picture(const std::string& title) const override {
    std::vector<std::pair<std::string, std::vector<double>>> bins;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(kShown, size()); ++i)
      bins.emplace_back(name(i), inverse_histogram(maps_[at(i)], kBins));
    return circle_panels(title, bins);
  }

 private:
  static constexpr std::int64_t kBins = 72;
  double unit() const { return a_.histogram ? 1 : a_.period; }

  void make_reference() {
    if (a_.reference.empty()) {
      reference_ = circular_histogram(std::vector{1.0}, "uniform");
    } else {
      const Measure m = read_measures(a_.reference, file_options(a_)).at(0).measure;
      require(m.dim == 1, "{}: {} columns, where angles are expected", a_.reference, m.dim);
      reference_ = a_.histogram ? circular_histogram(m.points, a_.reference)
                                : circular_atoms(m.points, m.masses, a_.period, a_.reference,
                                                 a_.reduce ? Range::Reduce : Range::Refuse);
    }
  }

  /// Atoms in the caller's unit, or one per bin.
  Measure as_measure(const CircularMap& map) const {
    Measure m{1, {}, {}};
    if (map.constant) {
      const auto [positions, masses] = inverse_atoms(map);
      for (std::size_t i = 0; i < positions.size(); ++i) m.add(std::vector{unit() * positions[i]}, masses[i]);
    } else {
      const auto bins = inverse_histogram(map, a_.nodes);
      for (std::size_t i = 0; i < bins.size(); ++i)
        m.add(std::vector{unit() * (static_cast<double>(i) + .5) / static_cast<double>(bins.size())}, bins[i]);
    }
    return m;
  }

  Arguments a_;
  std::vector<NamedMeasure> named_;
  std::vector<CircularMeasure> measures_;
  std::optional<CircularMeasure> reference_;
  std::vector<CircularMap> maps_;
};

// ---- directions

class Sphere : public Space {
 public:
  explicit Sphere(const Arguments& a) : a_(a), named_(read_all(a)) {
    require(!named_.empty() && named_[0].measure.size() > 0, "the first measure has no points");
    Random random(a.seed);
    circles_ = great_circles(named_[0].measure.dim, a.circles, random);
    for (const auto& [name, m] : named_) maps_.push_back(sliced_embed(m, circles_, name));
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(maps_.size()); }
  std::string name(std::int64_t i) const override { return named_[at(i)].name; }
  std::string summary() const override {
    return fmt::format("{} measures of directions in {} dimensions: LCOT over {} random great circles", size(),
                       circles_.dim, circles_.count);
  }
  Table table() const override {
    Table t{"Measures", {"measure", "atoms", "mass"}, {}};
    for (const auto& [name, m] : named_) t.rows.push_back({name, fmt::format("{}", m.size()), six_digits(m.total())});
    return t;
  }
  std::string quantity() const override { return "sliced LCOT distance (turns)"; }
  std::vector<double> features() const override { return rows_of(lcot_grid); }
  std::vector<double> euclidean_features() const override { return rows_of(chordal_features); }
  std::vector<double> distances() const override {
    std::vector<double> matrix(at(size() * size()), 0.0);
    for (std::int64_t i = 0; i < size(); ++i)
      for (std::int64_t j = 0; j < i; ++j)
        matrix[at(i * size() + j)] = matrix[at(j * size() + i)] = std::sqrt(sliced_lcot(maps_[at(i)], maps_[at(j)]));
    return matrix;
  }
  double exact(std::int64_t, std::int64_t) const override { fail_usage("--exact is for the spaces plane and circle"); }
  Measure between(std::int64_t, std::int64_t, double) const override {
    fail_usage("interpolation is for the spaces plane and circle");
  }
  Measure mean(Json&) const override { fail_usage("barycentres are for the spaces plane and circle"); }
  Drawing panels(const std::string& title, const Panels& frames) const override { return point_panels(title, frames); }
  Drawing picture(const std::string& title) const override {
    Panels frames;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(kShown, size()); ++i)
      frames.emplace_back(name(i), named_[at(i)].measure);
    return point_panels(title, frames, "The first two coordinates.");
  }

 private:
  std::vector<double> rows_of(std::vector<double> (*of)(const CircularMap&, std::int64_t)) const {
    std::vector<double> rows;
    for (const auto& maps : maps_) {
      for (const auto& m : maps) {
        const auto e = of(m, a_.nodes);
        rows.insert(rows.end(), e.begin(), e.end());
      }
    }
    return rows;
  }

  Arguments a_;
  std::vector<NamedMeasure> named_;
  GreatCircles circles_;
  std::vector<std::vector<CircularMap>> maps_;
};

}  // namespace

std::unique_ptr<Space> load_space(const MeasureArguments& a) {
  if (a.space != "circle" && (a.p != 2 || a.histogram || a.period != MeasureArguments().period))
    fail_usage("--p, --period and --histogram are for --space circle");
  if (a.space != "plane" && a.lambda != 0) fail_usage("--lambda is for --space plane");
  if (a.space == "sphere" && !a.reference.empty()) fail_usage("--reference is for the spaces plane and circle");
  if (a.space == "circle") return std::make_unique<Circle>(a);
  if (a.space == "sphere") return std::make_unique<Sphere>(a);
  return std::make_unique<Plane>(a);
}

}  // namespace unbend
