#include "unbend/base/npy_header.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "unbend/base/error.h"

namespace unbend {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::string_view kTypes[] = {"b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"};

// The header is a Python dict literal of a string, a bool and a tuple of integers; a scanner of just that.
class DictScanner {
 public:
  DictScanner(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  bool accept(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!accept(c)) fail(fmt::format("'{}' expected", c));
  }

  std::string_view string() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail("a quoted string expected");
    const auto end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("a string is not closed");
    const auto value = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return value;
  }

  bool boolean() {
    skip_space();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    fail("True or False expected");
  }

  std::int64_t size() {
    skip_space();
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (error != std::errc() || value < 0) fail("a size expected");
    at_ = end - text_.data();
    accept('L');  // written by Python 2
    return value;
  }

  bool at_end() {
    skip_space();
    return at_ == text_.size();
  }

  [[noreturn]] void fail(std::string_view what) const {
    fail_input("{}: bad .npy header at character {} of '{}': {}", where_, at_, text_.substr(0, 200), what);
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }

  std::string_view text_, where_;
  std::size_t at_ = 0;
};

std::string parse_type(std::string_view descr, std::string_view where) {
  const bool known = descr.size() == 3 && std::ranges::find(kTypes, descr.substr(1)) != std::end(kTypes);
  require(known, "{}: unsupported element type '{}': bool, integers and floats of up to 8 bytes are read", where,
          descr);
  require(descr[0] == '<' || (descr[0] == '|' && descr[2] == '1'), "{}: element type '{}' is not little-endian", where,
          descr);
  return std::string(descr.substr(1));
}

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> file, std::string_view where) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  require(text.starts_with(kMagic) && text.size() >= 12, "{}: not a .npy file", where);
  const int version = static_cast<unsigned char>(text[6]);
  require(version >= 1 && version <= 3 && text[7] == 0, "{}: .npy version {}.{} is not 1.0, 2.0 or 3.0", where, version,
          int{static_cast<unsigned char>(text[7])});
  const std::uint64_t start = version == 1 ? 10 : 12;
  std::uint64_t length = 0;
  for (std::uint64_t i = 8; i < start; ++i) length |= std::to_integer<std::uint64_t>(file[i]) << (8 * (i - 8));
  require(length <= file.size() - start, "{}: header of {} bytes in a file of {}: truncated", where, length,
          file.size());

  NpyHeader header;
  header.begin = start + length;
  DictScanner scan(text.substr(start, length), where);
  std::set<std::string_view> keys;
  for (scan.expect('{'); !scan.accept('}');) {
    const auto key = scan.string();
    if (!keys.insert(key).second) scan.fail("a key comes twice");
    scan.expect(':');
    if (key == "descr") {
      header.type = parse_type(scan.string(), where);
    } else if (key == "fortran_order") {
      header.fortran_order = scan.boolean();
    } else if (key == "shape") {
      for (scan.expect('('); !scan.accept(')');) {
        header.shape.push_back(scan.size());
        if (scan.accept(',')) continue;
        scan.expect(')');
        break;
      }
    } else {
      scan.fail("the keys are descr, fortran_order and shape");
    }
    if (scan.accept(',')) continue;
    scan.expect('}');
    break;
  }
  if (!scan.at_end()) scan.fail("text after the dictionary");
  if (keys.size() != 3) scan.fail("descr, fortran_order and shape are all needed");

  std::int64_t bytes = header.type[1] - '0';
  for (const auto size : header.shape)
    require(!__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes),
            "{}: the size of the array overflows", where);
  if (std::ranges::find(header.shape, 0) != header.shape.end()) bytes = 0;
  const auto available = file.size() - header.begin;
  require(available == static_cast<std::uint64_t>(bytes),
          "{}: the array needs {} bytes, the file has {} after offset {}", where, bytes, available, header.begin);
  return header;
}

std::string write_npy_header(const NpyHeader& header) {
  const char order = header.type.ends_with('1') ? '|' : '<';
  const auto sizes = fmt::format("{}{}", fmt::join(header.shape, ", "), header.shape.size() == 1 ? "," : "");
  auto dict = fmt::format("{{'descr': '{}{}', 'fortran_order': {}, 'shape': ({}), }}", order, header.type,
                          header.fortran_order ? "True" : "False", sizes);
  dict.resize((10 + dict.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');  // data at a multiple of 64
  dict += '\n';
  std::string out(kMagic);
  out += {'\x01', '\x00', static_cast<char>(dict.size() & 0xff), static_cast<char>(dict.size() >> 8)};
  return out + dict;
}

}  // namespace unbend
