#include "studies/study.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace unbend {
namespace {

std::string number(double value) { return fmt::format("{:.4g}", value); }

std::string bar_text(const Bar& bar) {
  const std::string each = bar.each ? " each" : "";
  switch (bar.kind) {
    case Bar::Kind::None: return "-";
    case Bar::Kind::AtLeast: return fmt::format(">= {}{}", number(bar.value), each);
    case Bar::Kind::AtMost: return fmt::format("<= {}{}", number(bar.value), each);
    case Bar::Kind::Within: return fmt::format("{} \u00b1 {}", number(bar.value), number(bar.tolerance)) + each;
  }
  return "-";
}

std::string measured_text(const Claim& claim) {
  if (claim.measured.empty()) return "-";
  std::string text = number(mean(claim.measured));
  if (claim.measured.size() > 1) text += fmt::format(" \u00b1 {:.2g}", spread(claim.measured));
  return claim.unit.empty() ? text : fmt::format("{} {}", text, claim.unit);
}

std::string verdict_text(const Claim& claim) {
  const std::optional<bool> reached = verdict(claim);
  return !reached ? "-" : *reached ? "pass" : "MISS";
}

/// A study may take more seeds than it was asked for, where its brief wants them.
std::string form(const StudyResult& result, const StudyOptions& options) {
  auto seeds = static_cast<std::size_t>(options.seeds);
  if (options.full) {
    for (const Claim& claim : result.claims) seeds = std::max(seeds, claim.measured.size());
  }
  return fmt::format("{} form, {} seed{}", options.full ? "full" : "quick", seeds, seeds == 1 ? "" : "s");
}

std::string summary(const StudyResult& result) {
  const auto count = [&](bool reached) {
    return std::count_if(result.claims.begin(), result.claims.end(),
                         [&](const Claim& claim) { return verdict(claim) == std::optional(reached); });
  };
  const auto reached = count(true), missed = count(false);
  return fmt::format("{} of {} bars reached{}", reached, reached + missed,
                     missed > 0 ? fmt::format(", {} MISSED", missed) : "");
}

Json bar_json(const Bar& bar) {
  Json json;
  switch (bar.kind) {
    case Bar::Kind::None: return nullptr;
    case Bar::Kind::AtLeast: json = {{"at_least", bar.value}}; break;
    case Bar::Kind::AtMost: json = {{"at_most", bar.value}}; break;
    case Bar::Kind::Within: json = {{"within", bar.tolerance}, {"of", bar.value}}; break;
  }
  if (bar.each) json["each_seed"] = true;
  return json;
}

bool reaches(const Bar& bar, double measured) {
  if (!std::isfinite(measured)) return false;
  switch (bar.kind) {
    case Bar::Kind::None: return true;
    case Bar::Kind::AtLeast: return measured >= bar.value;
    case Bar::Kind::AtMost: return measured <= bar.value;
    case Bar::Kind::Within: return std::abs(measured - bar.value) <= bar.tolerance;
  }
  return false;
}

}  // namespace

void record(StudyResult& result, const std::string& what, const std::string& published, double measured,
            const std::string& unit, const Bar& bar) {
  auto claim = std::ranges::find(result.claims, what, &Claim::what);
  if (claim == result.claims.end()) claim = result.claims.insert(claim, {what, published, {}, unit, bar});
  claim->measured.push_back(measured);
}

double mean(const std::vector<double>& values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double spread(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double center = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - center) * (value - center);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

std::optional<bool> verdict(const Claim& claim) {
  if (claim.bar.kind == Bar::Kind::None) return std::nullopt;
  if (!claim.bar.each || claim.measured.empty()) return reaches(claim.bar, mean(claim.measured));
  return std::ranges::all_of(claim.measured, [&](double value) { return reaches(claim.bar, value); });
}

bool passed(const StudyResult& result) {
  return std::none_of(result.claims.begin(), result.claims.end(),
                      [](const Claim& claim) { return verdict(claim) == std::optional(false); });
}

Table claims_table(const StudyResult& result) {
  Table table{"Claims", {"claim", "published", "measured", "bar", "verdict"}, {}};
  for (const Claim& claim : result.claims) {
    table.rows.push_back({claim.what, claim.published, measured_text(claim), bar_text(claim.bar), verdict_text(claim)});
  }
  return table;
}

std::string study_text(const StudyResult& result, const StudyOptions& options) {
  std::string text = fmt::format("{}: {} ({})\n\n", result.slug, result.title, form(result, options));
  text += to_text(claims_table(result));
  for (const Table& table : result.tables) text += fmt::format("\n{}", to_text(table));
  if (!result.notes.empty()) text += "\n";
  for (const std::string& note : result.notes) text += fmt::format("- {}\n", note);
  return fmt::format("{}\n{}\n", text, summary(result));
}

Json study_json(const StudyResult& result, const StudyOptions& options) {
  Json json{{"slug", result.slug},     {"title", result.title},    {"form", options.full ? "full" : "quick"},
            {"seeds", options.seeds},  {"passed", passed(result)}, {"claims", Json::array()},
            {"tables", Json::array()}, {"notes", result.notes}};
  for (const Claim& claim : result.claims) {
    const std::optional<bool> reached = verdict(claim);
    json["claims"].push_back({{"what", claim.what},
                              {"published", claim.published},
                              {"measured", claim.measured},
                              {"mean", mean(claim.measured)},
                              {"spread", spread(claim.measured)},
                              {"unit", claim.unit},
                              {"bar", bar_json(claim.bar)},
                              {"pass", reached ? Json(*reached) : Json(nullptr)}});
  }
  for (const Table& table : result.tables) json["tables"].push_back(to_json(table));
  return json;
}

HtmlReport study_report(const StudyResult& result, const StudyOptions& options) {
  HtmlReport report("Study: " + result.slug, result.title + " (" + form(result, options) + ")");
  report.heading("Claims").paragraph(summary(result) + ".").table(claims_table(result));
  if (!result.plots.empty() || !result.bar_plots.empty() || !result.cell_plots.empty() || !result.path_plots.empty())
    report.heading("Plots");
  for (const LinePlot& plot : result.plots) report.plot(plot);
  for (const BarPlot& plot : result.bar_plots) report.plot(plot);
  for (const CellPlot& plot : result.cell_plots) report.plot(plot);
  for (const PathPlot& plot : result.path_plots) report.plot(plot);
  if (!result.drawings.empty()) report.heading("Pictures");
  for (const Drawing& drawing : result.drawings) report.drawing(drawing);
  if (!result.tables.empty()) report.heading("Measurements");
  for (const Table& table : result.tables) report.table(table);
  if (!result.notes.empty()) report.heading("Notes").list(result.notes);
  return report;
}

}  // namespace unbend
