#include "unbend/control/files.h"

#include <cmath>

#include "unbend/base/csv.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/npy.h"

namespace unbend::control {
namespace {

void check_keys(const Json& json, const std::vector<std::string>& known, std::string_view where,
                std::string_view what) {
  require(json.is_object(), "{}: {} is a JSON object", where, what);
  for (const auto& [key, value] : json.items())
    require(std::ranges::find(known, key) != known.end(), "{}: unknown key '{}'; {} has {}", where, key, what,
            fmt::join(known, ", "));
}

Vector vector_of(const Json& json, const std::string& key, int joints, std::string_view where) {
  const auto values = json_get<std::vector<double>>(json, key, where);
  require(static_cast<int>(values.size()) == joints, "{}: '{}' has {} numbers for {} joints", where, key, values.size(),
          joints);
  for (const double v : values) require(std::isfinite(v), "{}: '{}' is not finite", where, key);
  return Eigen::Map<const Eigen::VectorXd>(values.data(), joints);
}

Json rows_of(const Eigen::MatrixXd& m) {
  Json rows = Json::array();
  for (Eigen::Index i = 0; i < m.rows(); ++i) {
    const Eigen::VectorXd row = m.row(i);
    rows.push_back(std::vector<double>(row.begin(), row.end()));
  }
  return rows;
}

Eigen::MatrixXd matrix_of(const Json& json, const std::string& key, std::string_view where) {
  const auto rows = json_get<std::vector<std::vector<double>>>(json, key, where);
  require(!rows.empty(), "{}: '{}' has no rows", where, key);
  Eigen::MatrixXd out(rows.size(), rows[0].size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    require(rows[i].size() == rows[0].size(), "{}: row {} of '{}' has {} numbers, the first has {}", where, i + 1, key,
            rows[i].size(), rows[0].size());
    out.row(static_cast<Eigen::Index>(i)) = Eigen::Map<const Eigen::RowVectorXd>(rows[i].data(), out.cols());
  }
  return out;
}

/// Names such as q1, q2 for a group of columns.
void add_names(std::vector<std::string>& names, const std::string& name, Eigen::Index count) {
  for (Eigen::Index i = 1; i <= count; ++i) names.push_back(name + std::to_string(i));
}

void append(std::vector<double>& row, const auto& values) { row.insert(row.end(), values.begin(), values.end()); }

}  // namespace

Task task_from_json(const Json& json, int joints, std::string_view where) {
  check_keys(
      json,
      {"reference", "start", "duration", "period", "pole", "barrier_pole", "beta", "margin", "limit", "constraints"},
      where, "a task");
  Task task;
  require(json.contains("reference"), "{}: 'reference' is missing", where);
  task.reference = reference_from_json(json["reference"], joints, fmt::format("{}, reference", where));
  task.start = json.contains("start") ? vector_of(json, "start", joints, where) : reference_at(task.reference, 0)[0];
  const auto number = [&](const char* key, double standard) { return json_get<double>(json, key, where, standard); };
  task.loop.duration = number("duration", task.loop.duration);
  task.loop.period = number("period", task.loop.period);
  auto& c = task.loop.controller;
  c.pole = number("pole", c.pole);
  c.barrier_pole = number("barrier_pole", c.barrier_pole);
  c.beta = number("beta", c.beta);
  c.margin = number("margin", c.margin);
  require(std::isfinite(c.margin) && c.margin >= 0, "{}: 'margin' must not be negative", where);
  if (json.contains("limit")) c.limit = vector_of(json, "limit", joints, where);
  if (json.contains("constraints")) task.constraints = constraints_from_json(json["constraints"], joints, where);
  return task;
}

Exploration exploration_from_json(const Json& json, int joints, std::string_view where) {
  check_keys(json,
             {"offset", "terms", "amplitude", "frequency", "duration", "period", "hold", "input_noise", "label_noise",
              "sample_every", "pole"},
             where, "an exploration");
  Exploration out;
  if (json.contains("offset")) out.offset = vector_of(json, "offset", joints, where);
  out.terms = json_get<int>(json, "terms", where, out.terms);
  for (const auto& [key, range] : {std::pair{"amplitude", &out.sines.amplitude}, {"frequency", &out.sines.frequency}}) {
    const auto given = json_get<std::vector<double>>(json, key, where, {range->begin(), range->end()});
    require(given.size() == 2 && given[0] >= 0 && given[0] <= given[1] && std::isfinite(given[1]),
            "{}: '{}' is a range [least, most], not negative", where, key);
    *range = {given[0], given[1]};
  }
  auto& o = out.options;
  o.duration = json_get<double>(json, "duration", where, o.duration);
  o.period = json_get<double>(json, "period", where, o.period);
  o.hold = json_get<int>(json, "hold", where, o.hold);
  o.input_noise = json_get<double>(json, "input_noise", where, o.input_noise);
  o.label_noise = json_get<double>(json, "label_noise", where, o.label_noise);
  o.sample_every = json_get<int>(json, "sample_every", where, o.sample_every);
  o.pole = json_get<double>(json, "pole", where, o.pole);
  require(out.terms >= 0 && out.terms <= 1000 && o.duration > 0 && o.hold > 0 && o.sample_every > 0 &&
              o.input_noise >= 0 && o.label_noise >= 0,
          "{}: terms (up to 1000) and noise must not be negative, duration, hold and sample_every must be positive",
          where);
  return out;
}

void save_model(const std::filesystem::path& path, const Model& model) {
  Json json{{"format", "unbend control model 1"}, {"nominal", to_json(model.nominal)}};
  if (model.error) {
    const auto& e = *model.error;
    json["units"] = std::vector<double>(model.units.begin(), model.units.end());
    json["kernel"] = {
        {"drift", to_json(e.kernel().drift)}, {"gain", to_json(e.kernel().gain)}, {"noise", e.kernel().noise}};
    json["data"] = {{"z", rows_of(e.data().z)}, {"u", rows_of(e.data().u)}, {"y", rows_of(e.data().y)}};
  }
  write_file(path, json.dump() + "\n");
}

Model load_model(const std::filesystem::path& path) {
  const Json json = read_json(path);
  const std::string where = path.string();
  require(json.is_object() && json_get<std::string>(json, "format", where, "") == "unbend control model 1",
          "{}: not a model that `unbend control learn` wrote", where);
  Model model;
  model.nominal = robot_from_json(json_get<Json>(json, "nominal", where), where + ", nominal");
  if (!json.contains("data")) return model;
  const int n = model.nominal.joints();
  model.units = Eigen::VectorXd::Ones(4 * n);
  const auto units = json_get<std::vector<double>>(json, "units", where);
  require(static_cast<int>(units.size()) == 4 * n, "{}: 'units' has {} numbers for {} joints", where, units.size(), n);
  for (int i = 0; i < 4 * n; ++i) {
    require(units[i] > 0 && std::isfinite(units[i]), "{}: 'units' must be positive", where);
    model.units[i] = units[i];
  }
  const Json kernel = json_get<Json>(json, "kernel", where), data = json_get<Json>(json, "data", where);
  GpKernel k{kernel_from_json(json_get<Json>(kernel, "drift", where), where + ", drift"),
             {},
             json_get<double>(kernel, "noise", where)};
  const Json gain = json_get<Json>(kernel, "gain", where);
  if (!gain.empty()) k.gain = kernel_from_json(gain, where + ", gain");
  model.error.emplace(GpData{matrix_of(data, "z", where), matrix_of(data, "u", where), matrix_of(data, "y", where)}, k);
  return model;
}

Eigen::MatrixXd load_rows(const std::filesystem::path& path) {
  NumberTable table;
  if (path.extension() == ".npy") {
    const NpyArray array = read_npy(path);
    require(array.shape.size() == 2, "{}: an array of {} dimensions; rows and columns are needed", path.string(),
            array.shape.size());
    table = {array.shape[0], array.shape[1], to_doubles(array), {}};
  } else {
    table = read_csv(path);
  }
  for (std::size_t i = 0; i < table.values.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i) / table.columns;
    require(std::isfinite(table.values[i]), "{}, {} {}, column {}: not a finite number", path.string(),
            table.lines.empty() ? "row" : "line",
            table.lines.empty() ? row + 1 : table.lines[static_cast<std::size_t>(row)],
            static_cast<std::int64_t>(i) % table.columns + 1);
  }
  return Eigen::Map<const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
      table.values.data(), table.rows, table.columns);
}

