#include "unbend/optimize/rows.h"

#include <algorithm>
#include <bit>

namespace unbend::optimize {

Row Rows::operator[](std::size_t i) const {
  const std::size_t begin = i == 0 ? 0 : ends_[i - 1], count = ends_[i] - begin;
  return {{index_.data() + begin, count}, {value_.data() + begin, count}, labels_[i], weights_[i]};
}

void Rows::clear() { index_.clear(), value_.clear(), ends_.clear(), labels_.clear(), weights_.clear(); }

void Rows::drop_row() {
  const std::size_t begin = ends_.empty() ? 0 : ends_.back();
  index_.resize(begin);
  value_.resize(begin);
}

void Rows::end_row(double label, double weight) {
  merge_equal();
  ends_.push_back(index_.size());
  labels_.push_back(label);
  weights_.push_back(weight);
}

void Rows::merge_equal() {
  const std::size_t begin = ends_.empty() ? 0 : ends_.back(), end = index_.size();
  bool increasing = true;
  for (std::size_t i = begin + 1; i < end; ++i) increasing &= index_[i - 1] < index_[i];
  if (increasing) return;

  const std::size_t slots = std::bit_ceil(2 * (end - begin));
  if (seen_.size() < slots || ++stamp_ == 0) {
    seen_.assign(std::max(slots, seen_.size()), 0);
    stamp_ = 1;
  }
  const std::size_t mask = slots - 1;
  std::size_t kept = begin;
  for (std::size_t i = begin; i < end; ++i) {
    std::size_t slot = (index_[i] * 2654435769U) & mask;
    while (seen_[slot] >> 32 == stamp_ && index_[begin + (seen_[slot] & 0xffffffff)] != index_[i])
      slot = (slot + 1) & mask;
    if (seen_[slot] >> 32 == stamp_) {
      value_[begin + (seen_[slot] & 0xffffffff)] += value_[i];
      continue;
    }
    seen_[slot] = std::uint64_t{stamp_} << 32 | (kept - begin);
    index_[kept] = index_[i];
    value_[kept++] = value_[i];
  }
  index_.resize(kept);
  value_.resize(kept);
}

}  // namespace unbend::optimize
