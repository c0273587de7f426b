// Sparse rows of a stream: features, label, importance weight.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace unbend::optimize {

/// One row. Indices are distinct.
struct Row {
  std::span<const std::uint32_t> index;
  std::span<const double> value;
  double label = 0;
  double weight = 1;  ///< importance: the loss is multiplied by it
};

/// Rows one after the other in memory. Equal indices within a row are merged: their values are added.
class Rows {
 public:
  std::size_t size() const { return labels_.size(); }
  Row operator[](std::size_t i) const;
  std::size_t features() const { return index_.size(); }

  void clear();
  void add(std::uint32_t index, double value) {
    index_.push_back(index);
    value_.push_back(value);
  }
  void end_row(double label, double weight);
  void drop_row();  ///< forgets what was added since the last end_row

 private:
  void merge_equal();
  std::vector<std::uint32_t> index_;
  std::vector<double> value_;
  std::vector<std::size_t> ends_;
  std::vector<double> labels_, weights_;
  std::vector<std::uint64_t> seen_;  // open addressing: row's stamp and position
  std::uint32_t stamp_ = 0;
};

}  // namespace unbend::optimize
