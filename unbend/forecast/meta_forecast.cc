#include "unbend/forecast/meta_forecast.h"

#include <ATen/Parallel.h>
#include <c10/util/Half.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <span>

#include "unbend/base/error.h"
#include "unbend/forecast/ensemble_file.h"

namespace unbend::forecast {
namespace {

constexpr std::int64_t kBatch = 256;
constexpr std::size_t kFewestToCalibrate = 20;

template <class T>
bool all_finite(std::span<T> values) {
  return std::ranges::all_of(values, [](T v) { return std::isfinite(v); });
}

/// Scaled windows of histories [first, last), and what gives forecasts their units back.
struct Batch {
  std::vector<float> x, mask, level;
  std::vector<double> scales;
};

Batch batch_of(const std::vector<std::vector<double>>& histories, std::size_t first, std::size_t last,
               const Member& m) {
  const int lookback = m.layout.config.lookback;
  Batch b;
  b.x.resize((last - first) * static_cast<std::size_t>(lookback)), b.mask.resize(b.x.size());
  for (std::size_t i = first; i < last; ++i) {
    const auto at = (i - first) * static_cast<std::size_t>(lookback);
    b.scales.push_back(fill_window(histories[i], lookback, m.training.scaled, b.x.data() + at, b.mask.data() + at));
    b.level.push_back(b.x[at]);
  }
  return b;
}

/// [series][horizon] of one member; empty where it gives no finite numbers, or float32 cannot hold the series.
std::vector<std::vector<double>> member_forecasts(const Member& m, const std::vector<std::vector<double>>& histories) {
  const auto horizon = static_cast<std::size_t>(m.layout.config.horizon);
  std::vector<std::vector<double>> out;
  nbeats::Workspace<float> work;
  for (std::size_t first = 0; first < histories.size(); first += kBatch) {
    const auto last = std::min(first + kBatch, histories.size());
    const auto b = batch_of(histories, first, last, m);
    nbeats::forward(m.layout, m.weights.data(),
                    {static_cast<std::int64_t>(last - first), b.x.data(), b.mask.data(), b.level.data()}, work);
    for (std::size_t i = 0; i < last - first; ++i) {
      out.emplace_back();
      for (std::size_t h = 0; h < horizon; ++h) out.back().push_back(b.scales[i] * work.forecast[i * horizon + h]);
      const auto lookback = b.x.size() / (last - first);
      if (!all_finite(std::span(b.x).subspan(i * lookback, lookback)) || !all_finite(std::span(out.back())))
        out.back().clear();
    }
  }
  return out;
}

/// One horizon of every history. All members are listed; those without finite numbers are empty. Computation error if
/// that leaves a series without a forecast.
std::vector<Forecast> forecast_once(const Ensemble& e, const std::vector<std::vector<double>>& histories,
                                    const series::Collection& named) {
  std::vector<std::vector<std::vector<double>>> by_member(e.members.size());
  at::parallel_for(0, std::ssize(e.members), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto m = static_cast<std::size_t>(begin); m < static_cast<std::size_t>(end); ++m)
      by_member[m] = member_forecasts(e.members[m], histories);
  });
  std::vector<Forecast> out(histories.size());
  for (std::size_t i = 0; i < histories.size(); ++i) {
    const auto& x = histories[i];
    if (std::all_of(x.begin(), x.end(), [&](double v) { return v == x[0]; })) {
      out[i].members.assign(e.members.size(), std::vector<double>(static_cast<std::size_t>(e.horizon), x[0]));
    } else {
      for (auto& forecasts : by_member) out[i].members.push_back(std::move(forecasts[i]));
    }
    auto given = out[i].members;
    std::erase(given, std::vector<double>());
    if (given.empty()) fail_computation("series '{}': no member of the ensemble gives a finite forecast", named[i].id);
    out[i].values = series::median(given);
  }
  return out;
}

void append(std::vector<double>& to, const std::vector<double>& from) { to.insert(to.end(), from.begin(), from.end()); }

/// A member goes on only where it gave finite numbers all the way.
void append_member(std::vector<double>& to, const std::vector<double>& from) {
  if (from.empty()) to.clear();
  if (!to.empty()) append(to, from);
}

void check_ensemble(const Ensemble& e) {
  require(!e.members.empty(), "the ensemble has no members");
  for (const auto& m : e.members)
    require(m.layout.config.horizon == e.horizon, "the ensemble forecasts {} points, one of its members {}", e.horizon,
            m.layout.config.horizon);
}

void round_to_half(std::vector<float>& weights) {
  for (float& w : weights) w = static_cast<float>(c10::Half(w));
}

}  // namespace

std::vector<Training> trainings(const FitOptions& o) {
  const auto& f = series::find_frequency(o.frequency);
  const int horizon = o.horizon > 0 ? o.horizon : f.horizon, period = o.period > 0 ? o.period : f.period;
  const double history = o.history > 0 ? o.history : f.history;
  require(!o.lookbacks.empty() && !o.losses.empty() && o.repeats > 0,
          "an ensemble needs at least one lookback, one loss and one repeat");
  std::vector<Training> out;
  for (int repeat = 0; repeat < o.repeats; ++repeat)
    for (const int lookback : o.lookbacks)
      for (const Loss loss : o.losses) {
        require(lookback > 0 && lookback <= 100000 / horizon,
                "a lookback of {} horizons of {} points: from 1 to 100000 points", lookback, horizon);
        out.push_back({{lookback * horizon, horizon, o.stacks, o.last_level},
                       loss,
                       o.iterations,
                       o.batch,
                       o.rate,
                       o.clip,
                       period,
                       static_cast<std::int64_t>(std::clamp(std::floor(history * horizon), 1., 1e15)),
                       o.scaled,
                       o.seed + out.size()});
        nbeats::layout(out.back().network);  // refuses what makes no network
      }
  return out;
}