Experience experience_from_rows(const Eigen::MatrixXd& rows, int n, std::string_view where) {
  require(rows.cols() == 8 * n,
          "{}: {} columns; for {} joints {} are needed: q, q', theta, theta', q'', q''', q'''', u, each for all joints",
          where, rows.cols(), n, 8 * n);
  Experience out;
  out.x = rows.leftCols(4 * n);
  out.xi.resize(rows.rows(), 4 * n);
  out.xi << rows.leftCols(2 * n), rows.middleCols(4 * n, 2 * n);
  out.q4 = rows.middleCols(6 * n, n);
  out.u = rows.rightCols(n);
  return out;
}

void save_experience(const std::filesystem::path& path, const Experience& e) {
  const auto n = e.u.cols();
  std::vector<std::string> names;
  for (const char* name : {"q", "dq", "theta", "dtheta", "ddq", "dddq", "ddddq", "u"}) add_names(names, name, n);
  std::string text = fmt::format("{}\n", fmt::join(names, ","));
  for (Eigen::Index i = 0; i < e.u.rows(); ++i) {
    std::vector<double> row;
    append(row, Eigen::VectorXd(e.x.row(i)));
    append(row, Eigen::VectorXd(e.xi.row(i).rightCols(2 * n)));
    append(row, Eigen::VectorXd(e.q4.row(i)));
    append(row, Eigen::VectorXd(e.u.row(i)));
    text += fmt::format("{}\n", fmt::join(row, ","));
  }
  write_file(path, text);
}

void save_log(const std::filesystem::path& path, const Run& run, const std::vector<Constraint>& constraints) {
  require(!run.steps.empty(), "{}: there are no steps to write", path.string());
  const auto n = run.steps[0].input.size();
  const auto m = static_cast<Eigen::Index>(constraints.size());
  std::vector<std::string> names{"t"};
  for (const char* name : {"q", "reference", "desired", "u"}) add_names(names, name, n);
  for (const char* name : {"h", "margin", "ratio"}) add_names(names, name, m);
  add_names(names, "deviation", n);
  names.insert(names.end(), {"novelty", "status"});
  std::string text = fmt::format("{}\n", fmt::join(names, ","));
  for (const ControlStep& s : run.steps) {
    std::vector<double> row{s.time};
    append(row, Vector(s.flat.head(n)));
    append(row, s.reference.size() ? s.reference : Vector(s.flat.head(n)));
    append(row, s.desired);
    append(row, s.input);
    append(row, s.h);
    append(row, s.margin);
    append(row, s.ratio);
    append(row, s.deviation);
    row.push_back(s.novelty);
    row.push_back(s.held ? 3 : static_cast<int>(s.status));
    text += fmt::format("{}\n", fmt::join(row, ","));
  }
  write_file(path, text);
}

}  // namespace unbend::control
