// Verbs on measures: point clouds, pictures, angles and directions as vectors.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "cli/measure.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/progress.h"
#include "unbend/report/html.h"
#include "unbend/report/table.h"
#include "unbend/transport/pca.h"
#include "unbend/transport/picture.h"

namespace unbend {
namespace {

using namespace transport;

using Arguments = MeasureArguments;

HtmlReport report_of(const std::string& title, const Space& space) {
  constexpr std::size_t kShown = 20;  // rows: a page is to be looked at
  HtmlReport report(title, space.summary());
  Table table = space.table();
  if (table.rows.size() > kShown) {
    table.title = fmt::format("The first {} of {} measures", kShown, table.rows.size());
    table.rows.resize(kShown);
  }
  report.heading("Measures").table(table);
  if (!space.notes().empty()) report.list(space.notes());
  return report;
}

void finish(const Arguments& a, Json json, const Space& space, const std::string& text) {
  if (a.json) {
    json["space"] = space.summary();
    json["notices"] = space.notes();
    return print_json(json);
  }
  fmt::print("{}\n", space.summary());
  if (!text.empty()) fmt::print("{}", text);
  for (const auto& note : space.notes()) fmt::print("- {}\n", note);
}

void embed(const Arguments& a) {
  const auto space = load_space(a);
  const auto rows = space->features();
  if (!a.out.empty()) write_rows(a.out, space->size(), rows);
  if (!a.report.empty()) report_of("Embedded measures", *space).drawing(space->picture("Measures")).write(a.report);
  const auto width = static_cast<std::int64_t>(rows.size()) / space->size();
  finish(a, {{"measures", to_json(space->table())["rows"]}, {"features", width}}, *space,
         fmt::format("{}{} numbers per measure{}\n", to_text(space->table()), width,
                     a.out.empty() ? "; --out FILE.npy keeps them" : ""));
}

void distance(const Arguments& a) {
  const auto space = load_space(a);
  const std::int64_t count = space->size();
  const auto start = std::chrono::steady_clock::now();
  const auto matrix = space->distances();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  Json json{{"measures", Json::array()},
            {"quantity", space->quantity()},
            {"matrix", Json::array()},
            {"seconds", seconds.count()}};
  Table table{space->quantity(), {"measure"}, {}};
  for (std::int64_t i = 0; i < count; ++i) {
    json["measures"].push_back(space->name(i));
    const auto row = std::span(matrix).subspan(static_cast<std::size_t>(i * count), static_cast<std::size_t>(count));
    json["matrix"].push_back(std::vector<double>(row.begin(), row.end()));
    table.columns.push_back(fmt::format("{}", i));
    table.rows.push_back({fmt::format("{} {}", i, space->name(i))});
    for (const double x : row) table.rows.back().push_back(six_digits(x));
  }
  std::string text =
      count <= 12 ? to_text(table) : fmt::format("{} x {} values: --out FILE keeps them\n", count, count);
  Table compared{"Linear against exact", {"pair", "linear", "exact", "ratio"}, {}};
  if (a.exact) {
    json["exact"] = Json::array();
    Progress progress("exact solves", count * (count - 1) / 2, "pairs", a.json || count < 20);
    for (std::int64_t i = 0, done = 0; i < count; ++i) {
      json["exact"].push_back(Json::array());
      for (std::int64_t j = 0; j < i; ++j) {
        const double exact = space->exact(i, j), linear = matrix[static_cast<std::size_t>(i * count + j)];
        json["exact"].back().push_back(exact);
        if (compared.rows.size() < 200)
          compared.rows.push_back({fmt::format("{} {}", i, j), six_digits(linear), six_digits(exact),
                                   exact > 0 ? six_digits(linear / exact) : "-"});
        progress.update(++done);
      }
    }
    progress.finish();
    text += to_text(compared);
  }
  if (!a.out.empty()) write_rows(a.out, count, matrix);
  if (!a.report.empty()) {
    HtmlReport report = report_of("Distances between measures", *space);
    if (count <= 40) report.heading("Distances").table(table);
    if (a.exact) report.table(compared);
    auto squares = matrix;
    if (!space->squared())
      for (double& x : squares) x *= x;
    const Places places = classical_scaling(squares, count, 2);
    PathPlot plot{"Measures placed by their distances (classical scaling)", {"first axis"}, {"second axis"}, {}};
    for (std::int64_t i = 0; i < count; ++i)
      plot.paths.push_back({count <= 8 ? space->name(i) : "measures",
                            {places.points[static_cast<std::size_t>(2 * i)]},
                            {places.points[static_cast<std::size_t>(2 * i + 1)]}});
    report.plot(plot).drawing(space->picture("Measures")).write(a.report);
  }
  finish(a, std::move(json), *space, text);
}

void interpolate_pair(const Arguments& a) {
  const auto space = load_space(a);
  if (space->size() != 2) fail_usage("interpolation needs two measures, {} were given", space->size());
  std::vector<std::pair<std::string, Measure>> frames;
  Json json{{"frames", Json::array()}};
  Table table{"Frames", {"t", "atoms", "mass"}, {}};
  if (!a.out.empty()) std::filesystem::create_directories(a.out);
  for (int k = 0; k < a.steps; ++k) {
    const double t = static_cast<double>(k) / (a.steps - 1);
    frames.emplace_back(fmt::format("t = {:.2f}", t), space->between(0, 1, t));
    const Measure& m = frames.back().second;
    json["frames"].push_back({{"t", t}, {"atoms", m.size()}, {"mass", m.total()}});
    table.rows.push_back({fmt::format("{:.3f}", t), fmt::format("{}", m.size()), six_digits(m.total())});
    if (!a.out.empty()) write_measure(std::filesystem::path(a.out) / fmt::format("frame_{:03}.csv", k), m);
  }
  if (!a.report.empty())
    report_of("From one measure to another", *space)
        .heading("Frames")
        .drawing(space->panels("Frames", frames))
        .table(table)
        .write(a.report);
  finish(a, std::move(json), *space, to_text(table));
}

void mean(const Arguments& a) {
  const auto space = load_space(a);
  Json json = Json::object();
  const Measure m = space->mean(json);
  json["atoms"] = m.size();
  json["mass"] = m.total();
  if (!a.out.empty()) write_measure(a.out, m);
  if (!a.report.empty())
    report_of("Barycentre", *space)
        .heading("Barycentre")
        .drawing(space->panels("Barycentre", {{"barycentre", m}}))
        .drawing(space->picture("Measures"))
        .write(a.report);
  finish(a, json, *space,
         fmt::format("barycentre: {} atoms of mass {}{}\n", m.size(), six_digits(m.total()),
                     a.out.empty() ? "; --out FILE keeps it" : ""));
}

void pca(const Arguments& a) {
  const auto space = load_space(a);
  const auto rows = space->euclidean_features();
  const std::int64_t count = space->size();
  const Pca found = fit_pca(rows, count, a.components);
  if (found.size() == 0) fail_input("principal components: all measures are the same");
  const auto placed = scores(found, rows);
  std::vector<std::string> labels(static_cast<std::size_t>(count), "measures");
  constexpr std::int64_t kColours = 8;  // a report's
  if (a.labels.empty() && count <= kColours)
    for (std::int64_t i = 0; i < count; ++i) labels[static_cast<std::size_t>(i)] = space->name(i);
  if (!a.labels.empty()) {
    const auto given = read_measures(a.labels)[0].measure.points;
    require(given.size() == labels.size(), "{}: {} labels for {} measures", a.labels, given.size(), count);
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = fmt::format("{:g}", given[i]);
  }
  Json json{{"variances", found.variances}, {"total_variance", found.total_variance}, {"scores", Json::array()}};
  Table variances{"Components", {"component", "variance", "share"}, {}};
  for (std::int64_t k = 0; k < found.size(); ++k) {
    const double v = found.variances[static_cast<std::size_t>(k)];
    variances.rows.push_back(
        {fmt::format("{}", k + 1), six_digits(v), fmt::format("{:.1f} %", 100 * v / found.total_variance)});
  }
  PathPlot plot{"Measures by their first two components", {"first component"}, {"second component"}, {}};
  for (std::int64_t i = 0; i < count; ++i) {
    const auto row =
        std::span(placed).subspan(static_cast<std::size_t>(i * found.size()), static_cast<std::size_t>(found.size()));
    json["scores"].push_back(std::vector<double>(row.begin(), row.end()));
    plot.paths.push_back({labels[static_cast<std::size_t>(i)], {row[0]}, {found.size() > 1 ? row[1] : 0}});
  }
  if (!a.out.empty()) write_rows(a.out, count, placed);
  if (!a.report.empty()) {
    HtmlReport report = report_of("Principal components of measures", *space);
    report.heading("Components").table(variances).plot(plot);
    for (std::int64_t k = 0; k < std::min<std::int64_t>(2, found.size()); ++k) {
      std::vector<std::pair<std::string, Measure>> frames;
      for (const double s : {-2., -1., 0., 1., 2.}) {
        std::vector<double> row = found.mean;
        const double step = s * std::sqrt(found.variances[static_cast<std::size_t>(k)]);
        for (std::int64_t f = 0; f < found.features; ++f)
          row[static_cast<std::size_t>(f)] += step * found.components[static_cast<std::size_t>(k * found.features + f)];
        if (auto m = space->from_features(row)) frames.emplace_back(fmt::format("{:+g} deviations", s), std::move(*m));
      }
      if (!frames.empty()) report.drawing(space->panels(fmt::format("Along component {}", k + 1), frames));
    }
    report.drawing(space->picture("Measures")).write(a.report);
  }
  finish(a, std::move(json), *space, to_text(variances));
}

void add_common(CLI::App* verb, const std::shared_ptr<Arguments>& a, const char* out) {
  verb->add_option(
          "measures", a->files,
          "files: points as CSV, .npy ([N, d], [K, N, d]) or PLY; pictures as PNG or JPEG; angles as CSV or .npy")
      ->required();
  verb->add_option("--space", a->space, "plane (points of any dimension), circle (angles), sphere (directions)")
      ->check(CLI::IsMember({"plane", "circle", "sphere"}))
      ->capture_default_str();
  verb->add_option("--masses", a->masses,
                   "unit (1 per point; grey values of pictures), equal (sum 1), column (the last one)")
      ->check(CLI::IsMember({"unit", "equal", "column"}))
      ->capture_default_str();
  verb->add_flag("--images", a->images, ".npy files hold pictures [K, height, width]");
  verb->add_option("--above", a->above, "pictures: leave out pixels up to this share of the brightest")
      ->capture_default_str();
  verb->add_option("--first", a->first, "take so many measures of each file; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--method", a->method,
                   "plane: lopt (partial), lot (balanced, masses scaled to 1), hk (moving and growing)")
      ->check(CLI::IsMember({"lopt", "lot", "hk"}))
      ->capture_default_str();
  verb->add_option("--lambda", a->lambda,
                   "price of giving up a unit of mass; nothing moves further than sqrt(2 lambda). 0: from the data")
      ->capture_default_str();
  verb->add_option("--reference", a->reference,
                   "file of the reference measure; without: k-means centres of all points");
  verb->add_option("--reference-size", a->reference_size, "how many centres")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  verb->add_option("--period", a->period, "circle: one turn, such as 360, 24, 1")->capture_default_str();
  verb->add_flag("--reduce", a->reduce, "circle: take values beyond one turn modulo the period");
  verb->add_flag("--histogram", a->histogram, "circle: files hold masses of even bins, not angles");
  verb->add_option("--p", a->p, "circle: exponent of the cost")->capture_default_str();
  verb->add_option("--nodes", a->nodes, "circle, sphere: numbers per map in features, bins of results")
      ->check(CLI::Range(2, 1000000))
      ->capture_default_str();
  verb->add_option("--circles", a->circles, "sphere: random great circles")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  verb->add_option("--seed", a->seed, "of centres and circles")->capture_default_str();
  verb->add_option("--out", a->out, out);
  verb->add_option("--report", a->report, "HTML report to write");
  verb->add_option("--threads", a->threads, "0 = one per core")->check(CLI::Range(0, 4096))->capture_default_str();
  verb->add_flag("--json", a->json, "print JSON");
}

}  // namespace

void add_measure_verbs(CLI::App& app) {
  auto* group = app.add_subcommand("measure", "point clouds, pictures, angles, directions as vectors (LOPT, LCOT)");
  group->require_subcommand(1);
  group->footer(
      "Examples:\n  unbend measure distance a.csv b.csv c.csv --lambda 4\n"
      "  unbend measure pca clouds.npy --lambda 20 --report pca.html\n"
      "  unbend measure interpolate monday.csv sunday.csv --space circle --period 24 --report day.html");
  const auto add = [&](const char* name, const char* help, const char* out, void (*run)(const Arguments&),
                       const char* examples) {
    auto a = std::make_shared<Arguments>();
    auto* verb = group->add_subcommand(name, help);
    add_common(verb, a, out);
    verb->footer(examples);
    const bool folder = run == interpolate_pair;
    verb->callback([a, run, folder] {
      check_output(a->report);
      if (!folder) check_output(a->out);
      run(*a);
    });
    return std::pair(verb, a);
  };
  add("embed", "one vector per measure", "features to write, .npy or CSV", embed,
      "Examples:\n  unbend measure embed scan1.ply scan2.ply --lambda 0.5 --out features.npy\n"
      "  unbend measure embed hues.csv --space circle --period 360 --nodes 100 --out hue.npy");
  const auto [distances, d] = add("distance", "all pairs at vector cost", "matrix to write, .npy or CSV", distance,
                                  "Examples:\n  unbend measure distance a.csv b.csv c.csv --lambda 4 --exact\n"
                                  "  unbend measure distance day*.csv --space circle --period 24 --json");
  distances->add_flag("--exact", d->exact, "solve every pair exactly too (OPT, OT, HK or COT), to compare");
  const auto [way, w] =
      add("interpolate", "the way from one measure to another", "folder to write frames to, CSV", interpolate_pair,
          "Examples:\n  unbend measure interpolate a.csv b.csv --lambda 4 --report way.html\n"
          "  unbend measure interpolate 3.png 8.png --above 0.3 --lambda 30 --steps 9 --out frames/");
  way->add_option("--steps", w->steps, "frames, both ends included")->check(CLI::Range(2, 1000))->capture_default_str();
  way->add_flag("--raw", w->raw, "circle: average the maps without wrapping, as the authors' code");
  const auto [barycentre, b] =
      add("barycenter", "one measure in the middle of all", "measure to write, .npy or CSV", mean,
          "Examples:\n  unbend measure barycenter a.csv b.csv c.csv --lambda 4 --out mean.csv\n"
          "  unbend measure barycenter hours*.csv --space circle --period 24");
  barycentre->add_option("--weights", b->weights, "one per measure");
  const auto [components, p] =
      add("pca", "principal components, and measures along them", "scores to write, .npy or CSV", pca,
          "Examples:\n  unbend measure pca build/data/digits/images.npy --images --above 0.4 --first 200 --lambda 20 "
          "--report pca.html\n"
          "  unbend measure pca day*.csv --space circle --period 24");
  components->add_option("--components", p->components)->check(CLI::Range(1, 10000))->capture_default_str();
  components->add_option("--labels", p->labels, "one number per measure, for colours");
  components->add_flag("--mass-feature", p->mass_feature, "plane, lopt: masses count beside displacements");
}

}  // namespace unbend
