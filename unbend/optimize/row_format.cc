#include "unbend/optimize/row_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include "unbend/base/error.h"

namespace unbend::optimize {
namespace {

constexpr std::array<std::string_view, 3> kFormats{"libsvm", "vw", "csv"};
constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || c == '\t'; }

/// A finite decimal number at `at`, which moves behind it; false if there is none. Short numbers are exact from one
/// division (Clinger 1990), the others are left to the library.
bool number(const char*& at, const char* end, double* value) {
  const char* p = at;
  const bool negative = p != end && *p == '-';
  if (p != end && (*p == '-' || *p == '+')) ++p;
  const char* digits = p;
  std::uint64_t mantissa = 0;
  for (; p != end && is_digit(*p); ++p) mantissa = 10 * mantissa + static_cast<std::uint64_t>(*p - '0');
  std::ptrdiff_t count = p - digits, places = 0;
  if (p != end && *p == '.') {
    const char* point = ++p;
    for (; p != end && is_digit(*p); ++p) mantissa = 10 * mantissa + static_cast<std::uint64_t>(*p - '0');
    places = p - point;
    count += places;
  }
  if (count == 0) return false;
  if (count <= 15 && (p == end || (*p != 'e' && *p != 'E'))) {
    const double x = static_cast<double>(mantissa) / kPowers[places];
    *value = negative ? -x : x;
    at = p;
    return true;
  }
  const auto [rest, error] = std::from_chars(digits, end, *value);
  if (error != std::errc() || !std::isfinite(*value)) return false;
  if (negative) *value = -*value;
  at = rest;
  return true;
}

std::uint32_t rotate(std::uint32_t x, int by) { return std::rotl(x, by); }
std::uint32_t mixed(std::uint32_t h) {
  h ^= h >> 16, h *= 0x85ebca6bU, h ^= h >> 13, h *= 0xc2b2ae35U;
  return h ^ h >> 16;
}

/// As Vowpal Wabbit names features: numbers are themselves, other names are hashed; both on top of the namespace.
std::uint32_t name_hash(std::string_view name, std::uint32_t seed) {
  std::uint32_t value = 0;
  for (const char c : name) {
    if (!is_digit(c)) return murmur3(name, seed);
    value = 10 * value + static_cast<std::uint32_t>(c - '0');
  }
  return value + seed;
}

LineKind bad(Rows& rows, std::string& problem, std::string message) {
  rows.drop_row();
  problem = std::move(message);
  return LineKind::Bad;
}

/// The word at `at`, shortened for a message.
std::string_view word(const char* at, const char* end) {
  const char* stop = at;
  while (stop != end && !is_space(*stop) && stop - at < 40) ++stop;
  return {at, static_cast<std::size_t>(stop - at)};
}

}  // namespace

std::uint32_t murmur3(std::string_view bytes, std::uint32_t seed) {
  std::uint32_t h = seed;
  std::size_t i = 0;
  const auto scrambled = [](std::uint32_t k) { return rotate(k * 0xcc9e2d51U, 15) * 0x1b873593U; };
  for (; i + 4 <= bytes.size(); i += 4) {
    std::uint32_t k = 0;
    std::memcpy(&k, bytes.data() + i, 4);
    h = rotate(h ^ scrambled(k), 13) * 5 + 0xe6546b64U;
  }
  std::uint32_t tail = 0;
  for (std::size_t j = bytes.size(); j > i; --j) tail = tail << 8 | static_cast<unsigned char>(bytes[j - 1]);
  if (bytes.size() > i) h ^= scrambled(tail);
  return mixed(h ^ static_cast<std::uint32_t>(bytes.size()));
}

std::vector<std::string> format_names() { return {kFormats.begin(), kFormats.end()}; }

RowFormat format_named(std::string_view name) {
  const auto found = std::find(kFormats.begin(), kFormats.end(), name);
  if (found == kFormats.end()) fail_usage("there is no format '{}': use {}", name, fmt::join(kFormats, ", "));
  return static_cast<RowFormat>(found - kFormats.begin());
}

void check_format(const FormatOptions& o) {
  require(o.features >= 0 && o.features < (std::int64_t{1} << 32) - 1, "features must be 0 to 2^32 - 2, not {}",
          o.features);
  require(o.bits >= 1 && o.bits <= 31, "bits must be 1 to 31, not {}", o.bits);
  require(o.label_column >= -1, "the column of labels must be 0, 1, .. or -1 for the last, not {}", o.label_column);
}

