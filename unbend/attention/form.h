// The three equal faces of a linear-time mixer.
#pragma once

namespace unbend {

/// How a recurrence over time is computed. All forms give the same numbers up to rounding.
enum class Form {
  Parallel,   ///< masked matrix form, O(T^2): the oracle
  Chunked,    ///< matrix form inside chunks, recurrence between them, O(T): training and prefill
  Recurrent,  ///< one token after the other, constant state: decoding
};

}  // namespace unbend
