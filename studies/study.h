// Studies: programs that check a method's published claims and print claim and measurement side by side.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/report/html.h"
#include "unbend/report/table.h"

namespace unbend {

/// What a measurement must reach. It follows from the published claim and is never loosened to make a run pass.
struct Bar {
  enum class Kind { None, AtLeast, AtMost, Within };
  Kind kind = Kind::None;
  double value = 0;
  double tolerance = 0;  ///< of Within: |measured - value| <= tolerance
  bool each = false;     ///< every seed must reach it, not only their mean

  static Bar none() { return {}; }  ///< reported, not judged
  Bar for_each_seed() const {
    Bar bar = *this;
    bar.each = true;
    return bar;
  }
  static Bar at_least(double value) { return {Kind::AtLeast, value, 0}; }
  static Bar at_most(double value) { return {Kind::AtMost, value, 0}; }
  static Bar within(double value, double tolerance) { return {Kind::Within, value, tolerance}; }
};

/// One published claim beside what was measured.
struct Claim {
  std::string what;
  std::string published;         ///< as the paper states it, with its table or section; "-" for a check of our own
  std::vector<double> measured;  ///< one value per seed
  std::string unit;              ///< may be empty
  Bar bar;
};

struct StudyResult {
  std::string slug, title;
  std::vector<Claim> claims;
  std::vector<std::string> notes;  ///< deviations from the paper, data, what was tried on a miss
  std::vector<Table> tables;
  std::vector<LinePlot> plots;
  std::vector<BarPlot> bar_plots;
  std::vector<Drawing> drawings = {};
  std::vector<CellPlot> cell_plots = {};
  std::vector<PathPlot> path_plots = {};
};

class KeptTrainings;  // studies/kept.h

struct StudyOptions {
  bool full = false;                    ///< the whole study; otherwise the quick form that runs in CI
  int seeds = 1;                        ///< seeds 1..seeds; at least 1
  std::filesystem::path out;            ///< folder for files of the study; empty: it writes none
  bool quiet = false;                   ///< no progress
  std::shared_ptr<KeptTrainings> kept;  ///< trainings are kept there and taken up again; null: none is
};

using StudyFunction = StudyResult (*)(const StudyOptions&);

/// The study of a method, or null while the method is planned. Every method of unbend/methods.def with another status
/// has `StudyResult study_<slug>(const StudyOptions&)` in studies/<slug>.cc.
StudyFunction find_study(std::string_view slug);

/// Takes `measured` as the next seed's value of the claim of that name, which is made if there is none.
void record(StudyResult& result, const std::string& what, const std::string& published, double measured,
            const std::string& unit, const Bar& bar);

double mean(const std::vector<double>& values);    ///< NaN if there are none
double spread(const std::vector<double>& values);  ///< sample standard deviation; 0 for fewer than two values

/// Whether the mean over seeds (with Bar::each, every one of them) reaches the bar; nothing if there is no bar. A
/// missing or non-finite measurement fails.
std::optional<bool> verdict(const Claim& claim);

/// Whether no bar is missed.
bool passed(const StudyResult& result);

Table claims_table(const StudyResult& result);  ///< claim, published, measured, bar, verdict ("pass", "MISS" or "-")
std::string study_text(const StudyResult& result, const StudyOptions& options);
Json study_json(const StudyResult& result, const StudyOptions& options);
HtmlReport study_report(const StudyResult& result, const StudyOptions& options);

}  // namespace unbend
