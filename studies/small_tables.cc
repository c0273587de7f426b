#include "studies/small_tables.h"

#include <cmath>
#include <filesystem>
#include <string>

#include "unbend/base/error.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

void standardise(Eigen::Ref<Eigen::VectorXd> column) {
  column.array() -= column.mean();
  const double deviation = std::sqrt(column.squaredNorm() / static_cast<double>(column.size()));
  if (deviation > 0) column /= deviation;
}

}  // namespace

SmallTable small_table(const char* name) {
  const std::filesystem::path folder = std::filesystem::path("build/data") / name;
  const bool digits = std::string(name) == "digits8", regression = std::string(name) == "diabetes";
  require(std::filesystem::exists(folder / (regression ? "targets.npy" : "labels.npy")),
          "{} is missing: run tools/setup.sh tables", folder.string());
  const auto inputs = load_npy(folder / (digits ? "images.npy" : "inputs.npy")).to(at::kDouble).flatten(1).contiguous();
  const auto target = load_npy(folder / (regression ? "targets.npy" : "labels.npy")).to(at::kDouble).contiguous();
  SmallTable table;
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const RowMajor> raw(inputs.const_data_ptr<double>(), inputs.size(0), inputs.size(1));
  table.inputs = Eigen::MatrixXd::Ones(raw.rows(), raw.cols() + 1);
  table.inputs.leftCols(raw.cols()) = raw;
  table.target = Eigen::Map<const Eigen::VectorXd>(target.const_data_ptr<double>(), target.numel());
  if (digits) {
    table.inputs.leftCols(raw.cols()) /= 16;
  } else {
    for (Eigen::Index j = 0; j < raw.cols(); ++j) standardise(table.inputs.col(j));
  }
  if (regression) standardise(table.target);
  return table;
}

Eigen::VectorXd signs(const SmallTable& table, double from) {
  return (table.target.array() >= from).select(Eigen::VectorXd::Ones(table.target.size()), -1.);
}

}  // namespace unbend
