#include "python/bindings/bindings.h"
#include "unbend/base/error.h"
#include "unbend/forecast/evaluate.h"
#include "unbend/forecast/meta_forecast.h"
#include "unbend/series/conformal.h"
#include "unbend/series/series.h"

namespace py = pybind11;

namespace unbend {
namespace {

using Named = std::pair<std::string, std::vector<double>>;

series::Collection complete(const std::vector<Named>& all, bool interpolate) {
  series::Collection result;
  for (const auto& [id, values] : all)
    result.push_back(
        series::complete({id, values}, interpolate ? series::Missing::Interpolate : series::Missing::Refuse));
  return result;
}

struct Prediction {
  forecast::Forecast forecast;
  std::vector<at::Tensor> half_widths;  // [horizon] for each level
};

std::vector<Prediction> predict(const forecast::Ensemble& ensemble, const std::vector<Named>& histories,
                                std::optional<int> horizon, const std::vector<double>& levels, bool interpolate) {
  require(levels.empty() || ensemble.calibration,
          "this ensemble was fitted without a calibration: it has no intervals");
  forecast::PredictOptions o;
  o.horizon = horizon.value_or(ensemble.horizon);
  require(o.horizon >= 1, "the horizon must be at least 1, not {}", o.horizon);
  o.truncate = o.iterate = true;  // whichever it takes
  require(levels.empty() || o.horizon <= ensemble.horizon, "intervals reach {} steps, the ensemble's horizon, not {}",
          ensemble.horizon, o.horizon);
  std::vector<Prediction> result;
  for (auto& forecast : forecast::predict(ensemble, complete(histories, interpolate), o)) {
    Prediction p{std::move(forecast), {}};
    for (const double level : levels) {
      std::vector<double> widths;
      for (int step = 0; step < static_cast<int>(p.forecast.values.size()); ++step)
        widths.push_back(series::half_width(*ensemble.calibration, step, level, p.forecast.variation));
      p.half_widths.push_back(tensor(widths));
    }
    result.push_back(std::move(p));
  }
  return result;
}

}  // namespace

void bind_forecast(py::module_& m) {
  py::class_<Prediction>(m, "Prediction")
      .def_property_readonly("values", [](const Prediction& p) { return tensor(p.forecast.values); })
      .def_property_readonly("members",
                             [](const Prediction& p) {
                               std::vector<at::Tensor> rows;
                               for (const auto& member : p.forecast.members) rows.push_back(tensor(member));
                               return at::stack(rows);
                             })
      .def_readonly("half_widths", &Prediction::half_widths)
      .def_property_readonly("notes", [](const Prediction& p) { return p.forecast.notes; });
  py::class_<forecast::MethodScores>(m, "MethodScores")
      .def_readonly("method", &forecast::MethodScores::method)
      .def_readonly("owa", &forecast::MethodScores::owa)
      .def_property_readonly("smape", [](const forecast::MethodScores& s) { return tensor(s.smape); })
      .def_property_readonly("mase", [](const forecast::MethodScores& s) { return tensor(s.mase); });
  py::class_<forecast::Ensemble>(m, "Ensemble")
      .def(py::init([](const std::string& path) { return forecast::load_ensemble(path); }))
      .def_readonly("frequency", &forecast::Ensemble::frequency)
      .def_readonly("period", &forecast::Ensemble::period)
      .def_readonly("horizon", &forecast::Ensemble::horizon)
      .def_readonly("trained_on", &forecast::Ensemble::trained_on)
      .def_property_readonly("members", [](const forecast::Ensemble& e) { return e.members.size(); })
      .def("predict", &predict, Released())
      .def(
          "evaluate",
          [](const forecast::Ensemble& e, const std::vector<Named>& all, bool interpolate) {
            return forecast::evaluate(e, complete(all, interpolate), {}).methods;
          },
          Released());
}

}  // namespace unbend
