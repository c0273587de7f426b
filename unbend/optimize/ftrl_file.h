// Learners in files, at any row of a stream: safetensors with all numbers in float64, options as JSON in the metadata.
// What is loaded goes on to the same bits as a learner that was never saved.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "unbend/optimize/implicit_ftrl.h"
#include "unbend/optimize/row_stream.h"

namespace unbend::optimize {

struct FtrlModel {
  Ftrl learner;
  FormatOptions format;
  StreamPosition position;  ///< behind the last row that was learnt
};

/// Atomic: the old file or the new one is there at any moment. Input error for learners with functions of the user,
/// which no file can hold.
void save_ftrl(const std::filesystem::path& path, const Ftrl& learner, const FormatOptions& format,
               StreamPosition position);

/// Input error that starts with the file's name if it is damaged or something else.
FtrlModel load_ftrl(const std::filesystem::path& path);
FtrlModel parse_ftrl(std::span<const std::byte> file, std::string_view where);

/// What became of learning a stream.
struct StreamResult {
  StreamPosition position;  ///< behind the last line that was learnt or passed over
  std::int64_t bad = 0;     ///< lines that could not be read or learnt
  BadLine first_bad;
  bool stopped = false;      ///< at the first bad line, everything before it is learnt
  bool interrupted = false;  ///< by a signal (unbend/base/interrupt.h)
  std::string failure;       ///< why the stream could not be read to its end; what came before is learnt
};

struct StreamLearning {
  bool skip_bad = false;   ///< bad lines are counted and passed over; otherwise the first one ends the learning
  std::int64_t every = 0;  ///< rows between two calls of `after`
  std::function<void(StreamPosition)> after = {};
};

/// Learns all rows that are left in the stream.
StreamResult learn_stream(Ftrl& learner, RowStream& stream, const StreamLearning& options);

}  // namespace unbend::optimize
