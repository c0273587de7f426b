// Verbs on streams: online train, predict, sweep.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"
#include "unbend/optimize/ftrl_file.h"
#include "unbend/report/html.h"

namespace unbend {
namespace {

namespace opt = optimize;

struct Arguments {
  std::string stream, model, from, out, report;
  std::string format, loss = "logistic", update = "proximal", schedule, domain = "whole";
  double loss_parameter = 0;
  opt::FtrlOptions learner;
  opt::FormatOptions text;
  std::int64_t save_every = 0;
  bool no_constant = false, softmax = false, skip_bad = false, resume = false, overwrite = false, quiet = false,
       json = false, unlabelled = false, scores = false, average = false, sweep = false;
};

opt::RowFormat format_of(const Arguments& a) {
  if (!a.format.empty()) return opt::format_named(a.format);
  const auto ending = std::filesystem::path(a.stream).extension();
  if (ending == ".csv") return opt::RowFormat::Csv;
  if (ending == ".vw") return opt::RowFormat::Vw;
  return opt::RowFormat::Libsvm;
}

std::string name_of(const Arguments& a) { return a.stream == "-" ? "standard input" : a.stream; }

/// A new learner as the options say; the stream must be open, as it knows the width of a CSV file.
opt::Ftrl new_learner(const Arguments& a, const opt::FormatOptions& format) {
  opt::FtrlOptions o = a.learner;
  o.loss = opt::loss_named(a.loss, a.loss_parameter);
  o.update = opt::update_named(a.update);
  o.schedule = opt::schedule_named(a.schedule);
  o.geometry.domain = opt::domain_named(a.domain);
  o.multiclass = a.softmax ? opt::Multiclass::Softmax : opt::Multiclass::OneVsRest;
  return opt::Ftrl(o, format.dimension());
}

/// The arguments with what a model was learnt with.
Arguments learnt_with(Arguments a, const opt::FtrlModel& model) {
  const opt::FtrlOptions& o = model.learner.options();
  a.learner = o, a.text = model.format;
  a.loss = opt::name(o.loss.kind), a.loss_parameter = o.loss.parameter;
  a.update = opt::update_names()[static_cast<std::size_t>(o.update)];
  a.schedule = opt::schedule_names()[static_cast<std::size_t>(o.schedule)];
  a.domain = opt::domain_names()[static_cast<std::size_t>(o.geometry.domain)];
  a.softmax = o.multiclass == opt::Multiclass::Softmax;
  a.format = opt::format_names()[static_cast<std::size_t>(model.format.format)];
  a.no_constant = !model.format.constant;
  return a;
}

/// What learning depends on, by option.
std::map<std::string, std::string> settings(const Arguments& a) {
  const auto word = [](const auto& value) { return fmt::format("{}", value); };
  const opt::FtrlOptions& o = a.learner;
  return {{"--format", a.format},
          {"--features", word(a.text.features)},
          {"--bits", word(a.text.bits)},
          {"--no-constant", word(a.no_constant)},
          {"--label-column", word(a.text.label_column)},
          {"--loss", a.loss},
          {"--loss-parameter", word(a.loss_parameter)},
          {"--update", a.update},
          {"--schedule", a.schedule},
          {"--rate", fmt::format("{}", fmt::join(o.rates, " "))},
          {"--lambda1", word(o.lambda1)},
          {"--epsilon", word(o.epsilon)},
          {"--domain", a.domain},
          {"--low", word(o.geometry.low)},
          {"--high", word(o.geometry.high)},
          {"--radius", word(o.geometry.radius)},
          {"--l1", word(o.l1)},
          {"--l1-power", word(o.l1_power)},
          {"--classes", word(o.classes)},
          {"--softmax", word(a.softmax)},
          {"--zero-one", word(o.zero_one)},
          {"--average", word(o.average)}};
}

/// A model goes on as it was learnt: options may repeat that, so that one command starts and goes on, but not change
/// it.
void refuse_other_settings(const CLI::App& verb, const Arguments& asked, const Arguments& learnt,
                           const std::string& model) {
  const auto now = settings(asked);
  for (const auto& [option, value] : settings(learnt))
    if (verb.get_option(option)->count() > 0 && now.at(option) != value &&
        !(option == "--features" && now.at(option) == "0"))  // 0: as many as the stream has
      fail_usage("{} is {} in {}, which goes on as it was learnt: leave it out, or start anew", option, value, model);
}

std::string number(double x) { return std::isfinite(x) ? fmt::format("{:.6g}", x) : "diverged"; }
Json finite(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

bool classifies(const opt::Ftrl& learner) {
  return learner.options().classes > 1 || opt::is_binary(learner.options().loss);
}

/// What the regret against any u is at most, without psi(u): the certificate at u = 0. Not of the simplex, where 0 is
/// not.
double certificate(const opt::Ftrl& learner, std::size_t rate) {
  if (learner.options().geometry.domain == opt::Domain::Simplex || learner.tallies()[rate].diverged_at) return NAN;
  const auto numbers = static_cast<std::size_t>(learner.dimension() * learner.options().classes);
  return learner.regret_bound(std::vector<double>(numbers, 0), rate);
}

Table table_of(const opt::Ftrl& learner) {
  Table table{"", {"rate", "mean loss", "gain of the updates", "regret at most, plus psi(u)", "status"}, {}};
  if (classifies(learner)) table.columns.insert(table.columns.begin() + 2, "wrong");
  for (std::size_t r = 0; r < learner.tallies().size(); ++r) {
    const opt::Tally& t = learner.tallies()[r];
    const double bound = certificate(learner, r);
    std::vector<std::string> row{fmt::format("{:g}", learner.options().rates[r]), number(t.mean_loss()),
                                 fmt::format("{:.5g}", t.gain),
                                 std::isfinite(bound) ? fmt::format("{:.5g}", bound) : "-",
                                 t.diverged_at         ? fmt::format("diverged at row {}", t.diverged_at)
                                 : r == learner.best() ? "best"
                                                       : ""};
    if (classifies(learner)) row.insert(row.begin() + 2, fmt::format("{:.3g} %", 100 * t.mistakes / t.weight));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Json json_of(const opt::Ftrl& learner, const opt::StreamResult& result, double seconds) {
  Json rates = Json::array();
  for (std::size_t r = 0; r < learner.tallies().size(); ++r) {
    const opt::Tally& t = learner.tallies()[r];
    Json rate{{"rate", learner.options().rates[r]},
              {"mean_loss", finite(t.mean_loss())},
              {"gain", t.gain},
              {"regret_bound_at_zero", finite(certificate(learner, r))},
              {"fallbacks", t.fallbacks},
              {"diverged_at", t.diverged_at}};
    if (classifies(learner)) rate["wrong"] = finite(t.mistakes / t.weight);
    rates.push_back(std::move(rate));
  }
  Json json{{"rows", learner.rows()}, {"lines", result.position.lines}, {"bad_lines", result.bad},
            {"seconds", seconds},     {"best", learner.best()},         {"rates", std::move(rates)}};
  if (result.bad > 0) json["first_bad"] = {{"line", result.first_bad.line}, {"problem", result.first_bad.problem}};
  return json;
}

void write_report(const Arguments& a, const opt::Ftrl& learner) {
  HtmlReport page("Online learning", fmt::format("{} rows of {}, {} loss, {} updates, {} schedule", learner.rows(),
                                                 name_of(a), a.loss, a.update, a.schedule));
  const opt::Tally& best = learner.tallies()[learner.best()];
  page.key_figures({{fmt::format("{:.4g}", best.mean_loss()), "mean progressive loss",
                     fmt::format("rate {:g}", learner.options().rates[learner.best()])}});
  page.table(table_of(learner));
  if (learner.tallies().size() > 1) {
    Series series{"mean loss", {}, {}};
    std::vector<std::size_t> order(learner.tallies().size());
    for (std::size_t r = 0; r < order.size(); ++r) order[r] = r;
    const auto& rates = learner.options().rates;
    std::sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) { return rates[x] < rates[y]; });
    for (const std::size_t r : order) {
      if (!series.x.empty() && series.x.back() == rates[r]) continue;
      series.x.push_back(rates[r]);
      const double loss = learner.tallies()[r].mean_loss();
      series.y.push_back(std::isfinite(loss) ? loss : NAN);
    }
    page.plot(LinePlot{"Mean progressive loss by rate", {"rate", Scale::Log10}, {"mean loss", Scale::Log10}, {series}});
  }
  page.write(a.report);
}

void train(const CLI::App& verb, Arguments a) {
  if (!a.sweep && a.model.empty()) fail_usage("--model is needed: the file that keeps what is learnt");
  if (a.resume && !a.from.empty()) fail_usage("--resume goes on with --model itself; --from starts from another one");
  const bool exists = !a.model.empty() && std::filesystem::exists(a.model);
  if (exists && !a.resume && !a.overwrite)
    fail_usage("{} exists: --resume goes on with it, --overwrite starts anew", a.model);
  check_output(a.model);
  check_output(a.report);
  catch_interrupts();

  std::unique_ptr<opt::RowStream> stream;
  std::optional<opt::Ftrl> learner;
  if ((a.resume && exists) || !a.from.empty()) {
    const std::string& file = a.resume ? a.model : a.from;
    opt::FtrlModel model = opt::load_ftrl(file);
    const Arguments learnt = learnt_with(a, model);
    refuse_other_settings(verb, a, learnt, file);
    a = learnt;
    stream =
        std::make_unique<opt::RowStream>(a.stream, model.format, a.resume ? model.position : opt::StreamPosition{});
    learner.emplace(std::move(model.learner));
  } else {
    opt::FormatOptions format = a.text;
    format.format = format_of(a);
    format.constant = !a.no_constant;
    stream = std::make_unique<opt::RowStream>(a.stream, format);
    learner.emplace(new_learner(a, stream->format()));
  }
  const std::int64_t before = learner->rows();
  std::optional<Progress> progress;  // of streams that are not over at once
  opt::StreamLearning learning;
  learning.skip_bad = a.skip_bad;
  learning.every = a.save_every > 0 ? std::min<std::int64_t>(a.save_every, 10000) : 10000;
  std::int64_t saved = before;
  learning.after = [&](opt::StreamPosition position) {
    const opt::Tally& tally = learner->tallies()[0];
    if (!progress) progress.emplace(a.sweep ? "sweep" : "learning", 0, "rows", a.quiet || a.json);
    progress->update(learner->rows(),
                     learner->tallies().size() == 1 ? fmt::format("loss {:.4g}", tally.mean_loss()) : "");
    if (a.save_every == 0 || a.model.empty() || learner->rows() - saved < a.save_every) return;
    opt::save_ftrl(a.model, *learner, stream->format(), position);
    saved = learner->rows();
  };
  const auto begin = std::chrono::steady_clock::now();
  const opt::StreamResult result = opt::learn_stream(*learner, *stream, learning);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (progress) progress->finish();
  const bool keep = !a.model.empty() && learner->rows() > 0;  // where nothing was learnt there is nothing to go on with
  if (keep) opt::save_ftrl(a.model, *learner, stream->format(), result.position);
  const std::string kept = keep ? fmt::format("; {} holds the {} rows before", a.model, learner->rows()) : "";
  if (result.stopped)
    fail_input("{}: line {}: {}{}; --skip-bad passes over bad lines", name_of(a), result.first_bad.line,
               result.first_bad.problem, kept);
  if (!result.failure.empty()) fail_input("{}{}", result.failure, kept);
  if (result.interrupted)
    fail_computation("interrupted after {} rows{}{}", learner->rows(), kept, keep ? ": --resume goes on" : "");
  require(learner->rows() > 0, "{}: there are no rows", name_of(a));

  if (!a.report.empty()) write_report(a, *learner);
  if (a.json) return print_json(json_of(*learner, result, seconds));
  const std::int64_t rows = learner->rows() - before;
  fmt::print("{} rows in {:.2f} s ({} rows/s), {} models\n", rows, seconds,
             format_count(static_cast<double>(rows) / std::max(1e-9, seconds)),
             learner->tallies().size() * static_cast<std::size_t>(learner->options().classes));
  if (result.bad > 0)
    fmt::print("{} bad lines were passed over, the first: line {}: {}\n", result.bad, result.first_bad.line,
               result.first_bad.problem);
  fmt::print("{}", to_text(table_of(*learner)));
}

/// A file that takes its name when it is whole: until then it lies beside it, and goes away with an error. Without a
/// name it is standard output.
class Output {
 public:
  explicit Output(const std::string& path) : path_(path), part_(path + ".part") {
    if (path.empty()) return;
    file_ = std::fopen(part_.c_str(), "w");
    if (!file_) fail_computation("{}: cannot be written", part_);
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output() {
    if (!file_) return;
    std::fclose(file_);
    std::remove(part_.c_str());
  }
  std::FILE* file() { return file_ ? file_ : stdout; }
  void finish() {
    if (!file_) return;
    const bool written = std::ferror(file_) == 0;
    if (std::fclose(std::exchange(file_, nullptr)) != 0 || !written) {
      std::remove(part_.c_str());
      fail_computation("{}: cannot be written", part_);
    }
    std::filesystem::rename(part_, path_);
  }

 private:
  std::string path_, part_;
  std::FILE* file_ = nullptr;
};

void predict(const Arguments& a) {
  if (a.json && a.out.empty())
    fail_usage("--json takes standard output for the summary: give --out for the predictions");
  check_output(a.out);
  catch_interrupts();
  opt::FtrlModel model = opt::load_ftrl(a.model);
  const opt::FtrlOptions& o = model.learner.options();
  opt::FormatOptions format = model.format;
  if (!a.format.empty()) format.format = opt::format_named(a.format);
  format.labelled = !a.unlabelled;
  opt::RowStream stream(a.stream, format);
  const std::size_t rate = model.learner.best(), classes = static_cast<std::size_t>(o.classes);
  std::vector<std::vector<double>> means;
  if (a.average)
    for (int k = 0; k < o.classes; ++k) means.push_back(model.learner.average(rate, k));

  Output output(a.out);
  std::FILE* out = output.file();
  std::vector<double> margins, unused(classes);
  double loss = 0, weight = 0, wrong = 0;
  std::int64_t rows = 0, bad = 0, unscored = 0;
  while (opt::RowBatch* batch = stream.next()) {
    std::size_t next_bad = 0;
    const auto refuse = [&](const opt::BadLine& line) {
      if (!a.skip_bad)
        fail_input("{}: line {}: {}; --skip-bad prints empty lines instead", name_of(a), line.line, line.problem);
      ++bad;
      fmt::print(out, "\n");
    };
    for (std::size_t i = 0; i < batch->rows.size(); ++i) {
      for (; next_bad < batch->bad.size() && batch->bad[next_bad].line < batch->ends[i].lines; ++next_bad)
        refuse(batch->bad[next_bad]);
      const opt::Row row = batch->rows[i];
      std::span<const double> s;
      try {
        if (a.average) {
          margins.assign(classes, 0);
          for (std::size_t k = 0; k < classes; ++k)
            for (std::size_t j = 0; j < row.index.size(); ++j) margins[k] += row.value[j] * means[k].at(row.index[j]);
          s = margins;
        } else {
          model.learner.predict(row, margins);
          s = std::span(margins).subspan(rate * classes, classes);
        }
      } catch (const Error& error) {
        refuse({batch->ends[i].lines, error.what()});
        continue;
      }
      ++rows;
      const auto top = std::max_element(s.begin(), s.end()) - s.begin();
      if (classes > 1 && a.scores) {
        fmt::print(out, "{}\n", fmt::join(s, " "));
      } else if (classes > 1) {
        fmt::print(out, "{}\n", top);
      } else {
        fmt::print(out, "{}\n", o.loss.kind == opt::LossKind::Logistic && !a.scores ? 1 / (1 + std::exp(-s[0])) : s[0]);
      }
      if (a.unlabelled) continue;
      try {
        model.learner.check_label(row.label);
      } catch (const Error&) {  // a place holder
        ++unscored;
        continue;
      }
      weight += row.weight;
      if (classes > 1) {
        wrong += row.weight * (static_cast<double>(top) != row.label);
        if (o.multiclass == opt::Multiclass::Softmax)
          loss += row.weight * opt::softmax_value(s, static_cast<std::size_t>(row.label), unused);
      } else {
        const double y = o.zero_one ? 2 * row.label - 1 : row.label;
        loss += row.weight * opt::loss_value(o.loss, s[0], y);
        wrong += opt::is_binary(o.loss) ? row.weight * ((s[0] > 0) != (y > 0)) : 0;
      }
    }
    for (; next_bad < batch->bad.size(); ++next_bad) refuse(batch->bad[next_bad]);
  }
  if (interrupted()) fail_computation("interrupted after {} rows", rows);
  output.finish();
  const bool has_loss = classes == 1 || o.multiclass == opt::Multiclass::Softmax;
  if (a.json) {
    Json json{{"rows", rows}, {"bad_lines", bad}};
    if (unscored > 0) json["unscored"] = unscored;
    if (!a.unlabelled && weight > 0) {
      if (has_loss) json["mean_loss"] = loss / weight;
      if (classifies(model.learner)) json["wrong"] = wrong / weight;
    }
    return print_json(json);
  }
  if (!a.quiet && !a.unlabelled && weight > 0) {
    fmt::print(
        stderr, "{} rows{}{}{}{}\n", rows, has_loss ? fmt::format(", mean loss {:.6g}", loss / weight) : "",
        classifies(model.learner) ? fmt::format(", {:.3g} % wrong", 100 * wrong / weight) : "",
        bad > 0 ? fmt::format(", {} bad lines", bad) : "",
        unscored > 0 ? fmt::format("; {} with labels that the loss does not take are not scored", unscored) : "");
  }
}

void add_stream(CLI::App* verb, const std::shared_ptr<Arguments>& a) {
  verb->add_option("STREAM", a->stream, "file of rows, or - for standard input")->required();
  verb->add_option("--format", a->format, "libsvm, vw or csv; without: from the file's ending, else libsvm")
      ->check(CLI::IsMember(opt::format_names()));
  verb->add_flag("--skip-bad", a->skip_bad, "count bad lines and go on; without, the first one ends the work");
  verb->add_flag("--quiet", a->quiet, "show no progress");
}

void add_learning(CLI::App* verb, const std::shared_ptr<Arguments>& a) {
  add_stream(verb, a);
  auto& o = a->learner;
  o.epsilon = 1;  // the first step of a rare feature is then no larger than the rate times its slope
  verb->add_option("--features", a->text.features, "indices are below this; 0: hashed (CSV: from the first line)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--bits", a->text.bits, "hashed features: 2^bits")->check(CLI::Range(1, 31))->capture_default_str();
  verb->add_flag("--no-constant", a->no_constant, "no constant feature");
  verb->add_option("--label-column", a->text.label_column, "of CSV, from 0; -1: the last")->capture_default_str();
  verb->add_option("--loss", a->loss, fmt::format("{}", fmt::join(opt::loss_names(), ", ")))
      ->check(CLI::IsMember(opt::loss_names()))
      ->capture_default_str();
  verb->add_option("--loss-parameter", a->loss_parameter, "epsilon of epsilon-insensitive, tau of quantile")
      ->capture_default_str();
  verb->add_option("--update", a->update, fmt::format("{}", fmt::join(opt::update_names(), ", ")))
      ->check(CLI::IsMember(opt::update_names()))
      ->capture_default_str();
  verb->add_option("--schedule", a->schedule, fmt::format("{}", fmt::join(opt::schedule_names(), ", ")))
      ->check(CLI::IsMember(opt::schedule_names()))
      ->capture_default_str();
  verb->add_option("--lambda1", o.lambda1, "where the adaptive schedule starts")->capture_default_str();
  verb->add_option("--epsilon", o.epsilon, "of the adagrad schedules")->capture_default_str();
  verb->add_option("--domain", a->domain, fmt::format("of the weights: {}", fmt::join(opt::domain_names(), ", ")))
      ->check(CLI::IsMember(opt::domain_names()))
      ->capture_default_str();
  verb->add_option("--low", o.geometry.low, "of each weight in a box")->capture_default_str();
  verb->add_option("--high", o.geometry.high, "of each weight in a box")->capture_default_str();
  verb->add_option("--radius", o.geometry.radius, "of a ball")->capture_default_str();
  verb->add_option("--l1", o.l1, "strength of the L1 term")->capture_default_str();
  verb->add_option("--l1-power", o.l1_power, "its growth: l1 t^power")->capture_default_str();
  verb->add_option("--classes", o.classes, "labels are classes 0, 1, ..")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  verb->add_flag("--softmax", a->softmax, "softmax loss; without, one model against the rest for each class");
  verb->add_flag("--zero-one", o.zero_one, "labels are 0 and 1 instead of -1 and 1");
  verb->add_option("--report", a->report, "HTML report to write");
  verb->add_flag("--json", a->json, "print JSON");
}

}  // namespace

void add_online_verbs(CLI::App& app) {
  CLI::App* group = app.add_subcommand("online", "Linear models that learn from a stream, one pass, no tuned rate");
  group->require_subcommand(1);
  group->footer("Example:\n  unbend online train clicks.vw --model clicks.model");

  CLI::App* verb = group->add_subcommand("train", "learn a stream; the model can go on at any time");
  auto a = std::make_shared<Arguments>();
  a->schedule = "adagrad";
  a->learner.rates = {.3};
  add_learning(verb, a);
  verb->add_option("--rate", a->learner.rates, "the schedule's knob; several are learnt side by side")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--model", a->model, "file that keeps what is learnt (safetensors)");
  verb->add_option("--from", a->from, "start from this model instead of from nothing");
  verb->add_flag("--resume", a->resume, "go on with --model behind the last line that it learnt");
  verb->add_flag("--overwrite", a->overwrite, "start anew where --model exists");
  verb->add_option("--save-every", a->save_every, "rows between two savings of the model; 0: only at the end")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_flag("--average", a->learner.average, "keep the mean of all iterates too (not with adagrad)");
  verb->footer(
      "The model is saved at the end, at an interruption (Ctrl-C) and at a bad line: nothing that was learnt is "
      "lost.\n\n"
      "Examples:\n  unbend online train clicks.vw --bits 20 --model clicks.model\n"
      "  zcat rows.svm.gz | unbend online train - --loss hinge --model rows.model --save-every 1000000\n"
      "  unbend online train rows.svm --resume --model rows.model\n"
      "  unbend online train digits.csv --classes 10 --softmax --model digits.model");
  verb->callback([a, verb] { train(*verb, *a); });

  verb = group->add_subcommand("predict", "one prediction per line; probabilities of logistic models");
  auto p = std::make_shared<Arguments>();
  add_stream(verb, p);
  verb->add_option("--model", p->model, "of online train; of several rates the best one predicts")->required();
  verb->add_option("--out", p->out, "file to write; without: standard output");
  verb->add_flag("--unlabelled", p->unlabelled, "rows have no label (CSV), or need none");
  verb->add_flag("--scores", p->scores, "linear scores instead of probabilities and classes");
  verb->add_flag("--average", p->average, "predict with the mean of the iterates");
  verb->add_flag("--json", p->json, "print a summary as JSON; needs --out");
  verb->footer("Examples:\n  unbend online predict new.vw --model clicks.model --out scores.txt");
  verb->callback([p] { predict(*p); });

  verb = group->add_subcommand("sweep", "many rates in one pass: which one train should take, and how much it matters");
  auto s = std::make_shared<Arguments>();
  s->sweep = true;
  s->schedule = "adagrad";
  s->learner.rates = {1e-4, 1e-3, 1e-2, .1, 1, 10, 100, 1e3};
  add_learning(verb, s);
  verb->add_option("--rates", s->learner.rates, "8 of them cost little more than one")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--model", s->model, "keep all of them; predict uses the best");
  verb->add_flag("--overwrite", s->overwrite, "where --model exists");
  verb->footer(
      "Examples:\n  unbend online sweep rows.svm --loss hinge --report sweep.html\n"
      "  unbend online sweep prices.csv --label-column -1 --loss absolute --update linear");
  verb->callback([s, verb] { train(*verb, *s); });
}

}  // namespace unbend
