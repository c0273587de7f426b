// Verbs that fit models to a table: fit logistic, fit softmax, fit least-squares.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <set>

#include "cli/verbs.h"
#include "unbend/base/csv.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/npy.h"
#include "unbend/optimize/curves.h"
#include "unbend/report/html.h"
#include "unbend/tensor/csv.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

namespace opt = optimize;
using opt::Matrix;
using opt::Minimum;
using opt::Vector;

struct Arguments {
  std::string data, target, curve = "linear", hessian, out, report;
  int column = -1;
  double ridge = 0, power = 2;
  opt::MinimizeOptions options;
  std::vector<double> start;
  bool no_constant = false, standardise = false, compare = false, json = false;
};

struct Data {
  Matrix x;
  Vector y;
  std::vector<std::string> classes;  ///< what the numbers in y stand for, where the file has words
};

Matrix matrix_of(const std::string& path, const at::Tensor& given) {
  const auto array = given.to(at::kDouble);
  require(array.dim() == 1 || array.dim() == 2, "{}: a table [rows, columns] is needed, not {} dimensions", path,
          array.dim());
  const auto table = (array.dim() == 1 ? array.unsqueeze(1) : array).contiguous();
  require(table.size(0) > 0 && table.size(1) > 0, "{}: the table is empty", path);
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix m = Eigen::Map<const RowMajor>(table.const_data_ptr<double>(), table.size(0), table.size(1));
  for (Eigen::Index i = 0; i < m.rows(); ++i)
    for (Eigen::Index j = 0; j < m.cols(); ++j)
      require(std::isfinite(m(i, j)), "{}: row {}, column {} is {}", path, i, j, m(i, j));
  return m;
}

/// The target, or the table with it: a column of it may hold words if it says classes.
Matrix with_classes(const std::string& path, int column, Data& d) {
  if (std::filesystem::path(path).extension() == ".npy") return matrix_of(path, load_npy(path));
  auto table = parse_class_csv(read_file(path), path, column);
  d.classes = std::move(table.classes);
  const auto& numbers = table.numbers;
  return matrix_of(path, at::tensor(numbers.values, at::kDouble).view({numbers.rows, numbers.columns}));
}

enum class Target { Number, Class };

Data load(const Arguments& a, Target kind) {
  Data d;
  const auto read = [&](const std::string& path, bool holds_target, int column) {
    return holds_target && kind == Target::Class ? with_classes(path, column, d) : matrix_of(path, load_array(path));
  };
  const Matrix table = read(a.data, a.target.empty(), a.column);
  if (!a.target.empty()) {
    const Matrix target = read(a.target, true, 0);
    require(target.size() == table.rows(), "{} has {} numbers, {} has {} rows", a.target, target.size(), a.data,
            table.rows());
    d.x = table;
    d.y = target.reshaped();
  } else {
    const Eigen::Index column = a.column < 0 ? table.cols() + a.column : a.column;
    require(column >= 0 && column < table.cols(), "{}: there is no column {} among {}", a.data, a.column, table.cols());
    require(table.cols() > 1, "{}: there are no columns beside the target; or give it by --target", a.data);
    d.x.resize(table.rows(), table.cols() - 1);
    d.x << table.leftCols(column), table.rightCols(table.cols() - column - 1);
    d.y = table.col(column);
  }
  if (a.standardise) {
    for (Eigen::Index j = 0; j < d.x.cols(); ++j) {
      d.x.col(j).array() -= d.x.col(j).mean();
      const double deviation = std::sqrt(d.x.col(j).squaredNorm() / static_cast<double>(d.x.rows()));
      if (deviation > 0) d.x.col(j) /= deviation;
    }
  }
  return d;
}

/// A column of ones, which the ridge leaves alone.
Vector add_constant(const Arguments& a, Data& d) {
  const Eigen::Index n = d.x.cols();
  Vector ridge = Vector::Constant(n + !a.no_constant, a.ridge);
  if (a.no_constant) return ridge;
  d.x.conservativeResize(Eigen::NoChange, n + 1);
  d.x.col(n).setOnes();
  ridge[n] = 0;
  return ridge;
}

