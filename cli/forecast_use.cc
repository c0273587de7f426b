// unbend forecast predict, evaluate, explain.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <set>

#include "cli/forecast.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/forecast/evaluate.h"
#include "unbend/forecast/explain.h"
#include "unbend/report/html.h"

namespace unbend::forecast_verbs {
namespace {

constexpr std::size_t kPictures = 12;

struct UseArguments {
  Reading reading;
  std::string model, report, out, calibrate, series;
  std::vector<double> intervals{80, 95};
  forecast::PredictOptions predict;
  int member = 0;
  bool json = false;
};

/// One interval per level and step, in the units of the series.
struct Interval {
  double level;
  std::vector<double> low, high;
};

std::vector<Interval> intervals_of(const forecast::Forecast& f, const std::optional<series::Calibration>& calibration,
                                   const std::vector<double>& levels) {
  std::vector<Interval> out;
  if (!calibration) return out;
  for (const double level : levels) {
    Interval i{level, {}, {}};
    for (std::size_t h = 0; h < f.values.size(); ++h) {
      const bool known = static_cast<int>(h) < calibration->horizon();
      const double half = known ? series::half_width(*calibration, static_cast<int>(h), level, f.variation) : NAN;
      i.low.push_back(f.values[h] - half), i.high.push_back(f.values[h] + half);
    }
    out.push_back(std::move(i));
  }
  return out;
}

std::vector<double> count_from(int first, std::size_t count) {
  std::vector<double> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(first + static_cast<double>(i));
  return out;
}

/// The last points of a history, counted up to 0, and what follows.
LinePlot picture(const std::string& id, const std::vector<double>& history, const std::vector<double>& forecast,
                 const std::vector<Interval>& intervals, const std::vector<double>& actual) {
  LinePlot plot{id, {"points from now"}, {"value"}, {}};
  const std::size_t shown = std::min(history.size(), 4 * forecast.size());
  plot.series.push_back({"history",
                         count_from(1 - static_cast<int>(shown), shown),
                         {history.end() - static_cast<std::ptrdiff_t>(shown), history.end()}});
  Series f{"forecast", count_from(1, forecast.size()), forecast};
  if (!intervals.empty()) {
    f.low = intervals.back().low, f.high = intervals.back().high;
    plot.caption = fmt::format("Band: {:g} % interval.", 100 * intervals.back().level);
    plot.spread = Spread::Band;
  }
  f.color = 1;
  plot.series.push_back(std::move(f));
  if (!actual.empty()) {
    plot.series.push_back({"what came", count_from(1, actual.size()), actual});
    plot.series.back().dashed = true, plot.series.back().color = 2;
  }
  return plot;
}

Json array_of(const std::vector<double>& values) {
  Json out = Json::array();
  for (const double v : values) out.push_back(finite(v));
  return out;
}

// ---- predict

std::string csv_of(const std::vector<forecast::Forecast>& forecasts,
                   const std::vector<std::vector<Interval>>& intervals, const series::Collection& collection,
                   const series::Frequency& frequency) {
  const bool times = std::any_of(collection.begin(), collection.end(),
                                 [&](const auto& s) { return !series::time_after(s, frequency, 1).empty(); });
  std::string text = times ? "id,step,time,forecast" : "id,step,forecast";
  for (const auto& i : intervals.at(0)) text += fmt::format(",low_{0:g},high_{0:g}", 100 * i.level);
  text += '\n';
  for (std::size_t s = 0; s < forecasts.size(); ++s) {
    const auto& f = forecasts[s];
    for (std::size_t h = 0; h < f.values.size(); ++h) {
      text += fmt::format("{},{}", series::quoted(f.id), h + 1);
      if (times) text += "," + series::time_after(collection[s], frequency, static_cast<int>(h) + 1);
      text += fmt::format(",{:.8g}", f.values[h]);
      for (const auto& i : intervals[s])
        text += !std::isfinite(i.low[h]) ? ",," : fmt::format(",{:.8g},{:.8g}", i.low[h], i.high[h]);
      text += '\n';
    }
  }
  return text;
}

void predict(const UseArguments& a) {
  const auto ensemble = forecast::load_ensemble(a.model);
  const auto& frequency = series::find_frequency(ensemble.frequency);
  const auto collection = read(a.reading, frequency);
  const auto levels = levels_of(a.intervals);
  auto calibration = ensemble.calibration;
  if (!a.calibrate.empty()) {
    Reading other = a.reading;
    other.file = a.calibrate;
    calibration = forecast::calibrate_on(ensemble, read(other, frequency));
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto forecasts = forecast::predict(ensemble, collection, a.predict);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::vector<std::vector<Interval>> intervals;
  for (const auto& f : forecasts) intervals.push_back(intervals_of(f, calibration, levels));

  std::vector<std::string> notes;
  for (const auto& f : forecasts)
    for (const auto& note : f.notes) notes.push_back(fmt::format("series '{}': {}", f.id, note));
  if (!calibration && !levels.empty())
    notes.push_back("the ensemble stores no calibration: no intervals (--calibrate FILE makes them)");
  if (!a.report.empty()) {
    HtmlReport report("Forecasts", fmt::format("{}, {} members, trained on {}", a.model, ensemble.members.size(),
                                               ensemble.trained_on));
    if (!notes.empty()) report.heading("Notes").list(notes);
    report.heading("Series");
    for (std::size_t i = 0; i < std::min(kPictures, forecasts.size()); ++i)
      report.plot(picture(forecasts[i].id, collection[i].values, forecasts[i].values, intervals[i], {}));
    if (forecasts.size() > kPictures)
      report.paragraph(fmt::format("The first {} of {} series are drawn.", kPictures, forecasts.size()));
    report.write(a.report);
  }
  const std::string text = csv_of(forecasts, intervals, collection, frequency);
  if (!a.out.empty()) write_file(a.out, text);
  if (a.json) {
    Json json{{"model", a.model},
              {"frequency", ensemble.frequency},
              {"seconds", seconds},
              {"calibration_series", calibration ? calibration->series() : 0},
              {"series", Json::array()}};
    for (std::size_t i = 0; i < forecasts.size(); ++i) {
      Json one{{"id", forecasts[i].id}, {"forecast", array_of(forecasts[i].values)}};
      for (const auto& v : intervals[i])
        one["intervals"].push_back({{"level", v.level}, {"low", array_of(v.low)}, {"high", array_of(v.high)}});
      one["notes"] = forecasts[i].notes;
      json["series"].push_back(one);
    }
    return print_json(json);
  }
  if (a.out.empty())
    fmt::print("{}", text);
  else
    fmt::print("{}: {} series, {} points each, in {:.3f} s\n", a.out, forecasts.size(), forecasts[0].values.size(),
               seconds);
  for (const auto& note : notes) fmt::print(stderr, "- {}\n", note);
}

// ---- evaluate

Table table_of(const forecast::Evaluation& e) {
  Table table{"", {"method", "sMAPE (%)", "MASE", "OWA", "MAPE (%)", "ND", "seconds"}, {}};
  for (const auto& m : e.methods)
    table.rows.push_back({m.method, number(m.scores.smape), number(m.scores.mase), number(m.owa), number(m.scores.mape),
                          number(m.scores.nd), fmt::format("{:.3f}", m.seconds)});
  return table;
}

void evaluate(const UseArguments& a) {
  const auto ensemble = forecast::load_ensemble(a.model);
  const auto collection = read(a.reading, series::find_frequency(ensemble.frequency));
  const auto e = forecast::evaluate(ensemble, collection, levels_of(a.intervals));
  const auto& scores = e.methods.back().scores;
  std::vector<std::string> notes = e.left_out;
  if (scores.without_scale > 0)
    notes.push_back(fmt::format(
        "{} of {} series repeat exactly, or have no more than a season before what is held out, and have no MASE",
        scores.without_scale, scores.series));
  if (scores.with_zeros > 0)
    notes.push_back(fmt::format("{} of {} series have zeros and no MAPE", scores.with_zeros, scores.series));
  for (const auto& c : e.coverage)
    notes.push_back(fmt::format("{:g} % intervals cover {:.1f} % of {} points", 100 * c.level,
                                100. * c.covered / c.points, c.points));

  Table each{"sMAPE by series", {"series"}, {}};
  for (const auto& m : e.methods) each.columns.push_back(m.method);
  for (std::size_t i = 0; i < e.histories.size(); ++i) {
    std::vector<std::string> row{e.histories[i].id};
    for (const auto& m : e.methods) row.push_back(number(m.smape[i]));
    each.rows.push_back(std::move(row));
  }
  if (!a.report.empty()) {
    HtmlReport report("Forecasts and what came", fmt::format("last {} points of {} series of {}; {}", ensemble.horizon,
                                                             e.histories.size(), a.reading.file, a.model));
    BarPlot bars{"OWA: below 1 is better than Naive2", "OWA", {}, {{"OWA", {}}}};
    for (const auto& m : e.methods) bars.categories.push_back(m.method), bars.series[0].values.push_back(m.owa);
    report.heading("Scores").table(table_of(e));
    if (std::isfinite(e.methods[0].owa)) report.plot(bars);
    if (!notes.empty()) report.list(notes);
    report.heading("Series");
    for (std::size_t i = 0; i < std::min(kPictures, e.histories.size()); ++i) {
      forecast::Forecast f;
      f.values = e.forecast[i], f.variation = e.variation[i];
      report.plot(picture(e.histories[i].id, e.histories[i].values, f.values,
                          intervals_of(f, ensemble.calibration, levels_of(a.intervals)), e.actual[i]));
    }
    if (each.rows.size() > 500) each.rows.resize(500);
    report.table(each);
    report.write(a.report);
  }
  if (a.json) {
    Json json{{"model", a.model},
              {"series", scores.series},
              {"left_out", e.left_out},
              {"methods", Json::array()},
              {"coverage", Json::array()}};
    for (const auto& m : e.methods)
      json["methods"].push_back({{"method", m.method},
                                 {"smape", finite(m.scores.smape)},
                                 {"mase", finite(m.scores.mase)},
                                 {"owa", finite(m.owa)},
                                 {"mape", finite(m.scores.mape)},
                                 {"nd", finite(m.scores.nd)},
                                 {"without_scale", m.scores.without_scale},
                                 {"with_zeros", m.scores.with_zeros},
                                 {"seconds", m.seconds},
                                 {"smape_by_series", array_of(m.smape)}});
    for (const auto& c : e.coverage)
      json["coverage"].push_back({{"level", c.level}, {"covered", c.covered}, {"points", c.points}});
    return print_json(json);
  }
  fmt::print("{} series, last {} points\n{}", scores.series, ensemble.horizon, to_text(table_of(e)));
  for (const auto& note : notes) fmt::print("- {}\n", note);
}

// ---- explain

/// |d forecast / d value|, per month back, mean over the horizon.
std::vector<double> importance(const at::Tensor& weights) {
  const auto mean = weights.abs().mean(0).contiguous();
  return {mean.const_data_ptr<double>(), mean.const_data_ptr<double>() + mean.numel()};
}

std::vector<double> row_of(const at::Tensor& t) {
  const auto c = t.contiguous();
  return {c.const_data_ptr<double>(), c.const_data_ptr<double>() + c.numel()};
}

void explain(const UseArguments& a) {
  const auto ensemble = forecast::load_ensemble(a.model);
  const auto collection = read(a.reading, series::find_frequency(ensemble.frequency));
  if (a.member < 0 || a.member >= std::ssize(ensemble.members))
    fail_usage("--member {}: the ensemble has members 0 to {}", a.member, ensemble.members.size() - 1);
  const auto found =
      std::find_if(collection.begin(), collection.end(), [&](const auto& s) { return s.id == a.series; });
  if (!a.series.empty()) require(found != collection.end(), "{}: there is no series '{}'", a.reading.file, a.series);
  const auto& s = a.series.empty() ? collection[0] : *found;
  const auto& member = ensemble.members[static_cast<std::size_t>(a.member)];
  const auto e = forecast::explain(member, s);

  Table blocks{"", {"block", "stack", "first point", "last point", "left of the window"}, {}};
  for (std::size_t b = 0; b < e.blocks.size(); ++b)
    blocks.rows.push_back({std::to_string(b + 1), e.blocks[b].basis, number(e.blocks[b].forecast.front()),
                           number(e.blocks[b].forecast.back()), number(e.blocks[b].left)});
  const auto important = importance(e.loop.weights_of_past);
  std::vector<std::size_t> order(important.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](auto x, auto y) { return important[x] > important[y]; });
  order.resize(std::min<std::size_t>(5, order.size()));

  if (!a.report.empty()) {
    HtmlReport report(fmt::format("Why '{}' is forecast so", s.id),
                      fmt::format("member {} of {}: lookback {}, loss {}", a.member, a.model,
                                  member.training.network.lookback, forecast::name(member.training.loss)));
    report.key_figures(
        {{fmt::format("{:.2g}", e.loop.gap), "gap of the linearised loop", "|exact - linear| / |exact|"},
         {number(e.loop.spectral_radius), "spectral radius of I - G J", "below 1: more blocks would converge"}});
    report.heading("Forecast").plot(picture(s.id, e.window, e.forecast, {}, {}));
    LinePlot sums{"The forecast after each block", {"points ahead"}, {"value"}, {}};
    std::vector<double> sum(e.forecast.size(), e.level);
    const std::size_t step = (e.blocks.size() + 6) / 7;
    for (std::size_t b = 0; b < e.blocks.size(); ++b) {
      for (std::size_t h = 0; h < sum.size(); ++h) sum[h] += e.blocks[b].forecast[h];
      if ((b + 1) % step == 0 || b + 1 == e.blocks.size())
        sums.series.push_back({fmt::format("{} block{}", b + 1, b ? "s" : ""), count_from(1, sum.size()), sum});
    }
    report.plot(sums);
    if (member.layout.config.stacks.size() > 1) {
      LinePlot parts{"By stack", {"points ahead"}, {"value"}, {}};
      for (std::size_t k = 0; k < member.layout.config.stacks.size(); ++k) {
        std::vector<double> part(e.forecast.size(), 0);
        for (const auto& b : e.blocks)
          if (b.stack == static_cast<int>(k))
            for (std::size_t h = 0; h < part.size(); ++h) part[h] += b.forecast[h];
        parts.series.push_back({nbeats::name(member.layout.config.stacks[k].basis), count_from(1, part.size()), part});
      }
      report.plot(parts);
    }
    report.table(blocks);
    report.heading("Weights of the past")
        .paragraph(
            "How far a forecast moves when one past value moves by 1, at the scale of this window: the derivative of "
            "the whole network.");
    LinePlot weights{"Weights of the past", {"points back"}, {"weight"}, {}};
    const auto horizon = e.forecast.size();
    for (const std::size_t h : std::set<std::size_t>{0, horizon / 2, horizon - 1}) {
      const auto row = row_of(e.loop.weights_of_past[static_cast<std::int64_t>(h)]);
      weights.series.push_back({fmt::format("{} ahead", h + 1),
                                count_from(0, e.window.size()),
                                {row.begin(), row.begin() + static_cast<std::ptrdiff_t>(e.window.size())}});
    }
    report.plot(weights);
    if (!e.loop.updated.empty()) {
      BarPlot updates{"Each block forecasts with an updated last layer", "|Q_r| / |Q_0|", {}, {{"Q (I - J G)^r", {}}}};
      updates.caption = "J: Jacobian of the block's features at the window, G: its backcast map, Q: its forecast map.";
      const double first = e.loop.updated[0].norm().item<double>();
      for (std::size_t r = 0; r < e.loop.updated.size(); ++r) {
        updates.categories.push_back(std::to_string(r));
        updates.series[0].values.push_back(e.loop.updated[r].norm().item<double>() / first);
      }
      report.plot(updates);
    }
    report.write(a.report);
  }
  if (a.json) {
    Json json{{"series", s.id},
              {"member", a.member},
              {"forecast", array_of(e.forecast)},
              {"level", e.level},
              {"gap", finite(e.loop.gap)},
              {"spectral_radius", finite(e.loop.spectral_radius)},
              {"linear_forecast_scaled", array_of(row_of(e.loop.linear))},
              {"exact_forecast_scaled", array_of(row_of(e.loop.exact))},
              {"blocks", Json::array()},
              {"weights_of_past", Json::array()}};
    for (const auto& b : e.blocks)
      json["blocks"].push_back({{"stack", b.stack},
                                {"basis", b.basis},
                                {"forecast", array_of(b.forecast)},
                                {"backcast", array_of(b.backcast)},
                                {"left", finite(b.left)}});
    for (std::size_t h = 0; h < e.forecast.size(); ++h)
      json["weights_of_past"].push_back(array_of(row_of(e.loop.weights_of_past[static_cast<std::int64_t>(h)])));
    return print_json(json);
  }
  fmt::print("series '{}', member {} (lookback {}, loss {})\n{}", s.id, a.member, member.training.network.lookback,
             forecast::name(member.training.loss), to_text(blocks));
  fmt::print("linearised loop: gap {:.2g}; spectral radius of I - G J {}\n", e.loop.gap,
             number(e.loop.spectral_radius));
  fmt::print("past values that weigh most:");
  for (const std::size_t i : order) fmt::print(" {} back ({:.3f})", i, important[i]);
  fmt::print("\n");
}

CLI::App* add_use(CLI::App& group, const char* name, const char* what, const std::shared_ptr<UseArguments>& a,
                  void (*run)(const UseArguments&)) {
  auto* verb = group.add_subcommand(name, what);
  verb->add_option("series", a->reading.file, "CSV of series")->required();
  verb->add_option("--model", a->model,
                   "ensemble of `unbend forecast fit`, or data/forecast/{monthly,quarterly}.safetensors")
      ->required();
  add_reading(*verb, a->reading, false);
  verb->add_option("--report", a->report, "HTML report with pictures");
  verb->add_flag("--json", a->json, "print JSON");
  verb->callback([a, run] {
    for (const auto& path : {a->out, a->report}) check_output(path);
    run(*a);
  });
  return verb;
}

void add_intervals(CLI::App& verb, UseArguments& a) {
  verb.add_option("--intervals", a.intervals, "levels in percent")->delimiter(',')->capture_default_str();
}

}  // namespace

void add_predict(CLI::App& group) {
  auto a = std::make_shared<UseArguments>();
  auto* verb = add_use(group, "predict", "forecast new series, with intervals", a, predict);
  add_intervals(*verb, *a);
  verb->add_option("--horizon", a->predict.horizon, "points; without: the ensemble's")->check(CLI::Range(1, 100000));
  verb->add_flag("--truncate", a->predict.truncate, "allow fewer points than the ensemble forecasts");
  verb->add_flag("--iterate", a->predict.iterate,
                 "allow more points: forecasts are fed back (without intervals there)");
  verb->add_option("--calibrate", a->calibrate,
                   "CSV of series like these: intervals from their last horizons instead of the source's");
  verb->add_option("--out", a->out, "write the forecasts as CSV instead of printing them");
  verb->footer(
      "Examples:\n"
      "  unbend forecast predict sales.csv --model data/forecast/monthly.safetensors\n"
      "  unbend forecast predict sales.csv --model data/forecast/monthly.safetensors --calibrate sales.csv --intervals "
      "50,80 --report sales.html");
}

void add_evaluate(CLI::App& group) {
  auto a = std::make_shared<UseArguments>();
  auto* verb = add_use(group, "evaluate",
                       "hold out the last horizon of each series: sMAPE, MASE, OWA, ND beside baselines", a, evaluate);
  add_intervals(*verb, *a);
  verb->footer(
      "Example:\n  unbend forecast evaluate sales.csv --model data/forecast/monthly.safetensors --report scores.html");
}

void add_explain(CLI::App& group) {
  auto a = std::make_shared<UseArguments>();
  auto* verb =
      add_use(group, "explain", "one forecast block by block, and the linearised weights of the past", a, explain);
  verb->add_option("--series", a->series, "its id; without: the first");
  verb->add_option("--member", a->member, "of the ensemble")->capture_default_str();
  verb->footer(
      "Example:\n  unbend forecast explain sales.csv --model data/forecast/monthly.safetensors --series shoes --report "
      "why.html");
}

}  // namespace unbend::forecast_verbs
