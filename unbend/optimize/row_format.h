// Lines of text as rows of features: libsvm ("label index:value .."), Vowpal Wabbit ("label [importance] |space
// name[:value] .."), CSV.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/optimize/rows.h"

namespace unbend::optimize {

enum class RowFormat { Libsvm, Vw, Csv };
std::vector<std::string> format_names();  ///< libsvm, vw, csv
RowFormat format_named(std::string_view name);

struct FormatOptions {
  RowFormat format = RowFormat::Libsvm;
  /// Features are 0 .. features - 1, and a line with a larger index is bad. 0: names and large indices are hashed to
  /// 2^bits features (indices below that are taken as they are).
  std::int64_t features = 0;
  int bits = 18;
  bool constant = true;  ///< a last feature that is always 1
  int label_column = 0;  ///< of CSV; -1 is the last
  bool labelled = true;  ///< otherwise the label may be missing (CSV: is missing) and is 0

  std::int64_t dimension() const { return (features > 0 ? features : std::int64_t{1} << bits) + constant; }
};

void check_format(const FormatOptions& options);

enum class LineKind { Row, Blank, Bad };

class RowParser {
 public:
  /// `from_start`: the first line is that of the stream, where a heading can be.
  explicit RowParser(const FormatOptions& options, bool from_start = true);

  /// Adds the row of one line (without its end) to `rows`. A bad line adds nothing, and `problem` says what is wrong
  /// and at which column of the line. CSV: a stream's first line without any number is blank, a heading.
  LineKind parse(std::string_view line, Rows& rows, std::string& problem);

 private:
  LineKind libsvm(std::string_view line, Rows& rows, std::string& problem) const;
  LineKind vw(std::string_view line, Rows& rows, std::string& problem) const;
  LineKind csv(std::string_view line, Rows& rows, std::string& problem);
  bool index_of(std::uint64_t index, std::uint32_t* out) const;

  FormatOptions options_;
  std::uint64_t mask_;
  bool first_;
};

/// How many cells the line of a CSV file has.
std::int64_t csv_cells(std::string_view line);

/// MurmurHash3 (Austin Appleby, public domain), 32 bits.
std::uint32_t murmur3(std::string_view bytes, std::uint32_t seed);

}  // namespace unbend::optimize