RowParser::RowParser(const FormatOptions& options, bool from_start)
    : options_(options), mask_((std::uint64_t{1} << options.bits) - 1), first_(from_start) {
  check_format(options);
}

bool RowParser::index_of(std::uint64_t index, std::uint32_t* out) const {
  if (options_.features > 0) {
    *out = static_cast<std::uint32_t>(index);
    return index < static_cast<std::uint64_t>(options_.features);
  }
  if (index > mask_) index = mixed(static_cast<std::uint32_t>(index ^ index >> 32)) & mask_;
  *out = static_cast<std::uint32_t>(index);
  return true;
}

LineKind RowParser::parse(std::string_view line, Rows& rows, std::string& problem) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  const bool first = std::exchange(first_, false);
  if (line.find_first_not_of(" \t") == line.npos) return LineKind::Blank;
  switch (options_.format) {
    case RowFormat::Libsvm: return libsvm(line, rows, problem);
    case RowFormat::Vw: return vw(line, rows, problem);
    case RowFormat::Csv: {
      const LineKind kind = csv(line, rows, problem);
      if (kind != LineKind::Bad || !first) return kind;
      // A heading, if none of its cells is a number.
      for (const char* at = line.data(); at < line.data() + line.size();) {
        double value = 0;
        const char* stop = line.data() + line.size();
        const char* cell = std::find(at, stop, ',');
        if (number(at, cell, &value)) return kind;
        at = cell + 1;
      }
      problem.clear();
      return LineKind::Blank;
    }
  }
  return LineKind::Blank;
}

LineKind RowParser::libsvm(std::string_view line, Rows& rows, std::string& problem) const {
  const char *at = line.data(), *begin = at, *end = std::find(at, at + line.size(), '#');
  const auto skip = [&] {
    while (at != end && is_space(*at)) ++at;
  };
  skip();
  if (at == end) return LineKind::Blank;
  double label = 0;
  const bool has_label = std::find(at, end, ':') == end || std::find_if(at, end, is_space) < std::find(at, end, ':');
  if (has_label || options_.labelled) {
    const char* from = at;
    if (!number(at, end, &label) || (at != end && !is_space(*at)))
      return bad(rows, problem, fmt::format("the label '{}' is not a number", word(from, end)));
  }
  for (skip(); at != end; skip()) {
    const char* from = at;
    if (end - at > 4 && std::string_view(at, 4) == "qid:") {
      while (at != end && !is_space(*at)) ++at;
      continue;
    }
    std::uint64_t index = 0;
    const auto [rest, error] = std::from_chars(at, end, index);
    std::uint32_t feature = 0;
    double value = 0;
    at = rest;
    if (error != std::errc() || at == end || *at != ':')
      return bad(rows, problem, fmt::format("column {}: '{}' is not index:value", from - begin + 1, word(from, end)));
    if (!number(++at, end, &value) || (at != end && !is_space(*at)))
      return bad(rows, problem,
                 fmt::format("column {}: the value of '{}' is not a finite number", from - begin + 1, word(from, end)));
    if (!index_of(index, &feature))
      return bad(rows, problem,
                 fmt::format("column {}: the index {} is not below {}", from - begin + 1, index, options_.features));
    rows.add(feature, value);
  }
  if (options_.constant) rows.add(static_cast<std::uint32_t>(options_.dimension() - 1), 1);
  rows.end_row(label, 1);
  return LineKind::Row;
}

