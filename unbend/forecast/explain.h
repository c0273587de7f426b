// Why a member forecasts what it does: block by block, by trend and season, and as a linear map of the past.
#pragma once

#include <string>
#include <vector>

#include "unbend/forecast/linearized.h"
#include "unbend/forecast/training.h"

namespace unbend::forecast {

/// All values in the units of the series.
struct Explanation {
  std::vector<double> window;    ///< what the member sees, oldest first
  std::vector<double> forecast;  ///< [horizon]: `level` and the blocks' forecasts
  double level = 0;              ///< where the forecast starts; 0 unless Config::last_level
  struct Block {
    int stack;
    std::string basis;
    std::vector<double> forecast;  ///< [horizon]
    std::vector<double> backcast;  ///< like `window`: what it takes off
    double left;                   ///< |residual after it| / |window|; NaN for a window of zeros
  };
  std::vector<Block> blocks;
  InnerLoop loop;  ///< of the scaled window
};

/// A complete series. The linearization holds the window's scale fixed. Input error for an empty series.
Explanation explain(const Member& member, const series::TimeSeries& series);

}  // namespace unbend::forecast