std::vector<int> classes_of(const Data& d, const std::string& path) {
  std::vector<int> labels;
  for (Eigen::Index i = 0; i < d.y.size(); ++i) {
    require(d.y[i] == std::floor(d.y[i]) && d.y[i] >= 0 && d.y[i] < 1e6, "{}: row {}: the class is {}, not 0, 1, ..",
            path, i, d.y[i]);
    labels.push_back(static_cast<int>(d.y[i]));
  }
  return labels;
}

struct Fitted {
  std::string name;
  Minimum minimum;
  double seconds;
};

template <class F>
Fitted timed(const std::string& name, const F& run) {
  const auto begin = std::chrono::steady_clock::now();
  Minimum m = run();
  return {name, std::move(m), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()};
}

std::vector<Fitted> fit(const Arguments& a, const std::function<opt::Problem(opt::Hessian)>& problem,
                        const Vector& start) {
  check_output(a.out);
  check_output(a.report);
  catch_interrupts();
  opt::MinimizeOptions options = a.options;
  options.callback = [](const opt::Iteration&, const Vector&) { return !interrupted(); };
  const opt::Hessian hessian = opt::hessian_named(a.hessian);
  std::vector<Fitted> all{timed(a.hessian, [&] { return opt::minimize(problem(hessian), start, options); })};
  if (a.compare) {
    const opt::Problem same = problem(hessian);
    if (std::holds_alternative<opt::DenseCurvature>(same.curvature))
      all.push_back(timed("cubic Newton", [&] { return opt::cubic_newton(same, start, options); }));
    all.push_back(timed("super-universal Newton", [&] { return opt::super_universal_newton(same, start, options); }));
    options.max_iterations *= 10;
    all.push_back(timed("gradient method", [&] { return opt::gradient_method(same, start, options); }));
    all.push_back(timed("accelerated gradient", [&] { return opt::accelerated_gradient(same, start, options); }));
  }
  if (interrupted()) fail_computation("interrupted after {} iterations", all[0].minimum.iterations());
  return all;
}

Table comparison(const std::vector<Fitted>& all) {
  Table table{"", {"method", "iterations", "probes", "f", "|g|", "ms", "outcome"}, {}};
  for (const auto& [name, m, seconds] : all)
    table.rows.push_back({name, fmt::format("{}", m.iterations()), fmt::format("{}", m.probes),
                          fmt::format("{:.10g}", m.value), fmt::format("{:.1e}", m.gradient_norm),
                          fmt::format("{:.2f}", 1e3 * seconds), std::string(opt::name(m.outcome))});
  return table;
}

Table trace_of(const Minimum& m) {
  Table table{"Steps: what happened beside what the theory guarantees",
              {"iteration", "f", "|g|", "gamma", "lambda", "probes", "f fell by", "guaranteed"},
              {}};
  for (const auto& i : m.trace) {
    if (i.index > 15 && i.index + 5 < m.iterations()) continue;
    table.rows.push_back({fmt::format("{}", i.index), fmt::format("{:.10g}", i.value),
                          fmt::format("{:.2e}", i.gradient_norm), fmt::format("{:.3g}", i.gamma),
                          fmt::format("{:.2e}", i.lambda), fmt::format("{}", i.probes),
                          fmt::format("{:.2e}", i.decrease), fmt::format("{:.2e}", i.guaranteed)});
  }
  return table;
}

