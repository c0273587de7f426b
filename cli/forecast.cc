// unbend forecast: N-BEATS trained once on many series, applied to others. Here what its verbs share, fit and sample.
#include "cli/forecast.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>

#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"
#include "unbend/series/source.h"

namespace unbend {
namespace forecast_verbs {

namespace {

std::vector<std::string> frequency_names() {
  std::vector<std::string> names;
  for (const auto& f : series::frequencies()) names.push_back(f.name);
  return names;
}

struct FitArguments {
  Reading reading;
  forecast::FitOptions options;
  std::vector<std::string> losses{"smape", "mase", "mape"};
  std::string basis = "generic", level = "zero", out;
  int blocks = 10, layers = 3, width = 128, threads = 0, synthetic = 0;
  double variety = 1;
  bool separate = false, unscaled = false, json = false, quiet = false;
};

/// Which lengths a synthetic series has: eight to seventeen seasons, at least what windows and targets need.
series::SourceOptions synthetic_options(int count, const series::Frequency& f, double variety) {
  const int season = std::max(f.period, f.horizon / 2);
  return {count, f.period, 8 * season, 17 * season, variety};
}

std::string described(const FitArguments& a, std::size_t count) {
  if (!a.options.trained_on.empty()) return a.options.trained_on;
  if (a.synthetic > 0)
    return fmt::format("{} synthetic series (unbend forecast sample, variety {}, seed {}): no outside data", count,
                       a.variety, a.options.seed);
  return fmt::format("{} series of {}", count, std::filesystem::path(a.reading.file).filename().string());
}

series::Collection source_of(const FitArguments& a, const series::Frequency& frequency) {
  if (a.synthetic == 0) return read(a.reading, frequency);
  if (!a.reading.file.empty()) fail_usage("give a file of series or --synthetic, not both");
  Random random(a.options.seed);
  return series::synthetic_source(synthetic_options(a.synthetic, frequency, a.variety), random);
}

void fit(FitArguments a) {
  if (a.reading.file.empty() && a.synthetic == 0) fail_usage("give a file of series to train on, or --synthetic COUNT");
  if (a.threads > 0) at::set_num_threads(a.threads);
  auto& o = a.options;
  o.frequency = a.reading.frequency;
  const auto& frequency = series::find_frequency(o.frequency);
  o.losses.clear();
  for (const auto& name : a.losses) o.losses.push_back(forecast::find_loss(name));
  o.last_level = a.level == "last", o.scaled = !a.unscaled;
  const auto stack = [&](nbeats::Basis basis) {
    return nbeats::Stack{basis, a.blocks, !a.separate, a.layers, a.width};
  };
  if (a.basis == "generic")
    o.stacks = {stack(nbeats::Basis::Generic)};
  else
    o.stacks = {stack(nbeats::Basis::Trend), stack(nbeats::Basis::Seasonality)};
  check_output(a.out);
  const auto source = source_of(a, frequency);
  o.trained_on = described(a, source.size());

  catch_interrupts();
  const auto begin = std::chrono::steady_clock::now();
  std::unique_ptr<Progress> shown;
  const auto ensemble = forecast::fit(source, o, [&](std::int64_t done, std::int64_t total) {
    if (!shown) shown = std::make_unique<Progress>("training", total, "steps", a.quiet);
    shown->update(done);
    return !interrupted();
  });
  if (shown) shown->finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  forecast::save_ensemble(a.out, ensemble, o.half);
  std::size_t parameters = 0;
  for (const auto& m : ensemble.members) parameters += m.weights.size();
  if (a.json) {
    Json members = Json::array();
    for (const auto& m : ensemble.members)
      members.push_back({{"training", forecast::to_json(m.training)}, {"losses", m.losses}});
    return print_json({{"file", a.out},
                       {"bytes", std::filesystem::file_size(a.out)},
                       {"frequency", ensemble.frequency},
                       {"horizon", ensemble.horizon},
                       {"trained_on", ensemble.trained_on},
                       {"series", source.size()},
                       {"calibration_series", ensemble.calibration ? ensemble.calibration->series() : 0},
                       {"parameters", parameters},
                       {"seconds", seconds},
                       {"members", members}});
  }
  fmt::print("{}: {} members, {} parameters, horizon {}, trained on {} in {}\n", a.out, ensemble.members.size(),
             format_count(static_cast<double>(parameters)), ensemble.horizon, ensemble.trained_on,
             format_duration(seconds));
  for (std::size_t m = 0; m < ensemble.members.size(); ++m) {
    const auto& member = ensemble.members[m];
    fmt::print("  member {}: lookback {}, {} over tenths of the steps:", m, member.training.network.lookback,
               forecast::name(member.training.loss));
    for (const double loss : member.losses) fmt::print(" {:.4g}", loss);
    fmt::print("\n");
  }
  if (!ensemble.calibration) fmt::print("  too few series to keep some for intervals: none are stored\n");
}

}  // namespace

void add_reading(CLI::App& verb, Reading& r, bool frequency) {
  verb.add_option("--layout", r.layout,
                  "one value per line (long), one series per column or per row; auto: by the first line")
      ->check(CLI::IsMember({"auto", "long", "columns", "rows"}))
      ->capture_default_str();
  verb.add_option("--missing", r.missing, "values missing inside a series: refuse it, or interpolate linearly")
      ->check(CLI::IsMember({"refuse", "interpolate"}))
      ->capture_default_str();
  if (frequency)
    verb.add_option("--frequency", r.frequency, fmt::format("{}", fmt::join(frequency_names(), ", ")))
        ->check(CLI::IsMember(frequency_names()))
        ->required();
}

series::Collection read(const Reading& r, const series::Frequency& frequency) {
  const auto layout = r.layout == "long"      ? series::Layout::Long
                      : r.layout == "columns" ? series::Layout::Columns
                      : r.layout == "rows"    ? series::Layout::Rows
                                              : series::Layout::Auto;
  const auto missing = r.missing == "interpolate" ? series::Missing::Interpolate : series::Missing::Refuse;
  auto collection = series::load_csv(r.file, layout);
  for (auto& s : collection) {
    try {
      s = series::complete(series::fill_gaps(s, frequency), missing);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{}: {}", r.file, error.what()));
    }
  }
  return collection;
}

std::string number(double value) { return std::isfinite(value) ? fmt::format("{:.5g}", value) : "-"; }
Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

std::vector<double> levels_of(const std::vector<double>& percent) {
  std::vector<double> out;
  for (const double p : percent) {
    if (!(p > 0 && p < 100)) fail_usage("--intervals: {} is not between 0 and 100 percent", p);
    out.push_back(p / 100);
  }
  return out;
}

void add_fit(CLI::App& group) {
  auto a = std::make_shared<FitArguments>();
  auto* verb = group.add_subcommand("fit", "train an ensemble once on many series of one frequency");
  verb->add_option("series", a->reading.file, "CSV of series to train on");
  verb->add_option("--out", a->out, "the ensemble, one safetensors file")->required();
  add_reading(*verb, a->reading, true);
  auto& o = a->options;
  verb->add_option("--synthetic", a->synthetic, "train on so many synthetic series instead of a file")
      ->check(CLI::Range(1, 10000000));
  verb->add_option("--variety", a->variety, "of the synthetic series, 0 to 1")
      ->check(CLI::Range(0., 1.))
      ->capture_default_str();
  verb->add_option("--horizon", o.horizon, "points to forecast; without: the frequency's of M4")
      ->check(CLI::Range(1, 10000));
  verb->add_option("--period", o.period, "points of a season; without: the frequency's")->check(CLI::Range(1, 10000));
  verb->add_option("--history", o.history, "cut windows in the last so many horizons; without: the frequency's")
      ->check(CLI::PositiveNumber);
  verb->add_option("--lookbacks", o.lookbacks, "members' windows, in horizons")->delimiter(',')->capture_default_str();
  verb->add_option("--losses", a->losses, "members' losses: smape, mase, mape")->delimiter(',')->capture_default_str();
  verb->add_option("--repeats", o.repeats, "members per lookback and loss")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  verb->add_option("--basis", a->basis, "generic, or interpretable: a trend and a seasonality stack")
      ->check(CLI::IsMember({"generic", "interpretable"}))
      ->capture_default_str();
  verb->add_option("--blocks", a->blocks, "per stack")->check(CLI::Range(1, 1000))->capture_default_str();
  verb->add_option("--layers", a->layers, "per block")->check(CLI::Range(1, 100))->capture_default_str();
  verb->add_option("--width", a->width, "of the layers")->check(CLI::Range(1, 100000))->capture_default_str();
  verb->add_flag("--separate", a->separate, "blocks do not share their weights");
  verb->add_option("--level", a->level, "forecasts start at zero or at the last value")
      ->check(CLI::IsMember({"zero", "last"}))
      ->capture_default_str();
  verb->add_flag("--unscaled", a->unscaled, "windows keep their units: for collections of one unit only");
  verb->add_option("--iterations", o.iterations, "per member")->check(CLI::Range(1, 100000000))->capture_default_str();
  verb->add_option("--batch", o.batch, "windows per step")->check(CLI::Range(1, 1000000))->capture_default_str();
  verb->add_option("--rate", o.rate, "of Adam at first")->check(CLI::PositiveNumber)->capture_default_str();
  verb->add_option("--clip", o.clip, "the gradient's norm")->check(CLI::PositiveNumber)->capture_default_str();
  verb->add_option("--calibration", o.calibration, "keep every so-manieth series from training, for intervals; 0: none")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  verb->add_option("--seed", o.seed, "of everything that is random")->capture_default_str();
  verb->add_flag("--half", o.half, "store weights in half precision");
  verb->add_option("--trained-on", o.trained_on, "what the source is, in words, with its licence: stored in the file");
  verb->add_option("--keep", o.keep, "folder of finished members: an interrupted fit goes on from there");
  verb->add_option("--threads", a->threads, "without: all cores")->check(CLI::Range(1, 4096));
  verb->add_flag("--json", a->json, "print JSON");
  verb->add_flag("--quiet", a->quiet, "no progress");
  verb->footer(
      "Examples:\n"
      "  unbend forecast fit --synthetic 2000 --frequency monthly --iterations 1000 --lookbacks 3 --losses smape --out "
      "m.safetensors\n"
      "  unbend forecast fit sales.csv --frequency monthly --missing interpolate --out sales.safetensors");
  verb->callback([a] { fit(*a); });
}

void add_sample(CLI::App& group) {
  struct Arguments {
    int count = 2000;
    double variety = 1;
    std::string frequency, out;
    std::uint64_t seed = 1;
    bool json = false;
  };
  auto a = std::make_shared<Arguments>();
  auto* verb = group.add_subcommand("sample", "write synthetic series: what `fit --synthetic` trains on");
  verb->add_option("--count", a->count, "series")->check(CLI::Range(1, 10000000))->capture_default_str();
  verb->add_option("--frequency", a->frequency, fmt::format("{}", fmt::join(frequency_names(), ", ")))
      ->check(CLI::IsMember(frequency_names()))
      ->required();
  verb->add_option("--variety", a->variety, "0: level, trend, season, random walk, noise; up to 1: more kinds")
      ->check(CLI::Range(0., 1.))
      ->capture_default_str();
  verb->add_option("--seed", a->seed)->capture_default_str();
  verb->add_option("--out", a->out, "CSV, one series per row")->required();
  verb->add_flag("--json", a->json, "print JSON");
  verb->footer("Example:\n  unbend forecast sample --count 500 --frequency quarterly --out source.csv");
  verb->callback([a] {
    check_output(a->out);
    Random random(a->seed);
    const auto& frequency = series::find_frequency(a->frequency);
    const auto collection = series::synthetic_source(synthetic_options(a->count, frequency, a->variety), random);
    series::save_csv(a->out, collection);
    if (a->json) return print_json({{"file", a->out}, {"series", collection.size()}});
    fmt::print("{}: {} series\n", a->out, collection.size());
  });
}

}  // namespace forecast_verbs

void add_forecast_verbs(CLI::App& app) {
  auto* group = app.add_subcommand("forecast", "forecast series by networks that were trained once on others");
  group->require_subcommand(1);
  group->footer("Example:\n  unbend forecast predict sales.csv --model data/forecast/monthly.safetensors");
  forecast_verbs::add_fit(*group);
  forecast_verbs::add_sample(*group);
  forecast_verbs::add_predict(*group);
  forecast_verbs::add_evaluate(*group);
  forecast_verbs::add_explain(*group);
}

}  // namespace unbend
