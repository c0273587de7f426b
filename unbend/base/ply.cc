#include "unbend/base/ply.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>

#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend {
namespace {

enum class Format { Ascii, LittleEndian, BigEndian };

struct Type {
  std::string_view name, alias;
  char kind;  // of a number: s(igned), u(nsigned), f(loat)
  std::size_t width;
};

constexpr Type kTypes[] = {{"char", "int8", 's', 1},     {"uchar", "uint8", 'u', 1},   {"short", "int16", 's', 2},
                           {"ushort", "uint16", 'u', 2}, {"int", "int32", 's', 4},     {"uint", "uint32", 'u', 4},
                           {"float", "float32", 'f', 4}, {"double", "float64", 'f', 8}};

struct Property {
  std::string name;
  const Type* type;
  const Type* length = nullptr;  // of a list: the type of its number of items
};

struct Element {
  std::string name;
  std::int64_t count;
  std::vector<Property> properties;
};

struct Header {
  Format format;
  std::vector<Element> elements;
  std::size_t begin;   // offset of the data
  std::int64_t lines;  // of the header
};

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  while (true) {
    const auto begin = line.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos) return words;
    const auto end = std::min(line.find_first_of(" \t\r", begin), line.size());
    words.push_back(line.substr(begin, end - begin));
    line.remove_prefix(end);
  }
}

template <class T>
bool read_number(std::string_view word, T& value) {
  if (word.starts_with('+')) word.remove_prefix(1);
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  return error == std::errc() && end == word.data() + word.size();
}

/// The header line by line; `fail` says what was expected and where.
class HeaderReader {
 public:
  HeaderReader(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  Header read() {
    if (next() != std::vector<std::string_view>{"ply"}) fail_input("{}: not a PLY file", where_);
    Header header{format(), {}, 0, 0};
    while (true) {
      const auto words = next();
      if (words.empty() || words[0] == "comment" || words[0] == "obj_info") continue;
      if (words[0] == "end_header") break;
      if (words[0] == "element") {
        std::int64_t count = 0;
        if (words.size() != 3 || !read_number(words[2], count) || count < 0) fail("'element NAME COUNT' expected");
        header.elements.push_back({std::string(words[1]), count, {}});
      } else if (words[0] == "property") {
        if (header.elements.empty()) fail("a property before the first element");
        header.elements.back().properties.push_back(property(words));
      } else {
        fail("element, property, comment or end_header expected");
      }
    }
    header.begin = at_;
    header.lines = line_;
    return header;
  }

 private:
  std::vector<std::string_view> next() {
    if (at_ == text_.size()) fail_input("{}: the header ends after line {} without end_header", where_, line_);
    const auto end = std::min(text_.find('\n', at_), text_.size());
    words_ = words_of(text_.substr(at_, end - at_));
    at_ = std::min(end + 1, text_.size());
    ++line_;
    return words_;
  }

  Format format() {
    const auto words = next();
    if (words.size() == 3 && words[0] == "format" && words[2] == "1.0") {
      if (words[1] == "ascii") return Format::Ascii;
      if (words[1] == "binary_little_endian") return Format::LittleEndian;
      if (words[1] == "binary_big_endian") return Format::BigEndian;
    }
    fail("'format ascii 1.0' or binary_little_endian, binary_big_endian expected");
  }

  const Type* type(std::string_view name) {
    const auto found = std::ranges::find_if(kTypes, [&](const Type& t) { return t.name == name || t.alias == name; });
    if (found == std::end(kTypes)) fail("unknown type of a property");
    return found;
  }

  Property property(const std::vector<std::string_view>& words) {
    if (words.size() == 3) return {std::string(words[2]), type(words[1])};
    if (words.size() != 5 || words[1] != "list")
      fail("'property TYPE NAME' or 'property list TYPE TYPE NAME' expected");
    Property list{std::string(words[4]), type(words[3]), type(words[2])};
    if (list.length->kind == 'f') fail("the length of a list must be an integer");
    return list;
  }

  [[noreturn]] void fail(std::string_view what) const {
    fail_input("{}, line {}: '{}': {}", where_, line_, fmt::format("{}", fmt::join(words_, " ")).substr(0, 200), what);
  }

  std::string_view text_, where_;
  std::vector<std::string_view> words_;
  std::size_t at_ = 0;
  std::int64_t line_ = 0;
};

/// The data, one number at a time.
class NumberReader {
 public:
  NumberReader(std::string_view data, const Header& header, std::string_view where)
      : data_(data), format_(header.format), where_(where), line_(header.lines + 1), begin_(header.begin) {}