LineKind RowParser::vw(std::string_view line, Rows& rows, std::string& problem) const {
  const char *begin = line.data(), *end = begin + line.size(), *bar = std::find(begin, end, '|');
  if (bar == end) return bad(rows, problem, "there is no '|' before the features");
  // Before the first bar: label, importance, initial prediction; a tag starts with ' or touches the bar.
  double given[2] = {0, 1};
  int count = 0;
  for (const char* at = begin; at != bar;) {
    if (is_space(*at)) {
      ++at;
      continue;
    }
    const char *from = at, *stop = std::find_if(at, bar, is_space);
    if (*at == '\'' || (stop == bar && (count > 0 || !options_.labelled))) break;
    if (count == 2)
      return bad(rows, problem, fmt::format("'{}': initial predictions are not supported", word(from, bar)));
    if (!number(at, stop, &given[count]) || at != stop)
      return bad(rows, problem,
                 fmt::format("the {} '{}' is not a number", count == 0 ? "label" : "importance", word(from, bar)));
    ++count;
  }
  if (count == 0 && options_.labelled) return bad(rows, problem, "there is no label");
  if (given[1] < 0) return bad(rows, problem, fmt::format("the importance {} is negative", given[1]));

  for (const char* at = bar; at != end;) {
    ++at;  // the bar
    std::uint32_t space = 0;
    double scale = 1;
    if (at != end && !is_space(*at) && *at != '|') {
      const char* stop = std::find_if(at, end, [](char c) { return is_space(c) || c == ':' || c == '|'; });
      space = name_hash({at, static_cast<std::size_t>(stop - at)}, 0);
      at = stop;
      if (at != end && *at == ':' && !number(++at, end, &scale))
        return bad(rows, problem, fmt::format("column {}: the weight of a namespace is not a number", at - begin + 1));
    }
    while (at != end && *at != '|') {
      if (is_space(*at)) {
        ++at;
        continue;
      }
      const char* from = at;
      // One pass over the name: is it a number, and where does it end?
      std::uint32_t digits = 0;
      bool numeric = true;
      for (; at != end && *at != ':' && !is_space(*at) && *at != '|'; ++at) {
        numeric &= is_digit(*at);
        digits = 10 * digits + static_cast<std::uint32_t>(*at - '0');
      }
      const std::string_view name(from, static_cast<std::size_t>(at - from));
      double value = 1;
      if (at != end && *at == ':') {
        if (!number(++at, end, &value) || (at != end && !is_space(*at) && *at != '|'))
          return bad(
              rows, problem,
              fmt::format("column {}: the value of '{}' is not a finite number", from - begin + 1, word(from, end)));
      }
      std::uint32_t feature = 0;
      const std::uint32_t hash = numeric && !name.empty() ? digits + space : murmur3(name, space);
      if (options_.features > 0 && (!numeric || name.empty() || !index_of(digits, &feature)))
        return bad(
            rows, problem,
            fmt::format("column {}: '{}' is not a feature 0 .. {}", from - begin + 1, name, options_.features - 1));
      if (options_.features == 0) feature = static_cast<std::uint32_t>(hash & mask_);
      rows.add(feature, scale * value);
    }
  }
  if (options_.constant) rows.add(static_cast<std::uint32_t>(options_.dimension() - 1), 1);
  rows.end_row(given[0], given[1]);
  return LineKind::Row;
}

std::int64_t csv_cells(std::string_view line) { return std::count(line.begin(), line.end(), ',') + 1; }

LineKind RowParser::csv(std::string_view line, Rows& rows, std::string& problem) {
  const char *at = line.data(), *end = at + line.size();
  const std::int64_t cells = csv_cells(line), expected = options_.features + options_.labelled;
  if (options_.features > 0 && cells != expected)
    return bad(rows, problem, fmt::format("{} cells where {} belong", cells, expected));
  const std::int64_t label_cell = !options_.labelled          ? -1
                                  : options_.label_column < 0 ? cells - 1
                                                              : options_.label_column;
  if (label_cell >= cells) return bad(rows, problem, fmt::format("there is no column {} for the label", label_cell));
  double label = 0;
  std::uint64_t feature = 0;
  for (std::int64_t cell = 0; cell < cells; ++cell, ++at) {
    const char* stop = std::find(at, end, ',');
    const char* from = at;
    while (at != stop && is_space(*at)) ++at;
    double value = 0;
    const bool read = number(at, stop, &value);
    while (at != stop && is_space(*at)) ++at;
    if (!read || at != stop)
      return bad(rows, problem,
                 fmt::format("cell {} '{}' is not a finite number", cell + 1,
                             std::string_view(from, std::min<std::size_t>(40, static_cast<std::size_t>(stop - from)))));
    if (cell == label_cell) {
      label = value;
      continue;
    }
    std::uint32_t index = 0;
    index_of(feature++, &index);
    if (value != 0) rows.add(index, value);
  }
  if (options_.constant) rows.add(static_cast<std::uint32_t>(options_.dimension() - 1), 1);
  rows.end_row(label, 1);
  return LineKind::Row;
}

}  // namespace unbend::optimize
