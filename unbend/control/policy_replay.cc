#include "unbend/control/policy_replay.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::control {

Replay::Replay(std::int64_t capacity, std::int64_t observations, std::int64_t actions)
    : capacity_(capacity), observations_(observations), actions_(actions) {}

void Replay::add(const double* state, const float* action, double reward, const double* reached, bool terminated) {
  if (size_ < capacity_) {
    ++size_;
    rows_.resize(static_cast<std::size_t>(size_ * width()));
  }
  float* row = rows_.data() + next_ * width();
  for (std::int64_t k = 0; k < observations_; ++k) *row++ = static_cast<float>(state[k]);
  row = std::copy_n(action, actions_, row);
  for (std::int64_t k = 0; k < observations_; ++k) *row++ = static_cast<float>(reached[k]);
  row[0] = static_cast<float>(reward), row[1] = terminated ? 0.f : 1.f;
  next_ = (next_ + 1) % capacity_;
}

void Replay::sample(std::int64_t count, Random& random, Batch& batch) const {
  batch.states.resize(count, observations_, observations_), batch.reached.resize(count, observations_, observations_);
  batch.actions.resize(count, actions_, actions_);
  batch.rewards.resize(static_cast<std::size_t>(count)), batch.goes_on.resize(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(size_)));
    const float* row = rows_.data() + at * width();
    std::copy_n(row, observations_, batch.states.row(i));
    std::copy_n(row += observations_, actions_, batch.actions.row(i));
    std::copy_n(row += actions_, observations_, batch.reached.row(i));
    row += observations_;
    batch.rewards[static_cast<std::size_t>(i)] = row[0], batch.goes_on[static_cast<std::size_t>(i)] = row[1];
  }
}

void Replay::put(ArrayFile& file) const {
  file.put("replay.rows", {size_, width()}, rows_);
  const auto next = static_cast<std::uint64_t>(next_);
  file.put("replay.next", std::span(&next, 1));
}

void Replay::get(const ArrayFile& file, std::int64_t choices) {
  rows_ = file.floats("replay.rows");
  size_ = std::ssize(rows_) / width();
  next_ = static_cast<std::int64_t>(file.integers("replay.next", 1)[0]);
  require(size_ * width() == std::ssize(rows_) && size_ <= capacity_ && next_ == (size_ < capacity_ ? size_ : next_) &&
              next_ >= 0 && next_ < capacity_,
          "{}: the stored transitions do not fit: {} numbers, the next at {}", file.where(), rows_.size(), next_);
  for (std::int64_t i = 0; choices > 0 && i < size_; ++i) {
    const float action = rows_[static_cast<std::size_t>(i * width() + observations_)];
    require(action >= 0 && action < static_cast<float>(choices) && action == std::floor(action),
            "{}: stored transition {} has the action {} of {} choices", file.where(), i, action, choices);
  }
}

}  // namespace unbend::control
