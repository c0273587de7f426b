// Zero-shot forecasting (Oreshkin et al. 2021, arXiv 2002.02887): N-BEATS trained once on many series, then applied to
// series that it has never seen. The residual loop over blocks is what adapts to each: see linearized.h.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "unbend/forecast/training.h"
#include "unbend/series/conformal.h"

namespace unbend::forecast {

/// What is trained once. Its forecast is the elementwise median of its members'.
struct Ensemble {
  std::string frequency;  ///< a name of series/series.h
  int period = 1, horizon = 0;
  std::string trained_on;  ///< what the source was, in words
  std::vector<Member> members;
  std::optional<series::Calibration> calibration;  ///< on series of the source that no member has seen
};

/// Which networks an ensemble is made of: all combinations.
struct FitOptions {
  std::string frequency = "monthly";
  int horizon = 0, period = 0;  ///< 0: the frequency's
  double history = 0;           ///< windows are cut in the last history * horizon points; 0: the frequency's
  std::vector<int> lookbacks{2, 3, 4, 5, 6, 7};  ///< in horizons
  std::vector<Loss> losses{Loss::Smape, Loss::Mase, Loss::Mape};
  int repeats = 1;
  std::vector<nbeats::Stack> stacks{{nbeats::Basis::Generic, 10, true, 3, 128}};
  bool last_level = false, scaled = true;
  std::int64_t iterations = 5000, batch = 128;
  double rate = 1e-3, clip = 1;
  std::uint64_t seed = 1;
  int calibration = 10;  ///< every so-manieth series is kept from training for intervals; 0: none
  bool half = false;     ///< weights are rounded to half precision, as they are stored
  std::string trained_on = "";
  std::filesystem::path keep = {};  ///< folder of finished members, which are taken up again if their settings and
                                    ///< series are the same; empty: none
};

/// Called after each step of any member with (steps of all so far, steps in total); false stops. One call at a time.
using FitProgress = std::function<bool(std::int64_t, std::int64_t)>;

/// The trainings that fit() runs, in order.
std::vector<Training> trainings(const FitOptions& options);

/// Trains on complete series (series::complete). Members share nothing and run on LibTorch's threads. Errors as
/// train(); Input error for options that make no network.
Ensemble fit(const series::Collection& source, const FitOptions& options, const FitProgress& progress = {});

struct PredictOptions {
  int horizon = 0;        ///< 0: the ensemble's; smaller ones need `truncate`, larger ones `iterate`
  bool truncate = false;  ///< give the first points only
  bool iterate = false;   ///< feed forecasts back as if they had come
};

struct Forecast {
  std::string id;
  std::vector<double> values;                ///< the median
  std::vector<std::vector<double>> members;  ///< of those that gave finite numbers
  double variation = 0;                      ///< series::variation of the history: the unit of the intervals
  std::vector<std::string> notes;            ///< short or constant history, members left out
};

/// Point forecasts of complete series, which may have any lengths and units. A series shorter than a window is padded
/// and masked (with a note below one horizon); a constant one is forecast by its constant. Input error (naming it) for
/// an empty or not finite series and for a horizon that is not the ensemble's; Computation error if no member gives
/// finite numbers.
std::vector<Forecast> predict(const Ensemble& ensemble, const series::Collection& histories,
                              const PredictOptions& options = {});

/// The intervals that would have covered the last horizon of each of these series, had it been forecast: calibration on
/// series at hand instead of the source. Series of at most a horizon and a point are left out.
series::Calibration calibrate_on(const Ensemble& ensemble, const series::Collection& collection);

/// One safetensors file. Saving what was loaded gives the same bytes.
void save_ensemble(const std::filesystem::path& path, const Ensemble& ensemble, bool half);
/// Input error naming the file and what is wrong with it.
Ensemble load_ensemble(const std::filesystem::path& path);

}  // namespace unbend::forecast