/// Prints, writes and reports. `weights` [rows, columns] with their names; `figures` say how well it fits; `classes`
/// are words in the order of their numbers, if there are any.
void give(const Arguments& a, const std::string& title, const std::vector<Fitted>& all, const Matrix& weights,
          const Table& table, const std::vector<std::pair<std::string, double>>& figures,
          const std::vector<std::string>& classes = {}) {
  const Minimum& m = all[0].minimum;
  if (!a.out.empty()) {
    const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = weights;
    write_npy(a.out, {rows.rows(), rows.cols()}, std::span(rows.data(), static_cast<std::size_t>(rows.size())));
  }
  if (!a.report.empty()) {
    HtmlReport page(title, fmt::format("{}: {}", a.data, m.message));
    std::vector<KeyFigure> key;
    for (const auto& [name, value] : figures) key.push_back({fmt::format("{:.5g}", value), name});
    key.push_back({fmt::format("{}", m.iterations()), "iterations", fmt::format("{} probes", m.probes)});
    page.key_figures(key);
    page.table(comparison(all));
    double least = INFINITY;
    for (const auto& run : all) least = std::min(least, run.minimum.value);
    LinePlot plot{"Distance to the least value found", {"iteration", Scale::Log10}, {"f - f*", Scale::Log10}, {}};
    for (const auto& run : all) {
      Series series{run.name, {}, {}};
      for (const auto& i : run.minimum.trace) {
        series.x.push_back(i.index);
        series.y.push_back(i.value > least ? i.value - least : NAN);
      }
      if (!series.x.empty()) plot.series.push_back(series);
    }
    if (!plot.series.empty()) page.plot(plot);
    page.table(trace_of(m)).table(table);
    page.write(a.report);
  }
  if (a.json) {
    Json json{{"outcome", opt::name(m.outcome)},
              {"message", m.message},
              {"value", m.value},
              {"gradient_norm", m.gradient_norm},
              {"iterations", m.iterations()},
              {"probes", m.probes},
              {"products", m.products},
              {"gamma", m.gamma}};
    for (const auto& [name, value] : figures) json[name] = std::isfinite(value) ? Json(value) : Json(nullptr);
    if (!classes.empty()) json["classes"] = classes;
    for (Eigen::Index i = 0; i < weights.rows(); ++i) {
      const Vector row = weights.row(i);
      json["weights"].push_back(std::vector<double>(row.begin(), row.end()));
    }
    for (const auto& run : all)
      json["methods"].push_back({{"name", run.name},
                                 {"iterations", run.minimum.iterations()},
                                 {"value", run.minimum.value},
                                 {"gradient_norm", run.minimum.gradient_norm},
                                 {"seconds", run.seconds},
                                 {"outcome", opt::name(run.minimum.outcome)}});
    return print_json(json);
  }
  fmt::print("{}: {}\n", opt::name(m.outcome), m.message);
  for (const auto& [name, value] : figures) fmt::print("{}: {:.6g}\n", name, value);
  fmt::print("\n{}\n{}\n{}", to_text(comparison(all)), to_text(trace_of(m)), to_text(table));
}

std::vector<std::string> weight_names(const Arguments& a, Eigen::Index columns) {
  std::vector<std::string> names;
  for (Eigen::Index j = 0; j < columns; ++j)
    names.push_back(!a.no_constant && j + 1 == columns ? "constant" : fmt::format("w{}", j));
  return names;
}

void logistic(const Arguments& a) {
  Data d = load(a, Target::Class);
  const auto& path = a.target.empty() ? a.data : a.target;
  const std::set<double> values(d.y.begin(), d.y.end());
  require(values.size() == 2 && (values == std::set<double>{0, 1} || values == std::set<double>{-1, 1}),
          "{}: labels must be 0 and 1, or -1 and 1, or two words, and both must occur", path);
  const Vector signs = (d.y.array() > 0).select(Vector::Ones(d.y.size()), -1.), ridge = add_constant(a, d);
  const auto all = fit(
      a, [&](opt::Hessian h) { return opt::logistic_problem(d.x, signs, ridge, h); }, Vector::Zero(d.x.cols()));
  const Vector& w = all[0].minimum.x;
  Table table{
      d.classes.empty() ? "Weights" : fmt::format("Weights, positive for '{}'", d.classes[1]), {"weight", "value"}, {}};
  const auto names = weight_names(a, w.size());
  for (Eigen::Index j = 0; j < w.size(); ++j)
    table.rows.push_back({names[static_cast<std::size_t>(j)], fmt::format("{:.8g}", w[j])});
  const double right = ((d.x * w).array() * signs.array() > 0).cast<double>().mean();
  give(a, "Logistic regression", all, w.transpose(), table, {{"accuracy", right}}, d.classes);
}

