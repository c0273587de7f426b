// Transitions to learn from again: a ring of at most `capacity`, which grows as it fills.
#pragma once

#include "unbend/base/random.h"
#include "unbend/control/policy_arrays.h"
#include "unbend/control/policy_matrix.h"

namespace unbend::control {

class Replay {
 public:
  Replay() = default;
  Replay(std::int64_t capacity, std::int64_t observations, std::int64_t actions);

  std::int64_t size() const { return size_; }
  void add(const double* state, const float* action, double reward, const double* reached, bool terminated);

  struct Batch {
    Matrix<float> states, actions, reached;  ///< [n, observations], [n, actions], [n, observations]
    std::vector<float> rewards, goes_on;     ///< goes_on: 0 where the task ended, else 1
  };
  /// `count` transitions, drawn with replacement.
  void sample(std::int64_t count, Random& random, Batch& batch) const;

  void put(ArrayFile& file) const;
  /// Input error for a ring that does not fit and, with `choices` > 0, for actions that are none of them.
  void get(const ArrayFile& file, std::int64_t choices);

 private:
  std::int64_t width() const { return 2 * observations_ + actions_ + 2; }
  std::int64_t capacity_ = 0, observations_ = 0, actions_ = 0, size_ = 0, next_ = 0;
  std::vector<float> rows_;  // [size, width]: state, action, reached, reward, goes on
};

}  // namespace unbend::control
