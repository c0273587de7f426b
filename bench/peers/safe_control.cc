// One control step of the learned safe controller with N = 400 rows of data, beside the bars of its brief (median below
// 0.5 ms, 99.9 % below 1 ms on one core, by the wall, as a robot feels it; the time of the thread alone is shown beside
// it), and its filter beside SCS on the same problems. `--dump FILE` writes the problems and the data for the peers in
// Python (bench/peers/safe_control.py). Exits with 1 if a bar is missed.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>

#include "unbend/base/json.h"
#include "unbend/control/example.h"
#include "unbend/report/table.h"

namespace unbend {
namespace {

using namespace control;

struct Clock {
  static double now(clockid_t clock) {
    timespec t{};
    clock_gettime(clock, &t);
    return 1e6 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_nsec);
  }
};

/// Microseconds of single calls: by the wall, and of this thread alone.
struct Times {
  std::vector<double> wall, own;

  template <class Call>
  void take(const Call& call) {
    const double w = Clock::now(CLOCK_MONOTONIC), o = Clock::now(CLOCK_THREAD_CPUTIME_ID);
    call();
    own.push_back(Clock::now(CLOCK_THREAD_CPUTIME_ID) - o);
    wall.push_back(Clock::now(CLOCK_MONOTONIC) - w);
  }
  static double quantile(std::vector<double> v, double q) {
    const auto at = static_cast<std::ptrdiff_t>(q * static_cast<double>(v.size() - 1));
    std::nth_element(v.begin(), v.begin() + at, v.end());
    return v[static_cast<std::size_t>(at)];
  }
};

Model learned_model() {
  Random random(1);
  const Experience seen = example::experience(16.04, random);  // 400 rows
  Model model{example::guess(), {}, default_units(2)};
  const GpData data = error_data(seen, model.nominal, model.units);
  model.error.emplace(data, fit_kernel(data, default_gp_kernel(), {}, 60).kernel);
  return model;
}

int run(const char* dump) {
  const Robot truth = example::true_arm();
  const State start = example::start();
  const Model model = learned_model();
  const Plant plant = equations_plant(truth);
  const auto constraints = example::limit();
  const Reference reference = example::swing();
  const ControllerOptions options;

  Times step, query, own, interior, scs;
  std::vector<FilterProblem> problems;
  std::vector<State> states;
  for (int round = 0; round < 10; ++round) {
    State x = start;
    for (int i = 0; i < 1000; ++i) {
      ControlStep result;
      step.take([&] {
        result = control_step(model, constraints, options, reference_at(reference, .004 * i), x, flat_state(truth, x));
      });
      query.take([&] { model.error->predict(result.flat.cwiseQuotient(model.units)); });
      if (round == 0) {
        states.push_back(result.flat);
        if (result.status != FilterStatus::Unchanged) {
          std::vector<Barrier> barriers{barrier(constraints[0], model.nominal, result.flat)};
          problems.push_back(
              {result.desired, conditions(estimate(model, x, result.flat), barriers, model, options), {}});
        }
      }
      x = plant.advance(x, result.input, .004);
    }
  }
  double apart = 0;
  for (const FilterProblem& p : problems) {
    FilterResult a, b;
    for (int i = 0; i < 5; ++i) own.take([&] { a = solve_filter(p); });
    interior.take([&] { solve_filter_interior(p); });
    scs.take([&] { b = solve_filter_scs(p, 1e-6); });
    apart = std::max(apart, (a.u - b.u).norm());
  }
  Table table{
      fmt::format("Microseconds; {} rows of data, {} filter problems", model.error->data().z.rows(), problems.size()),
      {"what", "median", "99 %", "99.9 %", "99.9 % of the thread alone"},
      {}};
  const auto row = [&](const char* name, const Times& t) {
    table.rows.push_back(
        {name, fmt::format("{:.1f}", Times::quantile(t.wall, .5)), fmt::format("{:.1f}", Times::quantile(t.wall, .99)),
         fmt::format("{:.1f}", Times::quantile(t.wall, .999)), fmt::format("{:.1f}", Times::quantile(t.own, .999))});
  };
  row("control step", step);
  row("process: mean and deviation", query);
  row("filter: one cone", own);
  row("filter: interior point", interior);
  row("filter: SCS to 1e-6", scs);
  fmt::print("{}", to_text(table));
  fmt::print("our inputs and SCS's differ by at most {:.1e} N m\n", apart);

  if (dump) {
    Json json{{"z", Json::array()}, {"queries", Json::array()}, {"problems", Json::array()}};
    for (Eigen::Index i = 0; i < model.error->data().z.rows(); ++i) {
      const Eigen::VectorXd z = model.error->data().z.row(i), y = model.error->data().y.row(i),
                            u = model.error->data().u.row(i);
      json["z"].push_back(std::vector<double>(z.begin(), z.end()));
      json["u"].push_back(std::vector<double>(u.begin(), u.end()));
      json["y"].push_back(std::vector<double>(y.begin(), y.end()));
    }
    for (const State& xi : states) {
      const Eigen::VectorXd z = xi.cwiseQuotient(model.units);
      json["queries"].push_back(std::vector<double>(z.begin(), z.end()));
    }
    for (const FilterProblem& p : problems) {
      const Cone& c = p.cones[0];
      const Eigen::MatrixXd m = c.m.transpose();
      const Vector u = solve_filter(p).u;
      json["problems"].push_back({{"desired", std::vector<double>(p.desired.begin(), p.desired.end())},
                                  {"a", std::vector<double>(c.a.begin(), c.a.end())},
                                  {"b", c.b},
                                  {"m", std::vector<double>(m.reshaped().begin(), m.reshaped().end())},
                                  {"u", std::vector<double>(u.begin(), u.end())}});
    }
    json["kernel"] = {{"drift", to_json(model.error->kernel().drift)}, {"noise", model.error->kernel().noise}};
    json["times"] = {{"query", Times::quantile(query.wall, .5)},
                     {"filter", Times::quantile(own.wall, .5)},
                     {"step", Times::quantile(step.wall, .5)}};
    write_json(dump, json);
  }

  int missed = 0;
  const auto judge = [&](const char* what, double ratio) {
    fmt::print("{}: {:.2f} of the bar, {}\n", what, ratio, ratio <= 1 ? "pass" : "MISS");
    missed += ratio > 1;
  };
  judge("control step, median against 500 us", Times::quantile(step.wall, .5) / 500);
  judge("control step, 99.9 % against 1000 us", Times::quantile(step.wall, .999) / 1000);
  judge("filter against SCS on the same problems, medians",
        Times::quantile(own.wall, .5) / Times::quantile(scs.wall, .5));
  return missed ? 1 : 0;
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  return unbend::run(argc == 3 && std::strcmp(argv[1], "--dump") == 0 ? argv[2] : nullptr);
}
