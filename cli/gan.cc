// Verbs on generative adversarial networks: gan stability.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <chrono>
#include <cmath>

#include "cli/verbs.h"
#include "studies/gan_phases.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/tangent/kernel_gan_rate.h"
#include "unbend/tensor/csv.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

struct Arguments {
  std::string true_points, true_masses, points, masses;  // files
  double p = 1, start = 1e-3;
  std::vector<double> q{1};
  std::string kernel = "gaussian", order = "alternating", report, trajectory;
  gan::Kernel width;
  gan::Steps steps;
  gan::SimulateOptions simulation{.steps = 1000};
  int threads = 0, grid = 60;
  bool measure = false, json = false;
};

at::Tensor points_of(const std::string& path) {
  const auto array = load_array(path);
  return array.dim() == 1 ? array.unsqueeze(1) : array;
}

at::Tensor masses_of(const std::string& path, std::int64_t count) {
  if (path.empty()) return at::full({count}, 1. / static_cast<double>(count), at::kDouble);
  return load_array(path).flatten();
}

gan::Problem problem_of(const Arguments& a) {
  gan::Problem problem;
  problem.kernel = a.width;
  problem.kernel.kind = gan::kernel_kind(a.kernel);
  problem.steps = a.steps;
  problem.steps.order = a.order == "alternating" ? gan::Order::Alternating : gan::Order::Simultaneous;
  if (a.true_points.empty() != a.points.empty())
    fail_usage("--true and --generated go together: give both files, or neither and --p, --q");
  if (!a.points.empty()) {
    problem.true_points = points_of(a.true_points);
    problem.points = points_of(a.points);
    problem.true_masses = masses_of(a.true_masses, problem.true_points.size(0));
    problem.masses = masses_of(a.masses, problem.points.size(0));
    return problem;
  }
  // One true point at 0, the generated ones side by side at `start` widths.
  const auto n = std::ssize(a.q);
  problem.true_points = at::zeros({1, 1}, at::kDouble);
  problem.true_masses = at::full({1}, a.p, at::kDouble);
  problem.points = (a.start * a.width.sigma * at::linspace(1, n > 1 ? 2 : 1, n, at::kDouble)).unsqueeze(1);
  problem.masses = at::tensor(a.q, at::kDouble);
  return problem;
}

std::string number(double value) { return std::isfinite(value) ? fmt::format("{:.5g}", value) : "-"; }
Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

/// Distance of the farthest member from its target, step by step.
std::vector<double> distances(const gan::Trajectory& t, const gan::Problem& p, const gan::TargetReport& target) {
  const auto members = t.points.index_select(1, at::tensor(target.members, at::kLong));
  const auto e = std::get<0>((members - p.true_points[target.target]).norm(2, {-1}).max(1)).contiguous();
  return {e.const_data_ptr<double>(), e.const_data_ptr<double>() + e.numel()};
}

struct Simulated {
  gan::Trajectory trajectory;
  double seconds = 0;
  std::vector<double> rates;  ///< fitted to the second half, per target; NaN without points
};

Simulated simulate(const Arguments& a, const gan::Problem& problem, const std::vector<gan::TargetReport>& targets) {
  catch_interrupts();
  const auto begin = std::chrono::steady_clock::now();
  Simulated s;
  s.trajectory = gan::simulate(problem, a.simulation);
  s.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (const auto& target : targets) {
    if (target.members.empty()) {
      s.rates.push_back(NAN);
      continue;
    }
    const auto e = distances(s.trajectory, problem, target);
    s.rates.push_back(std::pow(gan::envelope_rate(std::span(e).subspan(e.size() / 2)),
                               1. / static_cast<double>(a.simulation.record_every)));
  }
  return s;
}

Table table_of(const gan::Report& r, const std::optional<Simulated>& s) {
  Table table{"", {"true point", "generated", "Delta", "farthest", "verdict", "rate", "steps per decade"}, {}};
  if (s) table.columns.push_back("simulated rate");
  table.columns.push_back("what to turn");
  for (std::size_t i = 0; i < r.targets.size(); ++i) {
    const auto& t = r.targets[i];
    std::vector<std::string> row{std::to_string(t.target), std::to_string(t.members.size()),
                                 fmt::format("{:.4g}", t.delta), t.members.empty() ? "-" : number(t.distance)};
    row.push_back(t.prediction ? name(t.prediction->verdict) + (t.local ? "" : " (once near)") : "-");
    row.push_back(t.prediction ? fmt::format("{:.6f}", t.prediction->rate) : "-");
    row.push_back(t.prediction ? number(t.prediction->per_decade) : "-");
    if (s) row.push_back(std::isfinite(s->rates[i]) ? fmt::format("{:.6f}", s->rates[i]) : "-");
    row.push_back(t.advice);
    table.rows.push_back(std::move(row));
  }
  return table;
}