void softmax(const Arguments& a) {
  Data d = load(a, Target::Class);
  const auto labels = classes_of(d, a.target.empty() ? a.data : a.target);
  const int classes = *std::max_element(labels.begin(), labels.end()) + 1;
  require(classes >= 2, "{}: all rows are of one class", a.data);
  const Vector ridge = add_constant(a, d);
  require(static_cast<double>(classes) * static_cast<double>(d.x.cols()) < 20000 || a.hessian == "product" ||
              a.hessian == "zero" || a.hessian == "diagonal",
          "{} classes of {} weights are too many for a dense Hessian: use --hessian product", classes, d.x.cols());
  const auto all = fit(
      a, [&](opt::Hessian h) { return opt::softmax_problem(d.x, labels, classes, ridge, h); },
      Vector::Zero(classes * d.x.cols()));
  const Eigen::Map<const Matrix> w(all[0].minimum.x.data(), d.x.cols(), classes);
  const Matrix scores = d.x * w;
  double right = 0;
  for (Eigen::Index i = 0; i < scores.rows(); ++i) {
    Eigen::Index top = 0;
    scores.row(i).maxCoeff(&top);
    right += top == labels[static_cast<std::size_t>(i)];
  }
  Table table{"Weights of each class", {"weight"}, {}};
  const auto names = weight_names(a, d.x.cols());
  for (int k = 0; k < classes; ++k)
    table.columns.push_back(d.classes.empty() ? fmt::format("class {}", k) : d.classes[static_cast<std::size_t>(k)]);
  for (Eigen::Index j = 0; j < d.x.cols(); ++j) {
    table.rows.push_back({names[static_cast<std::size_t>(j)]});
    for (int k = 0; k < classes; ++k) table.rows.back().push_back(fmt::format("{:.6g}", w(j, k)));
  }
  give(a, "Softmax regression", all, w.transpose(), table, {{"accuracy", right / static_cast<double>(labels.size())}},
       d.classes);
}

void least_squares(const Arguments& a) {
  const Data d = load(a, Target::Number);
  const opt::Residuals residuals = opt::curve_residuals(a.curve, d.x, d.y);
  Vector start = opt::curve_start(a.curve, d.x, d.y);
  if (!a.start.empty()) {
    if (std::ssize(a.start) != start.size())
      fail_usage("--start needs {} numbers, not {}", start.size(), a.start.size());
    start = Vector::Map(a.start.data(), std::ssize(a.start));
  }
  const auto all = fit(
      a, [&](opt::Hessian h) { return opt::power_problem(residuals, a.power, h); }, start);
  const Vector& p = all[0].minimum.x;
  const Vector errors = opt::standard_errors(residuals, p);
  Table table{"Parameters", {"parameter", "value", "standard error"}, {}};
  const auto names = opt::curve_parameters(a.curve, d.x.cols());
  for (Eigen::Index j = 0; j < p.size(); ++j)
    table.rows.push_back({names[static_cast<std::size_t>(j)], fmt::format("{:.10g}", p[j]),
                          a.power == 2 && std::isfinite(errors[j]) ? fmt::format("{:.3g}", errors[j]) : "-"});
  Vector u(d.y.size());
  residuals.value(p, u);
  const double variance = (d.y.array() - d.y.mean()).square().mean();
  give(a, "Least squares", all, p.transpose(), table,
       {{"rmse", u.norm()}, {"r2", variance > 0 ? 1 - u.squaredNorm() / variance : NAN}});
}

