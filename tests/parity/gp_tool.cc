// Exact Gaussian processes for tests/parity/gp.py: a problem as JSON on standard input, predictions as JSON on standard
// output.
#include <fmt/format.h>

#include <iostream>
#include <iterator>

#include "unbend/base/error.h"
#include "unbend/base/json.h"
#include "unbend/control/gp.h"

namespace unbend::control {
namespace {

Eigen::MatrixXd matrix_of(const Json& json, const std::string& key) {
  const auto rows = json_get<std::vector<std::vector<double>>>(json, key, "input");
  Eigen::MatrixXd out(rows.size(), rows.at(0).size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows[i].size(); ++j)
      out(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(j)) = rows[i][j];
  }
  return out;
}

void run(const Json& json) {
  const GpKernel kernel{kernel_from_json(json.at("kernel"), "input"), {}, json_get<double>(json, "noise", "input")};
  const GpData data{matrix_of(json, "z"), Eigen::MatrixXd(matrix_of(json, "z").rows(), 0), matrix_of(json, "y")};
  const GpOptions plain{.scale_outputs = false};
  const GaussianProcess process(data, kernel, plain);
  Json out{{"log_likelihood", process.log_marginal_likelihood()},
           {"gradient", likelihood_with_gradient(data, kernel, plain)},
           {"jitter", process.jitter()},
           {"mean", Json::array()},
           {"deviation", Json::array()}};
  const Eigen::MatrixXd queries = matrix_of(json, "queries");
  for (Eigen::Index i = 0; i < queries.rows(); ++i) {
    const Prediction p = process.predict(queries.row(i).transpose());
    out["mean"].push_back(p.mean(0, 0));
    out["deviation"].push_back(p.root(0, 0));
  }
  fmt::print("{}\n", out.dump());
}

}  // namespace
}  // namespace unbend::control

int main() {
  try {
    const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
    unbend::control::run(unbend::parse_json(text, "standard input"));
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "gp_tool: {}\n", error.what());
    return 1;
  }
}
