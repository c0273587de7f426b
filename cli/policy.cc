// Verbs on policies that act: policy train, policy eval, policy render.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <chrono>
#include <cmath>

#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/control/environments_mujoco.h"
#include "unbend/control/environments_own.h"
#include "unbend/control/policy_drawing.h"
#include "unbend/control/policy_names.h"
#include "unbend/control/policy_training.h"
#include "unbend/report/drawing.h"
#include "unbend/report/html.h"
#include "unbend/tensor/csv.h"

namespace unbend {
namespace {

using namespace control;

// ---- Which task

/// As given on the command line; kept beside a trained policy so that the other verbs need not be told again.
struct TaskSource {
  std::string task, table, labels, rewards, models;
};

constexpr const char* kModels = "build/data/gymnasium";

const std::vector<std::pair<std::string, std::unique_ptr<Dynamics> (*)(std::int64_t)>> kOwn = {
    {"cartpole", cartpole}, {"pendulum", pendulum}, {"point_mass", point_mass}};

std::vector<double> numbers_of(const at::Tensor& array) {
  const auto c = array.to(at::kDouble).contiguous();
  return {c.const_data_ptr<double>(), c.const_data_ptr<double>() + c.numel()};
}

MakeDynamics bandit_of(const TaskSource& source) {
  if (source.labels.empty() == source.rewards.empty())
    fail_usage("--table needs what its rows earn: either --labels or --rewards");
  auto contexts = load_array(source.table);
  contexts = contexts.dim() == 1 ? contexts.unsqueeze(1) : contexts.flatten(1);
  BanditTable table;
  if (!source.labels.empty()) {
    const auto labels = load_array(source.labels).flatten();
    require(labels.size(0) == contexts.size(0), "{} has {} rows, {} has {} labels", source.table, contexts.size(0),
            source.labels, labels.size(0));
    table = classification(contexts.size(1), numbers_of(contexts), numbers_of(labels));
  } else {
    const auto rewards = load_array(source.rewards);
    require(rewards.dim() == 2 && rewards.size(0) == contexts.size(0),
            "{} has {} rows: {} must have as many, and a column per choice", source.table, contexts.size(0),
            source.rewards);
    table = {contexts.size(1), rewards.size(1), numbers_of(contexts), numbers_of(rewards)};
  }
  const auto shared = std::make_shared<const BanditTable>(std::move(table));
  bandit(shared, 1);  // checked once, here
  return [shared](std::int64_t copies) { return bandit(shared, copies); };
}

MakeDynamics make_of(const TaskSource& source) {
  if (source.task.empty() == source.table.empty())
    fail_usage("name one task by --task, or a table of contexts by --table");
  if (!source.table.empty()) return bandit_of(source);
  for (const auto& [name, make] : kOwn)
    if (name == source.task) return make;
  std::shared_ptr<const MujocoTask> task;
  if (const auto json = gymnasium_task(source.task)) {
    const std::string folder = source.models.empty() ? kModels : source.models;
    const auto model = std::filesystem::path(folder) / json->at("model").get<std::string>();
    require(std::filesystem::exists(model),
            "{} is missing: run tools/setup.sh gymnasium, or name its folder by --models", model.string());
    task = std::make_shared<const MujocoTask>(MujocoTask::from_json(*json, folder, source.task));
  } else {
    std::vector<std::string> names = gymnasium_task_names();
    for (const auto& own : kOwn) names.push_back(own.first);
    if (!source.task.ends_with(".json"))
      fail_usage("there is no task '{}': use {}, or a description in a .json file", source.task,
                 fmt::join(names, ", "));
    task = std::make_shared<const MujocoTask>(MujocoTask::load(source.task));
  }
  return [task](std::int64_t copies) { return mujoco_dynamics(task, copies); };
}

std::string absolute(const std::string& path) {
  return path.empty() ? path : std::filesystem::absolute(path).lexically_normal().string();
}

void keep_source(const TaskSource& s, const std::filesystem::path& folder) {
  const bool file = s.task.ends_with(".json");
  write_json(folder / "task.json", Json{{"task", file ? absolute(s.task) : s.task},
                                        {"table", absolute(s.table)},
                                        {"labels", absolute(s.labels)},
                                        {"rewards", absolute(s.rewards)},
                                        {"models", absolute(s.models.empty() ? kModels : s.models)}});
}

/// What the command line says, else what the folder of a policy remembers. The same task may have moved its models or
/// its rewards.
TaskSource source_of(const TaskSource& given, const std::filesystem::path& folder) {
  if (!given.task.empty() || !given.table.empty()) return given;
  const auto path = folder / "task.json";
  if (!std::filesystem::exists(path))
    fail_usage("{} does not say which task it is for: name it by --task or --table", folder.string());
  const Json json = read_json(path);
  const auto get = [&](const char* key) { return json_get<std::string>(json, key, path.string()); };
  TaskSource source{get("task"), get("table"), get("labels"), get("rewards"), get("models")};
  if (!given.labels.empty() || !given.rewards.empty()) source.labels = given.labels, source.rewards = given.rewards;
  if (!given.models.empty()) source.models = given.models;
  return source;
}

void add_task_options(CLI::App* verb, TaskSource* s, const char* what) {
  verb->add_option("--task", s->task,
                   fmt::format("{}: cartpole, pendulum, point_mass, {}, or a description of a MuJoCo model (.json)",
                               what, fmt::join(gymnasium_task_names(), ", ")));
  verb->add_option("--table", s->table, "a contextual bandit: contexts [rows, features], .npy or CSV");
  verb->add_option("--labels", s->labels, "of the table: reward 1 for the right class 0, 1, ...");
  verb->add_option("--rewards", s->rewards, "of the table: what each choice earns [rows, choices]");
  verb->add_option("--models", s->models,
                   fmt::format("folder of the models of the Gymnasium tasks; without: {}", kModels));
}

/// The policy file of a folder, or the file itself.
std::filesystem::path policy_path(const std::string& given) {
  const std::filesystem::path path(given);
  return std::filesystem::is_directory(path) ? path / "policy.safetensors" : path;
}

// ---- train

struct TrainArguments {
  TaskSource source;
  std::string algorithm = "mdpo", out, resume, report, nonlinearity, start;
  std::int64_t steps = 0, copies = 0, horizon = 2048, inner = 10, policy_batch = 0, value_epochs = 5, value_batch = 128;
  std::int64_t warm_up = 10000, batch = 256, buffer = 1000000, refresh = 1000, report_every = 1000;
  std::int64_t evaluate_every = 0, evaluate_episodes = 10, checkpoint_every = 10;
  std::vector<std::int64_t> hidden;
  double lr = 3e-4, value_lr = 0, gamma = .99, gae = .95, step_size = 1, entropy = 0, clip = .2, value_clip = .2;
  double c = 1, lambda = .2, tau = .005, tsallis = 1, updates = 1, max_norm = .5, log_std = 0;
  std::uint64_t seed = 1;
  bool squash = false, normalise = false, normalise_observations = false, normalise_rewards = false, plain = false;
  bool decay_lr = false, constant_step = false, compat = false;
  bool deterministic_actions = false, overwrite = false, json = false, quiet = false;
};

constexpr const char *kOnPolicy = "On-policy", *kOffPolicy = "Off-policy";  // groups of options in --help

bool is_off_policy(const std::string& algorithm) { return algorithm == "mdpo-off" || algorithm == "sac"; }

/// Options of other algorithms would change nothing.
void refuse_options_of_other_algorithms(const CLI::App& verb, const std::string& algorithm) {
  const bool off = is_off_policy(algorithm);
  for (const CLI::Option* option : verb.get_options(
           [&](const CLI::Option* o) { return o->count() > 0 && o->get_group() == (off ? kOnPolicy : kOffPolicy); }))
    fail_usage("--algorithm {} is {}: leave out {}", algorithm, off ? "off-policy" : "on-policy", option->get_name());
  for (const auto& [name, of] :
       {std::pair{"--clip", "ppo"}, {"--step-size", "mdpo"}, {"--constant-step", "mdpo"}, {"--c", "mdpo-off"}})
    if (verb.count(name) > 0 && algorithm != of)
      fail_usage("{} is of {} alone: leave it out with {}", name, of, algorithm);
}

std::unique_ptr<Trainer> trainer_of(const TrainArguments& a, const MakeDynamics& make) {
  const auto hidden = [&](std::vector<std::int64_t> fallback) {
    if (a.hidden.empty()) return fallback;
    return a.hidden == std::vector<std::int64_t>{0} ? std::vector<std::int64_t>{} : a.hidden;  // 0: a linear policy
  };
  const auto nonlinearity = [&](Nonlinearity fallback) {
    return a.nonlinearity.empty() ? fallback : named<Nonlinearity>(a.nonlinearity, "--nonlinearity");
  };
  const auto start = [&](Start fallback) { return a.start.empty() ? fallback : named<Start>(a.start, "--start"); };
  if (is_off_policy(a.algorithm)) {
    OffPolicyOptions o;
    o.sac = a.algorithm == "sac", o.hidden = hidden(o.hidden), o.nonlinearity = nonlinearity(o.nonlinearity);
    o.start = start(o.start), o.steps = a.steps > 0 ? a.steps : o.steps, o.warm_up = a.warm_up, o.batch = a.batch;
    o.buffer = a.buffer, o.refresh = a.refresh, o.lr = a.lr, o.gamma = a.gamma, o.tau = a.tau;
    o.updates_per_step = a.updates, o.deterministic_actions = a.deterministic_actions;
    o.normalise_observations = a.normalise || a.normalise_observations;
    o.weights = {a.c, a.lambda, a.tsallis, a.plain ? 0 : o.weights.penalty};
    const auto copies = a.copies > 0 ? a.copies : 1;
    o.report_every = std::max(a.report_every, copies);
    return off_policy(make, copies, o, a.seed);
  }
  OnPolicyOptions o;
  o.objective = named<Objective>(a.algorithm, "--algorithm");
  o.hidden = hidden(o.hidden), o.nonlinearity = nonlinearity(o.nonlinearity);
  o.steps = a.steps > 0 ? a.steps : o.steps, o.horizon = a.horizon, o.inner = a.inner, o.policy_batch = a.policy_batch;
  o.value_epochs = a.value_epochs, o.value_batch = a.value_batch, o.lr = a.lr;
  o.value_lr = a.value_lr != 0 ? a.value_lr : a.lr, o.gamma = a.gamma, o.lambda = a.gae, o.step_size = a.step_size;
  o.anneal = !a.constant_step, o.entropy = a.entropy, o.clip = a.clip, o.value_clip = a.plain ? 0 : a.value_clip;
  o.kappa = a.tsallis, o.max_norm = a.max_norm, o.log_std = a.log_std, o.squash = a.squash;
  o.normalise_observations = a.normalise || a.normalise_observations;
  o.normalise_rewards = a.normalise || a.normalise_rewards, o.decay_lr = a.decay_lr, o.compat = a.compat;
  o.start = start(a.plain ? Start::Uniform : o.start);
  return on_policy(make, a.copies > 0 ? a.copies : 8, o, a.seed);
}

LinePlot plot_of(const std::string& title, const std::string& unit, const std::vector<CurvePoint>& curve,
                 const std::vector<std::pair<std::string, std::function<double(const CurvePoint&)>>>& what) {
  LinePlot plot{title, {"steps"}, {unit}, {}};
  for (const auto& [name, value] : what) {
    Series series{name, {}, {}};
    for (const CurvePoint& p : curve) series.x.push_back(static_cast<double>(p.steps)), series.y.push_back(value(p));
    if (std::ranges::any_of(series.y, [](double y) { return std::isfinite(y); })) plot.series.push_back(series);
  }
  return plot;
}

void write_report(const std::string& path, const Agent& agent, const MakeDynamics& make,
                  const std::vector<CurvePoint>& curve) {
  const CurvePoint& last = curve.back();
  HtmlReport report(
      fmt::format("Training on {}", agent.spec.name),
      fmt::format("{}, {} steps, {} episodes", agent.about.value("algorithm", ""), last.steps, last.episodes));
  report.key_figures(
      {{fmt::format("{:.4g}", last.total), "mean return of the last episodes"},
       {fmt::format("{:.0f}", static_cast<double>(last.steps) / std::max(last.seconds, 1e-9)), "steps per second"},
       {fmt::format("{}", last.updates), "gradient steps of the policy"}});
  const auto add = [&](const LinePlot& plot) {
    if (!plot.series.empty()) report.plot(plot);
  };
  report.heading("Learning curve");
  add(plot_of("Return", "return", curve,
              {{"while exploring", [](const CurvePoint& p) { return p.total; }},
               {"most likely actions", [](const CurvePoint& p) { return p.evaluated ? *p.evaluated : NAN; }}}));
  report.heading("Traces");
  add(plot_of("Divergence from the old policy", "nats", curve,
              {{"divergence", [](const CurvePoint& p) { return p.divergence; }}}));
  add(plot_of("Entropy of the policy", "nats", curve, {{"entropy", [](const CurvePoint& p) { return p.entropy; }}}));
  add(plot_of("Loss of the critic", "loss", curve, {{"critic", [](const CurvePoint& p) { return p.value_loss; }}}));
  if (agent.spec.name != "bandit") {
    report.heading("An episode");
    report.drawing(film_strip(agent, make, {}).drawing);
  }
  report.heading("Options");
  Table options{"", {"option", "value"}, {}};
  const Json given = agent.about.value("options", Json::object());
  for (const auto& [key, value] : given.items())
    options.rows.push_back({key, value.is_string() ? value.get<std::string>() : value.dump()});
  report.table(options);
  report.write(path);
}

/// A resumed training has the options of its checkpoint: others are refused rather than passed over.
void refuse_options_of_the_checkpoint(const CLI::App& verb) {
  constexpr std::string_view kFree[] = {
      "--resume",          "--steps",  "--report",  "--json", "--quiet", "--task",           "--models",
      "--table",           "--labels", "--rewards", "--out",  "--seed",  "--evaluate-every", "--evaluate-episodes",
      "--checkpoint-every"};
  for (const CLI::Option* option : verb.get_options()) {
    if (option->count() > 0 && std::ranges::find(kFree, option->get_name()) == std::end(kFree))
      fail_usage("--resume goes on with the options of its checkpoint: leave out {}", option->get_name());
  }
}

void train(const TrainArguments& a) {
  catch_interrupts();
  const std::filesystem::path folder(a.resume.empty() ? a.out : a.resume);
  check_output(a.report);
  if (!a.resume.empty() && !a.out.empty()) fail_usage("--resume goes on in its own folder: leave out --out");
  if (!a.out.empty() && !a.overwrite && std::filesystem::exists(folder / "checkpoint.safetensors"))
    fail_usage("{} holds a training: --resume goes on with it, --overwrite starts anew", a.out);
  const TaskSource source = a.resume.empty() ? a.source : source_of(a.source, folder);
  const MakeDynamics make = make_of(source);
  std::unique_ptr<Trainer> trainer;
  std::vector<CurvePoint> curve;
  if (a.resume.empty()) {
    trainer = trainer_of(a, make);
  } else {
    trainer = resume(ArrayFile::read(folder / "checkpoint.safetensors"), make, a.steps);
    curve = read_curve(folder / "curve.csv");
    std::erase_if(curve, [&](const CurvePoint& p) { return p.steps > trainer->steps(); });
  }
  if (!folder.empty()) {
    std::filesystem::create_directories(folder);
    keep_source(source, folder);
  }
  const double before = curve.empty() ? 0 : curve.back().seconds;
  const auto done = trainer->steps();
  curve =
      run(*trainer, make, {folder, a.checkpoint_every, a.evaluate_every, a.evaluate_episodes, a.seed + 1000, a.quiet},
          std::move(curve));
  require(!curve.empty(), "{} steps are already done: a larger --steps goes on", trainer->steps());
  const Agent agent = trainer->agent();
  if (!a.report.empty()) write_report(a.report, agent, make, curve);
  const CurvePoint& last = curve.back();
  const double rate = static_cast<double>(last.steps - done) / std::max(last.seconds - before, 1e-9);
  if (a.json) {
    Json json{{"task", agent.spec.name},
              {"algorithm", agent.about.at("algorithm")},
              {"steps", last.steps},
              {"episodes", last.episodes},
              {"updates", last.updates},
              {"seconds", last.seconds},
              {"steps_per_second", rate},
              {"return", std::isfinite(last.total) ? Json(last.total) : Json(nullptr)},
              {"length", std::isfinite(last.length) ? Json(last.length) : Json(nullptr)},
              {"divergence", last.divergence},
              {"entropy", last.entropy},
              {"skipped", last.skipped}};
    if (last.evaluated) json["evaluated"] = *last.evaluated;
    for (const CurvePoint& p : curve)
      json["curve"].push_back({p.steps, std::isfinite(p.total) ? Json(p.total) : Json(nullptr)});
    return print_json(json);
  }
  fmt::print("{}: {} steps, {} episodes in {:.1f} s ({:.0f} steps/s)\n", agent.spec.name, last.steps, last.episodes,
             last.seconds, rate);
  fmt::print("mean return of the last episodes {:.5g}, length {:.4g}", last.total, last.length);
  if (last.updates > 0) {
    fmt::print("; KL {:.3g}, entropy {:.3g}\n", last.divergence, last.entropy);
  } else {
    fmt::print("; no update was made: --warm-up or --batch asks for more steps first\n");
  }
  if (last.evaluated) fmt::print("mean return of the most likely actions {:.5g}\n", *last.evaluated);
  if (!folder.empty()) fmt::print("{} holds policy, checkpoint and curve\n", folder.string());
}

// ---- eval, render

struct UseArguments {
  TaskSource source;
  std::string policy, out;
  std::int64_t episodes = 10;
  StripOptions strip;
  std::uint64_t seed = 1;
  bool sample = false, json = false;
};

void eval(const UseArguments& a) {
  const auto path = policy_path(a.policy);
  const Agent agent = load_agent(path);
  const auto make = make_of(source_of(a.source, path.parent_path()));
  const auto begin = std::chrono::steady_clock::now();
  const auto result = evaluate(agent, make, a.episodes, !a.sample, a.seed);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  double least = INFINITY, most = -INFINITY;
  for (const Episode& e : result.episodes) least = std::min(least, e.total), most = std::max(most, e.total);
  if (a.json)
    return print_json({{"task", agent.spec.name},
                       {"episodes", a.episodes},
                       {"deterministic", !a.sample},
                       {"mean", result.mean()},
                       {"deviation", result.deviation()},
                       {"least", least},
                       {"most", most},
                       {"length", result.mean_steps()},
                       {"steps_per_second", static_cast<double>(result.steps) / seconds}});
  fmt::print("{}, {} episodes, {}: return {:.5g} +- {:.3g} (from {:.5g} to {:.5g}), length {:.4g}\n", agent.spec.name,
             a.episodes, a.sample ? "drawn actions" : "most likely actions", result.mean(), result.deviation(), least,
             most, result.mean_steps());
}

void render(const UseArguments& a) {
  const bool page = a.out.ends_with(".html");
  if (!page && !a.out.ends_with(".svg")) fail_usage("--out {}: a name that ends in .svg or .html expected", a.out);
  check_output(a.out);
  const auto path = policy_path(a.policy);
  const Agent agent = load_agent(path);
  const auto make = make_of(source_of(a.source, path.parent_path()));
  StripOptions options = a.strip;
  options.deterministic = !a.sample, options.seed = a.seed;
  const Strip strip = film_strip(agent, make, options);
  if (page) {
    HtmlReport(strip.drawing.title).drawing(strip.drawing).write(a.out);
  } else {
    write_file(a.out, to_svg(strip.drawing));
  }
  if (a.json)
    return print_json(
        {{"out", a.out}, {"return", strip.episode.total}, {"steps", strip.episode.steps}, {"renderer", "drawn"}});
  fmt::print("{} written: {}. {} Drawn from the geometry; no OpenGL renderer is used.\n", a.out, strip.drawing.title,
             strip.drawing.caption);
}

void add_train(CLI::App& group) {
  auto* verb = group.add_subcommand("train", "learn a policy: on-policy or off-policy MDPO, PPO, SAC");
  auto a = std::make_shared<TrainArguments>();
  add_task_options(verb, &a->source, "what to learn");
  verb->add_option("--algorithm", a->algorithm, "mdpo, ppo and no-kl are on-policy, mdpo-off and sac off-policy")
      ->check(CLI::IsMember({"mdpo", "mdpo-off", "ppo", "no-kl", "sac"}))
      ->capture_default_str();
  verb->add_option("--out", a->out, "folder for policy, checkpoint and curve");
  verb->add_flag("--overwrite", a->overwrite, "replace the training that --out holds");
  verb->add_option("--resume", a->resume, "go on in this folder, with its options; --steps can be raised");
  verb->add_option("--report", a->report, "HTML report to write: learning curve, traces, an episode");
  verb->add_option("--steps", a->steps, "of the environment, over all copies; 0: 1,000,000")
      ->check(CLI::NonNegativeNumber);
  verb->add_option("--copies", a->copies, "of the environment; 0: 8 on-policy, 1 off-policy")
      ->check(CLI::Range(0, 65536));
  verb->add_option("--hidden", a->hidden,
                   "units per hidden layer; 0: a linear policy; default 64 64, off-policy 256 256");
  verb->add_option("--nonlinearity", a->nonlinearity, "default tanh, off-policy relu")
      ->check(CLI::IsMember({"tanh", "relu"}));
  verb->add_option("--start", a->start, "of the weights: default orthogonal, off-policy uniform")
      ->check(CLI::IsMember({"orthogonal", "uniform"}));
  verb->add_option("--lr", a->lr, "learning rate")->capture_default_str();
  verb->add_option("--gamma", a->gamma, "discount")->capture_default_str();
  verb->add_option("--tsallis", a->tsallis, "1: KL and Shannon's entropy; up to 2: those of Tsallis")
      ->capture_default_str();
  verb->add_flag("--normalise", a->normalise, "observations, and on-policy rewards, by running moments");
  verb->add_flag("--normalise-observations", a->normalise_observations, "only those");
  verb->add_flag("--plain", a->plain,
                 "without tricks of code: no orthogonal start, no value clip; off-policy no penalties");
  verb->add_option("--seed", a->seed, "of everything random")->capture_default_str();
  const char* on = kOnPolicy;
  verb->add_option("--horizon", a->horizon, "steps per iteration, over all copies")->group(on)->capture_default_str();
  verb->add_option("--inner", a->inner, "m: gradient steps per iteration; 1 is a plain policy gradient")
      ->group(on)
      ->capture_default_str();
  verb->add_option("--policy-batch", a->policy_batch, "0: whole batches; otherwise --inner epochs of minibatches")
      ->group(on)
      ->capture_default_str();
  verb->add_option("--step-size", a->step_size, "t at the start; it decays to 0")->group(on)->capture_default_str();
  verb->add_flag("--constant-step", a->constant_step, "keep t as it is")->group(on);
  verb->add_option("--gae", a->gae, "lambda of the advantages")->group(on)->capture_default_str();
  verb->add_option("--clip", a->clip, "of PPO's ratio")->group(on)->capture_default_str();
  verb->add_option("--entropy", a->entropy, "weight of an entropy bonus")->group(on)->capture_default_str();
  verb->add_option("--value-lr", a->value_lr, "0: as --lr")->group(on)->capture_default_str();
  verb->add_option("--value-epochs", a->value_epochs, "per iteration")->group(on)->capture_default_str();
  verb->add_option("--value-batch", a->value_batch, "minibatch")->group(on)->capture_default_str();
  verb->add_option("--value-clip", a->value_clip, "around the old value, with normalised rewards; 0: none")
      ->group(on)
      ->capture_default_str();
  verb->add_option("--max-norm", a->max_norm, "of a gradient")->group(on)->capture_default_str();
  verb->add_option("--log-std", a->log_std, "of Gaussian policies at the start")->group(on)->capture_default_str();
  verb->add_flag("--normalise-rewards", a->normalise_rewards, "only those")->group(on);
  verb->add_flag("--squash", a->squash, "Gaussian actions through tanh, stretched to the box")->group(on);
  verb->add_flag("--decay-lr", a->decay_lr, "learning rates down to 0")->group(on);
  verb->add_flag("--compat", a->compat, "as the official code: a time limit counts as an end")->group(on);
  const char* off = kOffPolicy;
  verb->add_option("--c", a->c, "1/t, weight of the KL term")->group(off)->capture_default_str();
  verb->add_option("--lambda", a->lambda, "weight of the entropy")->group(off)->capture_default_str();
  verb->add_option("--refresh", a->refresh, "steps between renewals of the old policy")
      ->group(off)
      ->capture_default_str();
  verb->add_option("--warm-up", a->warm_up, "random steps first")->group(off)->capture_default_str();
  verb->add_option("--batch", a->batch, "transitions per gradient step")->group(off)->capture_default_str();
  verb->add_option("--buffer", a->buffer, "transitions kept")->group(off)->capture_default_str();
  verb->add_option("--updates", a->updates, "gradient steps per step")->group(off)->capture_default_str();
  verb->add_option("--tau", a->tau, "of the target network")->group(off)->capture_default_str();
  verb->add_option("--report-every", a->report_every, "steps per point of the curve")
      ->group(off)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_flag("--deterministic-actions", a->deterministic_actions, "collect without drawing, as the official code")
      ->group(off);
  verb->add_option("--evaluate-every", a->evaluate_every, "points of the curve between evaluations; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--evaluate-episodes", a->evaluate_episodes, "of each")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--checkpoint-every", a->checkpoint_every, "points of the curve")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_flag("--json", a->json, "print JSON");
  verb->add_flag("--quiet", a->quiet, "no progress");
  verb->footer(
      "Examples:\n  unbend policy train --task cartpole --steps 100000 --lr 1e-3 --out cart --report cart.html\n"
      "  unbend policy train --task hopper --algorithm mdpo-off --steps 100000 --c 1 --out hopper\n"
      "  unbend policy train --table x.csv --labels y.csv --copies 256 --horizon 256 --hidden 0 --lr 1e-2 --steps "
      "76800\n"
      "  unbend policy train --resume cart --steps 200000");
  verb->callback([a, verb] {
    if (a->resume.empty())
      refuse_options_of_other_algorithms(*verb, a->algorithm);
    else
      refuse_options_of_the_checkpoint(*verb);
    train(*a);
  });
}

}  // namespace

void add_policy_verbs(CLI::App& app) {
  auto* group = app.add_subcommand("policy", "learn to act by mirror descent, in simulators and in MuJoCo");
  group->require_subcommand(1);
  group->footer("Example:\n  unbend policy train --task cartpole --steps 100000 --lr 1e-3 --out cart");
  add_train(*group);
  for (const bool drawing : {false, true}) {
    auto* verb = drawing ? group->add_subcommand("render", "draw an episode as a strip of pictures")
                         : group->add_subcommand("eval", "returns of a policy over whole episodes");
    auto a = std::make_shared<UseArguments>();
    verb->add_option("policy", a->policy, "folder of `policy train`, or a policy.safetensors")->required();
    add_task_options(verb, &a->source, "another task than the one it was trained on");
    verb->add_flag("--sample", a->sample, "draw actions instead of taking the most likely ones");
    verb->add_option("--seed", a->seed, "of the episodes")->capture_default_str();
    verb->add_flag("--json", a->json, "print JSON");
    if (drawing) {
      verb->add_option("--out", a->out, ".svg or .html file to write")->required();
      verb->add_option("--frames", a->strip.frames, "pictures")->check(CLI::Range(1, 400))->capture_default_str();
      verb->add_option("--columns", a->strip.columns, "pictures side by side")
          ->check(CLI::Range(1, 400))
          ->capture_default_str();
      verb->add_option("--every", a->strip.every, "steps between them; 0: spread over the episode")
          ->check(CLI::NonNegativeNumber);
      verb->footer("Example:\n  unbend policy render cart --out cart.svg --frames 12");
      verb->callback([a] { render(*a); });
    } else {
      verb->add_option("--episodes", a->episodes, "how many")->check(CLI::Range(1, 1000000))->capture_default_str();
      verb->footer("Example:\n  unbend policy eval cart --episodes 100");
      verb->callback([a] { eval(*a); });
    }
  }
}

}  // namespace unbend