Json json_of(const gan::TargetReport& t, const std::optional<Simulated>& s, std::size_t index) {
  Json json{{"target", t.target},     {"generated", t.members}, {"delta", t.delta},
            {"distance", t.distance}, {"local", t.local},       {"advice", t.advice}};
  if (t.prediction) {
    Json eigenvalues = Json::array();
    for (const auto z : t.prediction->eigenvalues) eigenvalues.push_back({z.real(), z.imag()});
    json.update({{"verdict", name(t.prediction->verdict)},
                 {"rate", t.prediction->rate},
                 {"steps_per_decade", finite(t.prediction->per_decade)},
                 {"eigenvalues", eigenvalues}});
  }
  if (t.recommendation) {
    const auto& r = *t.recommendation;
    json["recommended"] = {{"sigma", r.sigma},           {"sigma_rate", r.sigma_rate}, {"sigma_low", r.sigma_low},
                           {"sigma_high", r.sigma_high}, {"eta_g", r.eta_g},           {"eta_g_rate", r.eta_g_rate}};
  }
  if (s) json["simulated_rate"] = finite(s->rates[index]);
  return json;
}

// ---- Pictures

/// Around the parameters of the first target with points, a decade and a half to each side.
std::optional<PhaseDiagram> diagram_of(const Arguments& a, const gan::Report& r) {
  for (const auto& t : r.targets) {
    if (t.members.empty() || r.problem.steps.lambda == 0) continue;
    const double p = r.problem.true_masses[t.target].item<double>();
    const double q = r.problem.masses[t.members[0]].item<double>();
    const double sigma = std::log10(r.problem.kernel.sigma), lambda = std::log10(r.problem.steps.lambda);
    const double most = std::min(lambda + 1.5, std::log10(1.99 / r.problem.steps.eta_d));
    return phase_diagram(r.problem.kernel, r.problem.steps, p, q, powers_of_ten(sigma - 1.5, sigma + 1.5, a.grid),
                         powers_of_ten(lambda - 1.5, most, a.grid), a.measure);
  }
  return std::nullopt;
}

LinePlot distance_plot(const gan::Report& r, const Simulated& s) {
  LinePlot plot{"Distance of the farthest point from its target", {"step"}, {"distance", Scale::Log10}, {}};
  const auto* const steps = s.trajectory.steps.const_data_ptr<std::int64_t>();
  for (const auto& t : r.targets) {
    if (t.members.empty() || plot.series.size() >= 8) continue;
    const auto e = distances(s.trajectory, r.problem, t);
    const int color = static_cast<int>(plot.series.size() / 2);
    Series simulated{fmt::format("true point {}", t.target), {}, {}}, predicted{"predicted rate", {}, {}, {}, {}, true};
    simulated.color = predicted.color = color;
    for (std::size_t k = 0; k < e.size(); ++k) {
      const auto step = static_cast<double>(steps[k]);
      simulated.x.push_back(step), predicted.x.push_back(step);
      simulated.y.push_back(e[k] > 0 ? e[k] : NAN);
      const double line = t.prediction && e[0] > 0 ? e[0] * std::pow(t.prediction->rate, step) : NAN;
      predicted.y.push_back(line > 1e-300 && line < 1e6 * r.problem.kernel.sigma ? line : NAN);
    }
    plot.series.push_back(simulated);
    if (t.prediction) plot.series.push_back(predicted);
  }
  return plot;
}

