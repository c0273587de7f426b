// Rows from a file or a pipe: a thread of its own reads and parses ahead of who uses them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "unbend/optimize/row_format.h"

namespace unbend::optimize {

/// A place in a stream: what was read before it.
struct StreamPosition {
  std::int64_t bytes = 0, lines = 0;
};

struct BadLine {
  std::int64_t line = 0;  ///< from 1
  std::string problem;
};

/// Rows of one read, and the bad lines among them; both in the order of the lines.
struct RowBatch {
  Rows rows;
  std::vector<StreamPosition> ends;  ///< behind the line of each row
  std::vector<BadLine> bad;
  StreamPosition end;
};

class RowStream {
 public:
  /// `path` is a file, or "-" for standard input. CSV without a number of features takes it from the first line.
  /// `from`: where to go on in a file; standard input goes on wherever it is. Input error for a file that cannot be
  /// read, or that has no line which ends at `from`.
  RowStream(const std::string& path, const FormatOptions& format, StreamPosition from = {});
  ~RowStream();

  const FormatOptions& format() const;  ///< with the number of features of a CSV file
  /// The next rows, or null at the end. The batch lives until the next call. Does not wait for more than what the pipe
  /// holds. Input error if reading fails or a line is longer than 64 MiB.
  RowBatch* next();

 private:
  struct Reader;
  std::unique_ptr<Reader> reader_;
};

}  // namespace unbend::optimize