  double next(const Type& type) { return format_ == Format::Ascii ? next_word() : next_bytes(type); }

  /// Bytes that are left: each number needs at least one.
  std::size_t left() const { return data_.size() - at_; }

 private:
  double next_word() {
    while (at_ < data_.size() && std::string_view(" \t\r\n").find(data_[at_]) != std::string_view::npos)
      line_ += data_[at_++] == '\n';
    const auto end = std::min(data_.find_first_of(" \t\r\n", at_), data_.size());
    const auto word = data_.substr(at_, end - at_);
    at_ = end;
    double value = 0;
    if (word.empty()) fail_input("{}: the file ends on line {}, where more numbers were announced", where_, line_);
    if (!read_number(word, value)) fail_input("{}, line {}: '{}' is not a number", where_, line_, word.substr(0, 80));
    return value;
  }

  double next_bytes(const Type& type) {
    if (left() < type.width)
      fail_input("{}: the file ends at offset {}, where more numbers were announced", where_, begin_ + data_.size());
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < type.width; ++i) {
      const std::size_t place = format_ == Format::LittleEndian ? i : type.width - 1 - i;
      bits |= std::uint64_t{static_cast<unsigned char>(data_[at_ + i])} << (8 * place);
    }
    at_ += type.width;
    if (type.kind == 'f')
      return type.width == 4 ? double{std::bit_cast<float>(static_cast<std::uint32_t>(bits))}
                             : std::bit_cast<double>(bits);
    if (type.kind == 'u') return static_cast<double>(bits);
    const auto unused = 64 - 8 * static_cast<int>(type.width);
    return static_cast<double>(static_cast<std::int64_t>(bits << unused) >> unused);
  }

  std::string_view data_;
  Format format_;
  std::string_view where_;
  std::size_t at_ = 0;
  std::int64_t line_;
  std::size_t begin_;
};

/// Reads one element's items; the numbers that are no lists go to `keep`, if it is there.
void read_element(NumberReader& numbers, const Element& element, std::string_view where, std::vector<double>* keep) {
  if (element.properties.empty()) return;
  require(static_cast<std::uint64_t>(element.count) <= numbers.left(),
          "{}: {} items of '{}' announced, but only {} bytes are left", where, element.count, element.name,
          numbers.left());
  for (std::int64_t i = 0; i < element.count; ++i) {
    for (const Property& property : element.properties) {
      if (!property.length) {
        const double value = numbers.next(*property.type);
        if (keep) keep->push_back(value);
        continue;
      }
      const double length = numbers.next(*property.length);
      require(length >= 0 && length <= static_cast<double>(numbers.left()),
              "{}: item {} of '{}': a list of {:g} numbers, but only {} bytes are left", where, i, element.name, length,
              numbers.left());
      for (std::int64_t k = 0; k < static_cast<std::int64_t>(length); ++k) numbers.next(*property.type);
    }
  }
}

}  // namespace

PlyVertices parse_ply(std::span<const std::byte> file, std::string_view where) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  const Header header = HeaderReader(text, where).read();
  NumberReader numbers(text.substr(header.begin), header, where);
  for (const Element& element : header.elements) {
    PlyVertices vertices;
    const bool wanted = element.name == "vertex";
    read_element(numbers, element, where, wanted ? &vertices.values : nullptr);
    if (!wanted) continue;
    for (const Property& property : element.properties)
      if (!property.length) vertices.properties.push_back(property.name);
    require(!vertices.properties.empty(), "{}: its vertices have no numbers", where);
    vertices.count = element.count;
    return vertices;
  }
  fail_input("{}: it has no element 'vertex'", where);
}

PlyVertices read_ply(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_ply(file.bytes(), path.string());
}

}  // namespace unbend