/// In the first two dimensions.
PathPlot path_plot(const gan::Problem& p, const gan::Trajectory& t) {
  PathPlot plot{"Trajectories", {"x"}, {"y"}, {}};
  const auto column = [](const at::Tensor& points) {
    const auto c = points.contiguous();
    return std::vector<double>(c.const_data_ptr<double>(), c.const_data_ptr<double>() + c.numel());
  };
  const std::int64_t stride = std::max<std::int64_t>(1, t.points.size(0) / 500);
  for (std::int64_t j = 0; j < std::min<std::int64_t>(200, t.points.size(1)); ++j) {
    const auto path = t.points.select(1, j).slice(0, 0, {}, stride);
    plot.paths.push_back({"generated", column(path.select(1, 0)), column(path.select(1, 1))});
  }
  plot.points = {"", column(p.true_points.select(1, 0)), column(p.true_points.select(1, 1))};
  plot.caption = "Dots: where the points end. Crosses: true points.";
  return plot;
}

void write_report(const Arguments& a, const gan::Problem& problem, const std::optional<gan::Report>& r,
                  const std::optional<Simulated>& s, const std::vector<std::string>& notices) {
  HtmlReport report(
      "Stability of a kernel GAN",
      fmt::format("{} updates, {} kernel, sigma {:g}, lambda {:g}, eta_d {:g}, eta_g {:g}", a.order, a.kernel,
                  problem.kernel.sigma, problem.steps.lambda, problem.steps.eta_d, problem.steps.eta_g));
  if (r) {
    report.heading("Verdicts").table(table_of(*r, s));
    if (!notices.empty()) report.list(notices);
    if (const auto diagram = diagram_of(a, *r)) {
      report.heading("Phases")
          .paragraph(
              "What one generated point on its target does, over width and regularisation; the parameters given "
              "are in the middle.")
          .plot(plot_of(*diagram));
    }
  } else if (!notices.empty()) {
    report.heading("Notes").list(notices);
  }
  if (s) {
    report.heading("Simulation");
    if (r) {
      const auto plot = distance_plot(*r, *s);
      if (!plot.series.empty()) report.plot(plot);
    }
    if (problem.points.size(1) >= 2) report.plot(path_plot(problem, s->trajectory));
  }
  report.write(a.report);
}

void stability(Arguments a) {
  if (a.threads > 0) at::set_num_threads(a.threads);
  check_output(a.report);
  check_output(a.trajectory);
  if (!a.trajectory.empty() && a.simulation.steps == 0) fail_usage("--trajectory needs a simulation: --steps above 0");
  const gan::Problem given = problem_of(a);
  std::optional<gan::Report> r;
  std::vector<std::string> notices;
  if (given.kernel.smooth()) {
    r = gan::analyse(given);
    notices = r->notices;
  } else {
    notices.push_back(
        fmt::format("the kernel {} has a kink where points meet: simulated only, nothing is predicted", a.kernel));
  }
  const gan::Problem problem = r ? r->problem : gan::checked(given, &notices);
  std::optional<Simulated> s;
  if (a.simulation.steps > 0) {
    s = simulate(a, problem, r ? r->targets : std::vector<gan::TargetReport>());
    notices.insert(notices.end(), s->trajectory.notes.begin(), s->trajectory.notes.end());
  }
  if (!a.trajectory.empty()) save_npy(a.trajectory, s->trajectory.points);
  if (!a.report.empty()) write_report(a, problem, r, s, notices);
  if (a.json) {
    Json json{{"order", a.order},
              {"kernel", a.kernel},
              {"sigma", problem.kernel.sigma},
              {"lambda", problem.steps.lambda},
              {"eta_d", problem.steps.eta_d},
              {"eta_g", problem.steps.eta_g}};
    if (r) {
      json.update({{"rate", finite(r->rate)}, {"leakage", r->leakage}, {"far", r->far}, {"targets", Json::array()}});
      for (std::size_t i = 0; i < r->targets.size(); ++i) json["targets"].push_back(json_of(r->targets[i], s, i));
    }
    if (s)
      json["simulation"] = {{"steps", s->trajectory.steps[-1].item<std::int64_t>()},
                            {"window", s->trajectory.window},
                            {"bytes", s->trajectory.bytes},
                            {"seconds", s->seconds}};
    json["notices"] = notices;
    return print_json(json);
  }
  if (r) fmt::print("{} updates\n{}", a.order, to_text(table_of(*r, s)));
  if (s) fmt::print("{} steps simulated in {:.2f} s\n", s->trajectory.steps[-1].item<std::int64_t>(), s->seconds);
  for (const auto& notice : notices) fmt::print("- {}\n", notice);
}

}  // namespace