void add_common(CLI::App* verb, const std::shared_ptr<Arguments>& a, const std::string& hessian) {
  a->hessian = hessian;
  a->options.max_iterations = 1000;
  verb->add_option("DATA", a->data, "table, .csv or .npy")->required();
  verb->add_option("--target", a->target, "its target in a file of its own");
  verb->add_option("--column", a->column, "of the target in DATA, from 0; -1: the last")->capture_default_str();
  verb->add_flag("--standardise", a->standardise, "columns to mean 0 and deviation 1");
  verb->add_option("--hessian", a->hessian, fmt::format("{}", fmt::join(opt::hessian_names(), ", ")))
      ->check(CLI::IsMember(opt::hessian_names()))
      ->capture_default_str();
  verb->add_option("--tolerance", a->options.gradient_tolerance, "of the gradient's norm")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--gamma0", a->options.gamma0, "first length of a step; a former one is a warm start")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--max-iterations", a->options.max_iterations)
      ->check(CLI::Range(0, 100000000))
      ->capture_default_str();
  verb->add_flag("--accelerate", a->options.accelerate, "extrapolate (experimental)");
  verb->add_flag("--compare", a->compare, "run the other methods too");
  verb->add_option("--out", a->out, ".npy file of the weights, classes in rows");
  verb->add_option("--report", a->report, "HTML report to write");
  verb->add_flag("--json", a->json, "print JSON");
}

}  // namespace

void add_fit_verbs(CLI::App& app) {
  CLI::App* group = app.add_subcommand("fit", "Fit a model to a table by Newton steps that need no step size");
  group->require_subcommand(1);
  group->footer("Example:\n  unbend fit logistic patients.csv --standardise --ridge 0.01");
  const auto regression = [&](const char* name, const char* what, void (*run)(const Arguments&), const char* footer) {
    CLI::App* verb = group->add_subcommand(name, what);
    auto a = std::make_shared<Arguments>();
    add_common(verb, a, "exact");
    verb->add_option("--ridge", a->ridge, "mu of mu/2 |w|^2 beside the mean loss; the constant goes free")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    verb->add_flag("--no-constant", a->no_constant, "no column of ones");
    verb->footer(footer);
    verb->callback([a, run] { run(*a); });
  };
  regression("logistic", "two classes: words, 0 and 1, or -1 and 1", logistic,
             "Examples:\n  unbend fit logistic patients.csv --standardise --ridge 0.01 --compare\n"
             "  unbend fit logistic x.npy --target y.npy --hessian fisher --out weights.npy --json");
  regression("softmax", "several classes: words, or 0, 1, ..", softmax,
             "Examples:\n  unbend fit softmax wine.csv --standardise --ridge 0.01 --report wine.html");
  CLI::App* verb = group->add_subcommand("least-squares", "a curve, or a linear model of many columns");
  auto a = std::make_shared<Arguments>();
  add_common(verb, a, "gauss-newton");
  verb->add_option("--curve", a->curve, fmt::format("{}", fmt::join(opt::curve_names(), ", ")))
      ->check(CLI::IsMember(opt::curve_names()))
      ->capture_default_str();
  verb->add_option("--start", a->start, "parameters to start from; without: guessed from the data");
  verb->add_option("--power", a->power, "p of (1/p) |residuals|^p")->check(CLI::Range(2., 100.))->capture_default_str();
  verb->footer(
      "Curves: exponential a e^(bx) + c, power a x^b + c, saturation a x / (b + x), logistic a / (1 + e^-((x-b)/c)),\n"
      "gaussian a e^-((x-b)^2/(2c^2)) + d\n\n"
      "Examples:\n  unbend fit least-squares decay.csv --curve exponential\n"
      "  unbend fit least-squares houses.csv --column 0 --hessian exact");
  verb->callback([a] { least_squares(*a); });
}

}  // namespace unbend
