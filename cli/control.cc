// Verbs on safe control of robots with elastic joints: control explore, learn, simulate, filter, mjcf.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <optional>

#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/control/files.h"
#include "unbend/control/mujoco_robot.h"
#include "unbend/report/html.h"

namespace unbend {
namespace {

using namespace control;
namespace fs = std::filesystem;

struct Arguments {
  std::vector<std::string> data;
  std::string robot, nominal, model, start_model, task, settings, held_out, states;
  std::string plant = "equations", seen, out, log, report;
  double step = .002;
  std::optional<double> beta;  ///< instead of the task's
  int evaluations = 200, rows = 1000;
  std::uint64_t seed = 1;
  bool no_filter = false, no_fit = false, known_gain = false, json = false;
};

Robot robot_of(const std::string& path) { return robot_from_json(read_json(path), path); }

Plant plant_of(const Arguments& a, const Robot& robot) {
  return a.plant == "mujoco" ? mujoco_plant(robot, a.step) : equations_plant(robot, a.step);
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
Json finite(const std::vector<double>& values) {
  Json json = Json::array();
  for (const double v : values) json.push_back(finite(v));
  return json;
}

/// The model of --model, or the robot of --nominal without a learned error, or the plant itself.
Model model_of(const Arguments& a) {
  if (!a.model.empty()) return load_model(a.model);
  return {robot_of(a.nominal.empty() ? a.robot : a.nominal), {}, {}};
}

// ---- simulate

Table summary_table(const Summary& s, const std::vector<Constraint>& constraints) {
  Table table{"", {"measure", "value"}, {}};
  for (std::size_t i = 0; i < constraints.size(); ++i)
    table.rows.push_back({fmt::format("least h of '{}'", constraints[i].name),
                          fmt::format("{:+.5f}{}", s.least_h[i], s.least_h[i] < 0 ? " violated" : "")});
  table.rows.push_back({"tracking error, RMS (rad)", fmt::format("{:.4f}", s.tracking)});
  table.rows.push_back({"control steps", std::to_string(s.steps)});
  table.rows.push_back({"steps where the filter acted", std::to_string(s.active)});
  table.rows.push_back({"steps without a feasible input", std::to_string(s.infeasible)});
  table.rows.push_back({"steps that kept the last input", std::to_string(s.held)});
  table.rows.push_back({"steps far from the data", std::to_string(s.extrapolating)});
  table.rows.push_back({"largest r (below 1: one constraint is feasible)", fmt::format("{:.3f}", s.largest_ratio)});
  return table;
}

template <class Value>
Series series_of(const std::string& name, const Run& run, const Value& value, int color = -1, bool dashed = false) {
  Series s{name, {}, {}, {}, {}, dashed, color};
  const std::size_t stride = std::max<std::size_t>(1, run.steps.size() / 2000);
  for (std::size_t i = 0; i < run.steps.size(); i += stride) {
    s.x.push_back(run.steps[i].time);
    s.y.push_back(value(run.steps[i]));
  }
  return s;
}

void write_report(const Arguments& a, const Run& run, const Summary& summary, const Task& task, const Robot& robot) {
  HtmlReport report("Safe control", fmt::format("{}, task {}, {} s", a.robot, a.task, task.loop.duration));
  report.heading("Summary").table(summary_table(summary, task.constraints));
  if (!run.stopped.empty()) report.paragraph(run.stopped);
  const auto n = static_cast<int>(run.steps[0].input.size());
  const Axis time{"time (s)"};
  if (!task.constraints.empty()) {
    LinePlot h{"Constraints: h over time, safe from 0 up", time, {"h"}, {}},
        margin{"What the condition on the input leaves", time, {"margin of h''''"}, {}};
    LinePlot activity{"Feasibility and activity", time, {"share"}, {}};
    for (std::size_t i = 0; i < task.constraints.size() && i < 8; ++i) {
      const auto& name = task.constraints[i].name;
      h.series.push_back(series_of(name, run, [i](const ControlStep& s) { return s.h[i]; }));
      margin.series.push_back(series_of(name, run, [i](const ControlStep& s) { return s.margin[i]; }));
      activity.series.push_back(
          series_of("r of " + name, run, [i](const ControlStep& s) { return std::min(s.ratio[i], 10.); }));
    }
    activity.series.push_back(series_of(
        "filter acts", run, [](const ControlStep& s) { return s.status == FilterStatus::Unchanged ? 0. : 1.; }));
    activity.series.push_back(series_of("novelty", run, [](const ControlStep& s) { return s.novelty; }));
    activity.caption = "r below 1: one constraint can be kept. Novelty near 1: far from the data.";
    report.heading("Safety").plot(h).plot(margin).plot(activity);
  }
  LinePlot joints{"Joints (dashed: references)", time, {"angle (rad)"}, {}},
      inputs{"Torques (dashed: before the filter)", time, {"torque (N m)"}, {}};
  for (int j = 0; j < n && j < 4; ++j) {
    joints.series.push_back(series_of(
        fmt::format("q{}", j + 1), run, [j](const ControlStep& s) { return s.flat[j]; }, j));
    joints.series.push_back(series_of(
        fmt::format("reference {}", j + 1), run, [j](const ControlStep& s) { return s.reference[j]; }, j, true));
    inputs.series.push_back(series_of(
        fmt::format("u{}", j + 1), run, [j](const ControlStep& s) { return s.input[j]; }, j));
    inputs.series.push_back(series_of(
        fmt::format("desired {}", j + 1), run, [j](const ControlStep& s) { return s.desired[j]; }, j, true));
  }
  PathPlot path{"The tip of the arm", {"x (m)"}, {"y (m)"}, {}};
  path.paths.push_back({"tip", {}, {}});
  for (std::size_t i = 0; i < run.steps.size(); i += std::max<std::size_t>(1, run.steps.size() / 1000)) {
    const Eigen::Vector2d at = tip(robot, run.steps[i].flat.head(n));
    path.paths[0].x.push_back(at.x());
    path.paths[0].y.push_back(at.y());
  }
  report.heading("Motion").plot(joints).plot(inputs).plot(path);
  report.write(a.report);
}

void simulate_verb(const Arguments& a) {
  for (const auto& path : {a.log, a.seen, a.report}) check_output(path);
  const Robot robot = robot_of(a.robot);
  const Model model = model_of(a);
  Task task = task_from_json(read_json(a.task), robot.joints(), a.task);
  if (a.beta) task.loop.controller.beta = *a.beta;
  task.loop.controller.filter = !a.no_filter;
  catch_interrupts();
  const auto begin = std::chrono::steady_clock::now();
  const Run run =
      simulate(plant_of(a, robot), model, task.constraints, task.reference, resting(robot, task.start), task.loop);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (run.steps.empty()) fail_computation("{}", run.stopped);
  const Summary s = summarize(run);
  if (!a.log.empty()) save_log(a.log, run, task.constraints);
  if (!a.seen.empty()) save_experience(a.seen, experience_of(run, robot, ExploreOptions{}.sample_every));
  if (!a.report.empty()) write_report(a, run, s, task, robot);
  if (a.json) {
    Json names = Json::array();
    for (const Constraint& c : task.constraints) names.push_back(c.name);
    print_json({{"constraints", names},
                {"least_h", finite(s.least_h)},
                {"tracking_rms", s.tracking},
                {"steps", s.steps},
                {"active", s.active},
                {"infeasible", s.infeasible},
                {"held", s.held},
                {"extrapolating", s.extrapolating},
                {"largest_ratio", finite(s.largest_ratio)},
                {"seconds", seconds},
                {"stopped", run.stopped}});
  } else {
    fmt::print("{}{:.2f} s of computing\n", to_text(summary_table(s, task.constraints)), seconds);
  }
  if (!run.stopped.empty()) fail_computation("{}", run.stopped);
}

// ---- explore, learn

void explore_verb(const Arguments& a) {
  check_output(a.out);
  const Robot robot = robot_of(a.robot), nominal = robot_of(a.nominal.empty() ? a.robot : a.nominal);
  const int n = robot.joints();
  const Exploration e =
      a.settings.empty() ? Exploration{} : exploration_from_json(read_json(a.settings), n, a.settings);
  Reference around{e.offset.size() ? e.offset : Vector(Vector::Zero(n)), {}, {}};
  Vector start = around.offset;
  if (!a.task.empty()) {
    require(e.offset.size() == 0, "{}: 'offset' and a task: one says where to explore", a.settings);
    const Task task = task_from_json(read_json(a.task), n, a.task);
    around = task.reference, start = task.start;
  }
  Random random(a.seed);
  const Experience seen = explore(plant_of(a, robot), nominal, with_random_sines(around, e.terms, e.sines, random),
                                  resting(robot, start), e.options, random);
  save_experience(a.out, seen);
  if (a.json) return print_json({{"rows", seen.u.rows()}, {"file", a.out}});
  fmt::print("{} rows in {}\n", seen.u.rows(), a.out);
}

void learn_verb(const Arguments& a) {
  check_output(a.out);
  Model model{robot_of(a.nominal), {}, {}};
  const int n = model.nominal.joints();
  model.units = default_units(n);
  Experience seen = experience_from_rows(load_rows(a.data[0]), n, a.data[0]);
  for (std::size_t i = 1; i < a.data.size(); ++i)
    seen = joined(seen, experience_from_rows(load_rows(a.data[i]), n, a.data[i]));
  const GpData data = error_data(seen, model.nominal, model.units);
  require(data.z.rows() <= a.rows,
          "{}: {} rows; an exact process of more than {} is slow in the loop: thin the data, or raise --rows",
          fmt::join(a.data, ", "), data.z.rows(), a.rows);
  GpKernel kernel = default_gp_kernel();
  if (!a.start_model.empty()) {
    const Model start = load_model(a.start_model);
    require(start.error.has_value(), "{}: it has no kernel to start from", a.start_model);
    kernel = start.error->kernel();
  }
  if (a.known_gain) kernel.gain = {};
  GpFit fit{kernel, NAN, NAN, 0};
  if (!a.no_fit) fit = fit_kernel(data, kernel, {}, a.evaluations);
  model.error.emplace(data, fit.kernel);
  if (!a.out.empty()) save_model(a.out, model);
  const auto warnings = data_warnings(data);
  for (const auto& warning : warnings) fmt::print(stderr, "unbend: warning: {}\n", warning);

  Json json{{"rows", data.z.rows()},
            {"log_likelihood", model.error->log_marginal_likelihood()},
            {"start_log_likelihood", finite(fit.start_likelihood)},
            {"evaluations", fit.evaluations},
            {"jitter", model.error->jitter()},
            {"label_spread", std::vector<double>(model.error->scale().begin(), model.error->scale().end())},
            {"drift", to_json(fit.kernel.drift)},
            {"gain", to_json(fit.kernel.gain)},
            {"noise", fit.kernel.noise},
            {"warnings", warnings}};
  Table table{"", {"measure", "value"}, {}};
  table.rows.push_back({"rows", std::to_string(data.z.rows())});
  table.rows.push_back({"log marginal likelihood", fmt::format("{:.2f}", model.error->log_marginal_likelihood())});
  if (!a.no_fit) table.rows.push_back({"  before fitting", fmt::format("{:.2f}", fit.start_likelihood)});
  for (int j = 0; j < n; ++j)
    table.rows.push_back({fmt::format("error of q{}'''' to explain, standard deviation", j + 1),
                          fmt::format("{:.4g}", model.error->scale()[j])});
  table.rows.push_back({"noise (share of it)", fmt::format("{:.4g}", fit.kernel.noise)});
  if (model.error->jitter() > 0)
    table.rows.push_back({"jitter that the covariance matrix needed", fmt::format("{:.1g}", model.error->jitter())});
  if (!a.held_out.empty()) {
    const HeldOut h = evaluate(model, experience_from_rows(load_rows(a.held_out), n, a.held_out));
    const auto quantile = [&](double q) {
      return h.surprise[static_cast<std::size_t>(q * static_cast<double>(h.surprise.size() - 1))];
    };
    json["held_out"] = {{"nrmse", std::vector<double>(h.nrmse.begin(), h.nrmse.end())},
                        {"surprise_95", quantile(.95)},
                        {"surprise_max", h.surprise.back()}};
    for (int j = 0; j < n; ++j)
      table.rows.push_back({fmt::format("held-out NRMSE of q{}''''", j + 1), fmt::format("{:.4f}", h.nrmse[j])});
    table.rows.push_back({"held-out |error| / standard deviation, 95 % (a beta that covers them)",
                          fmt::format("{:.2f}", quantile(.95))});
  }
  if (a.json) return print_json(json);
  fmt::print("{}", to_text(table));
  fmt::print("kernel of the drift {}\nkernel of the gain  {}\n", to_json(fit.kernel.drift).dump(),
             to_json(fit.kernel.gain).dump());
}

// ---- filter

void filter_verb(const Arguments& a) {
  for (const auto& path : {a.out, a.log}) check_output(path);
  const Model model = model_of(a);
  const int n = model.nominal.joints();
  Json given = read_json(a.task);
  require(given.is_object(), "{}: a task is a JSON object", a.task);
  if (!given.contains("reference"))
    given["reference"] = {{"offset", std::vector<double>(static_cast<std::size_t>(n), 0.)}};
  Task task = task_from_json(given, n, a.task);
  if (a.beta) task.loop.controller.beta = *a.beta;
  check(model, task.constraints, task.loop.controller, task.loop.period);
  const Eigen::MatrixXd rows = load_rows(a.states);
  const bool flat = rows.cols() == 7 * n;
  require(flat || rows.cols() == 5 * n,
          "{}: {} columns; for {} joints {} are needed (q, q', theta, theta', u) or {} (q, q', theta, theta', q'', "
          "q''', u)",
          a.states, rows.cols(), n, 5 * n, 7 * n);
  Run run;
  int changed = 0, infeasible = 0, held = 0;
  double largest = 0;
  for (Eigen::Index i = 0; i < rows.rows(); ++i) {
    const State x = rows.row(i).head(4 * n);
    State xi(4 * n);
    if (flat)
      xi << rows.row(i).head(2 * n).transpose(), rows.row(i).segment(4 * n, 2 * n).transpose();
    else
      xi = flat_state(model.nominal, x);
    run.steps.push_back(filter_step(model, task.constraints, task.loop.controller, x, xi, rows.row(i).tail(n)));
    ControlStep& step = run.steps.back();
    step.time = static_cast<double>(i) * task.loop.period;
    if (step.held) {  // the last allowed input stands, as in a loop
      step.input = i > 0 ? run.steps[run.steps.size() - 2].input : Vector(Vector::Zero(n));
      ++held;
    }
    changed += step.status != FilterStatus::Unchanged;
    infeasible += step.status == FilterStatus::Infeasible;
    largest = std::max(largest, (step.input - step.desired).norm());
  }
  if (!a.log.empty()) save_log(a.log, run, task.constraints);
  if (!a.out.empty()) {
    std::string text;
    for (const ControlStep& step : run.steps) text += fmt::format("{}\n", fmt::join(step.input, ","));
    write_file(a.out, text);
  }
  if (a.json)
    return print_json({{"rows", rows.rows()},
                       {"changed", changed},
                       {"infeasible", infeasible},
                       {"held", held},
                       {"largest_change", largest}});
  fmt::print("{} rows: {} inputs changed (by up to {:.4g}), {} without a feasible one, {} kept from the row before\n",
             rows.rows(), changed, largest, infeasible, held);
}

void mjcf_verb(const Arguments& a) {
  check_output(a.out);
  const std::string xml = mujoco_xml(robot_of(a.robot), a.step);
  if (!a.out.empty()) write_file(a.out, xml);
  if (a.json)
    print_json({{"robot", a.robot}, {"step", a.step}, {"xml", xml}});
  else if (a.out.empty())
    fmt::print("{}", xml);
}

}  // namespace

void add_control_verbs(CLI::App& app) {
  auto* group = app.add_subcommand(
      "control", "safe control of robots with elastic joints: learned models, barriers, a safety filter");
  group->require_subcommand(1);
  group->footer(
      "Example:\n  unbend control simulate arm.json --task task.json --report run.html\nFiles: docs/control.md");
  auto a = std::make_shared<Arguments>();
  const auto common = [a](CLI::App* verb) { verb->add_flag("--json", a->json, "print JSON"); };
  const auto plant = [a](CLI::App* verb) {
    verb->add_option("robot", a->robot, "JSON file of the robot that moves")->required();
    verb->add_option("--plant", a->plant, "who integrates it: equations or mujoco")
        ->check(CLI::IsMember({"equations", "mujoco"}))
        ->capture_default_str();
    verb->add_option("--step", a->step, "of the integrator (s)")->check(CLI::PositiveNumber)->capture_default_str();
  };

  auto* simulate = group->add_subcommand("simulate", "run a closed loop and say whether its constraints were kept");
  plant(simulate);
  simulate->add_option("--task", a->task, "JSON file: reference, constraints, gains")->required();
  auto* known = simulate->add_option("--nominal", a->nominal,
                                     "JSON file of the robot as the controller knows it; without: the true one");
  simulate->add_option("--model", a->model, "a model that learn wrote, instead of --nominal")->excludes(known);
  simulate->add_option("--beta", a->beta, "standard deviations to survive; without: the task's")
      ->check(CLI::NonNegativeNumber);
  simulate->add_flag("--no-filter", a->no_filter, "tracking only");
  simulate->add_option("--log", a->log, "CSV file to write: one row per control step");
  simulate->add_option("--seen", a->seen, "CSV file to write: what learn can take from this run");
  simulate->add_option("--report", a->report, "HTML report to write");
  common(simulate);
  simulate->footer(
      "Examples:\n  unbend control simulate arm.json --task task.json --report run.html\n"
      "  unbend control simulate arm.json --nominal guess.json --task task.json --no-filter --json\n"
      "  unbend control simulate arm.json --model learned.json --task task.json --plant mujoco --step 0.001 --log "
      "run.csv");
  simulate->callback([a] { simulate_verb(*a); });

  auto* explore = group->add_subcommand("explore", "collect data for learn: a noisy closed loop on the nominal model");
  plant(explore);
  explore->add_option("--nominal", a->nominal, "JSON file of the robot as the controller knows it");
  explore->add_option("--task", a->task, "JSON file as simulate takes it: explore around its motion")
      ->check(CLI::ExistingFile);
  explore->add_option("--settings", a->settings, "JSON file: terms, amplitude, duration, noise; without: 16 s");
  explore->add_option("--seed", a->seed)->capture_default_str();
  explore->add_option("--out", a->out, "CSV file to write")->required();
  common(explore);
  explore->footer(
      "Examples:\n  unbend control explore arm.json --nominal guess.json --out seen.csv\n"
      "  unbend control explore arm.json --nominal guess.json --task task.json --out around.csv");
  explore->callback([a] { explore_verb(*a); });

  auto* learn = group->add_subcommand(
      "learn", "learn the error of a nominal model from data: a Gaussian process affine in the input");
  learn
      ->add_option("data", a->data, "CSV or .npy files: q, q', theta, theta', q'', q''', q'''', u, each for all joints")
      ->required();
  learn->add_option("--nominal", a->nominal, "JSON file of the robot as the controller knows it")->required();
  learn->add_option("--out", a->out, "model to write (JSON)");
  learn->add_option("--held-out", a->held_out, "other data, to measure the error on");
  learn->add_option("--start", a->start_model, "a model whose kernel to start from");
  learn->add_option("--evaluations", a->evaluations, "of the likelihood at most")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  learn->add_option("--rows", a->rows, "largest number of rows to take")
      ->check(CLI::Range(10, 20000))
      ->capture_default_str();
  learn->add_flag("--no-fit", a->no_fit, "keep the kernel as it is");
  learn->add_flag("--known-gain", a->known_gain,
                  "the nominal gain of the input is exact: the filter is a quadratic program");
  common(learn);
  learn->footer(
      "Examples:\n  unbend control learn seen.csv --nominal guess.json --held-out more.csv --out learned.json\n"
      "  unbend control learn seen.csv run.csv --nominal guess.json --out better.json");
  learn->callback([a] { learn_verb(*a); });

  auto* filter = group->add_subcommand("filter", "change logged inputs as little as possible so that constraints hold");
  filter->add_option("states", a->states, "CSV or .npy, a row per step: q, q', theta, theta' [, q'', q'''], u")
      ->required();
  filter->add_option("--task", a->task, "JSON file with constraints and barrier_pole")->required();
  auto* nominal = filter->add_option("--nominal", a->nominal, "JSON file of the robot");
  filter->add_option("--model", a->model, "a model that learn wrote")->excludes(nominal);
  filter->add_option("--beta", a->beta, "standard deviations to survive; without: the task's")
      ->check(CLI::NonNegativeNumber);
  filter->add_option("--out", a->out, "CSV file to write: the inputs");
  filter->add_option("--log", a->log, "CSV file to write: inputs, margins, status");
  common(filter);
  filter->footer("Example:\n  unbend control filter states.csv --model learned.json --task task.json --out safe.csv");
  filter->callback([a] {
    if (a->model.empty() && a->nominal.empty()) fail_usage("give --model or --nominal");
    filter_verb(*a);
  });

  auto* mjcf = group->add_subcommand("mjcf", "the robot as a model for MuJoCo");
  mjcf->add_option("robot", a->robot, "JSON file of the robot")->required();
  mjcf->add_option("--step", a->step, "time step (s)")->check(CLI::PositiveNumber)->capture_default_str();
  mjcf->add_option("--out", a->out, "XML file to write; without: standard output");
  common(mjcf);
  mjcf->footer("Example:\n  unbend control mjcf arm.json --out arm.xml");
  mjcf->callback([a] { mjcf_verb(*a); });
}

}  // namespace unbend