Ensemble fit(const series::Collection& source, const FitOptions& o, const FitProgress& progress) {
  const auto plan = trainings(o);
  require(o.calibration == 0 || o.calibration >= 2,
          "every {}-th series kept from training: 0 (none) or from 2, so that some are left", o.calibration);
  Ensemble e{o.frequency, plan[0].period, plan[0].network.horizon, o.trained_on, {}, {}};
  series::Collection seen, unseen;
  const bool calibrated =
      o.calibration > 0 && source.size() / static_cast<std::size_t>(o.calibration) >= kFewestToCalibrate;
  for (std::size_t i = 0; i < source.size(); ++i)
    (calibrated && i % static_cast<std::size_t>(o.calibration) == 0 ? unseen : seen).push_back(source[i]);

  for (const auto& training : plan) check_training(seen, training);  // before the first of them takes its time
  e.members.resize(plan.size());
  const auto source_name = o.keep.empty() ? std::string() : fingerprint(seen);
  std::mutex mutex;
  std::atomic<std::int64_t> done = 0;
  std::int64_t total = 0;
  for (const auto& t : plan) total += t.iterations;
  at::parallel_for(0, std::ssize(plan), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto m = begin; m < end; ++m) {
      const auto& training = plan[static_cast<std::size_t>(m)];
      auto& member = e.members[static_cast<std::size_t>(m)];
      const auto kept = o.keep.empty() ? std::filesystem::path() : o.keep / fmt::format("member-{}.safetensors", m);
      if (auto found = load_kept_member(kept, training, source_name)) {
        member = std::move(*found);
        done += training.iterations;
      } else {
        member = train(seen, training, [&](std::int64_t, double) {
          const std::int64_t now = ++done;
          const std::lock_guard lock(mutex);
          return !progress || progress(now, total);
        });
        if (!kept.empty()) save_kept_member(kept, member, source_name);
      }
      if (o.half) round_to_half(member.weights);
    }
  });
  if (calibrated) e.calibration = calibrate_on(e, unseen);
  return e;
}

std::vector<Forecast> predict(const Ensemble& e, const series::Collection& histories, const PredictOptions& options) {
  check_ensemble(e);
  const int horizon = options.horizon > 0 ? options.horizon : e.horizon;
  require(horizon >= e.horizon || options.truncate,
          "the ensemble forecasts {} points, not {}: --truncate gives the first {} of them", e.horizon, horizon,
          horizon);
  require(horizon <= e.horizon || options.iterate,
          "the ensemble forecasts {} points, not {}: --iterate feeds its forecasts back to it", e.horizon, horizon);
  require(horizon <= 100 * e.horizon, "a horizon of {} points is more than 100 times the ensemble's", horizon);
  std::vector<std::vector<double>> x;
  for (const auto& s : histories) {
    require(!s.values.empty(), "series '{}': it is empty", s.id);
    require(all_finite(std::span(s.values)), "series '{}': it has missing or infinite values", s.id);
    x.push_back(s.values);
  }
  auto out = forecast_once(e, x, histories);
  for (int ahead = e.horizon; ahead < horizon; ahead += e.horizon) {
    for (std::size_t i = 0; i < x.size(); ++i)
      append(x[i], std::vector<double>(out[i].values.end() - e.horizon, out[i].values.end()));
    const auto more = forecast_once(e, x, histories);
    for (std::size_t i = 0; i < x.size(); ++i) {
      append(out[i].values, more[i].values);
      for (std::size_t m = 0; m < e.members.size(); ++m) append_member(out[i].members[m], more[i].members[m]);
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    auto& f = out[i];
    const auto& s = histories[i];
    f.id = s.id;
    f.variation = series::variation(s.values, e.period);
    std::erase(f.members, std::vector<double>());
    if (f.members.empty())
      fail_computation("series '{}': no member of the ensemble gives finite forecasts for all {} points", s.id,
                       horizon);
    if (f.members.size() < e.members.size())
      f.notes.push_back(fmt::format("{} of {} members gave no finite forecast and are left out",
                                    e.members.size() - f.members.size(), e.members.size()));
    f.values.resize(static_cast<std::size_t>(horizon));
    for (auto& m : f.members) m.resize(static_cast<std::size_t>(horizon));
    if (s.values.size() < static_cast<std::size_t>(e.horizon))
      f.notes.push_back(
          fmt::format("{} points are less than one horizon of {}: do not expect much", s.values.size(), e.horizon));
    if (f.variation == 0) f.notes.push_back("the history is constant, and so is the forecast");
  }
  return out;
}

series::Calibration calibrate_on(const Ensemble& e, const series::Collection& collection) {
  series::Collection histories;
  std::vector<std::vector<double>> actual;
  for (const auto& s : collection) {
    if (s.values.size() < static_cast<std::size_t>(e.horizon) + 2) continue;
    histories.push_back({s.id, {s.values.begin(), s.values.end() - e.horizon}, {}});
    actual.emplace_back(s.values.end() - e.horizon, s.values.end());
  }
  require(!histories.empty(), "calibration: no series has more than {} points", e.horizon + 1);
  const auto forecasts = predict(e, histories);
  std::vector<series::Case> cases;
  for (std::size_t i = 0; i < histories.size(); ++i)
    cases.push_back({histories[i].values, actual[i], forecasts[i].values});
  return series::calibrate(cases, e.period);
}

}  // namespace unbend::forecast
