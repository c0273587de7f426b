// What the verbs of `unbend forecast` share.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "unbend/forecast/meta_forecast.h"
#include "unbend/series/csv.h"

namespace unbend {

void add_forecast_verbs(CLI::App& app);

}  // namespace unbend

namespace unbend::forecast_verbs {

/// How a file of series is read.
struct Reading {
  std::string file, layout = "auto", missing = "refuse", frequency;
};
/// `frequency` is asked for only where no ensemble says it.
void add_reading(CLI::App& verb, Reading& reading, bool frequency);
/// Complete series, gaps in time filled. Input error as the library's.
series::Collection read(const Reading& reading, const series::Frequency& frequency);

std::string number(double value);                                   ///< five digits, "-" for NaN
Json finite(double value);                                          ///< null for NaN
std::vector<double> levels_of(const std::vector<double>& percent);  ///< 80 -> .8

void add_fit(CLI::App& group);
void add_sample(CLI::App& group);
void add_predict(CLI::App& group);
void add_evaluate(CLI::App& group);
void add_explain(CLI::App& group);

}  // namespace unbend::forecast_verbs