void add_gan_verbs(CLI::App& app) {
  auto* group = app.add_subcommand("gan", "local convergence of GANs with a kernel discriminator");
  group->require_subcommand(1);
  group->footer("Example:\n  unbend gan stability --sigma 1 --lambda 0.5 --eta-d 0.1 --eta-g 0.1");
  auto* verb =
      group->add_subcommand("stability", "whether gradient descent-ascent converges, how fast, and which knob to turn");
  auto a = std::make_shared<Arguments>();
  verb->add_option("--true", a->true_points, "true points [N, d], .npy or CSV");
  verb->add_option("--generated", a->points, "generated points [M, d] where they start, .npy or CSV");
  verb->add_option("--true-masses", a->true_masses, "masses [N], .npy or CSV; without: 1 / N each");
  verb->add_option("--generated-masses", a->masses, "masses [M], .npy or CSV; without: 1 / M each");
  verb->add_option("--p", a->p, "without files: mass of one true point")->capture_default_str();
  verb->add_option("--q", a->q, "without files: masses of the generated points beside it")->capture_default_str();
  verb->add_option("--start", a->start, "without files: how many sigma away they start")->capture_default_str();
  verb->add_option("--kernel", a->kernel, fmt::format("{}", fmt::join(gan::kernel_names(), ", ")))
      ->check(CLI::IsMember(gan::kernel_names()))
      ->capture_default_str();
  verb->add_option("--sigma", a->width.sigma, "width of the kernel")->capture_default_str();
  verb->add_option("--shape", a->width.shape, "m of the rational quadratic kernel")->capture_default_str();
  verb->add_option("--factors", a->width.factors, "widths of the multi-scale Gaussian, in sigma")
      ->capture_default_str();
  verb->add_option("--lambda", a->steps.lambda, "regularisation of the discriminator")->capture_default_str();
  verb->add_option("--eta-d", a->steps.eta_d, "step of the discriminator")->capture_default_str();
  verb->add_option("--eta-g", a->steps.eta_g, "step of the generator")->capture_default_str();
  verb->add_option("--order", a->order, "does the generator see the new discriminator (alternating) or the old one?")
      ->check(CLI::IsMember({"alternating", "simultaneous"}))
      ->capture_default_str();
  verb->add_option("--steps", a->simulation.steps, "of the exact simulation beside the prediction; 0: none")
      ->check(CLI::Range(0, 100000000))
      ->capture_default_str();
  verb->add_option("--record-every", a->simulation.record_every, "steps between recorded positions")
      ->check(CLI::Range(1, 100000000))
      ->capture_default_str();
  verb->add_option("--forget", a->simulation.forget, "forget what weighs less than this; 0: nothing")
      ->check(CLI::Range(0., 1.))
      ->capture_default_str();
  verb->add_option("--cutoff", a->simulation.cutoff, "leave out sources so many sigma away; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--features", a->simulation.features, "simulate with so many random features; 0: the exact kernel")
      ->check(CLI::Range(0, 100000000))
      ->capture_default_str();
  verb->add_option("--seed", a->simulation.seed, "of the random features")->capture_default_str();
  verb->add_flag("--from-equilibrium", a->simulation.from_equilibrium, "start the discriminator there, not at 0");
  verb->add_option("--report", a->report, "HTML report to write, with phase diagram and trajectories");
  verb->add_option("--grid", a->grid, "cells along each side of the phase diagram")
      ->check(CLI::Range(2, 400))
      ->capture_default_str();
  verb->add_flag("--measure", a->measure, "simulate each cell of the phase diagram too");
  verb->add_option("--trajectory", a->trajectory, ".npy file to write: positions [recorded, M, d]");
  verb->add_option("--threads", a->threads, "0 = one per core")->check(CLI::Range(0, 4096))->capture_default_str();
  verb->add_flag("--json", a->json, "print JSON");
  verb->footer(
      "Examples:\n  unbend gan stability --sigma 1 --lambda 0.5 --eta-d 0.1 --eta-g 0.1\n"
      "  unbend gan stability --q 0.4 0.4 --lambda 0.5 --eta-g 0.05 --order simultaneous --json\n"
      "  unbend gan stability --true data.csv --generated start.csv --sigma 0.5 --eta-g 2 --report stability.html");
  verb->callback([a] { stability(*a); });
}

}  // namespace unbend
