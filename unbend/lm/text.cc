#include "unbend/lm/text.h"

#include <libxml/HTMLparser.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <memory>
#include <set>

#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend::lm {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostText = std::size_t{1} << 30;

bool contains(std::span<const std::string_view> words, std::string_view word) {
  return std::ranges::find(words, word) != words.end();
}

constexpr std::string_view kHidden[] = {"script", "style",  "head",   "nav",    "noscript", "template", "svg", "form",
                                        "select", "button", "iframe", "object", "textarea", "canvas",   "map"};
constexpr std::string_view kHiddenClasses[] = {"navheader", "navfooter", "toc",        "docnav",
                                               "related",   "footer",    "headerlink", "sphinxsidebar"};
constexpr std::string_view kParagraphs[] = {"p",  "h1",  "h2",         "h3",      "h4",     "h5",
                                            "h6", "pre", "blockquote", "table",   "ul",     "ol",
                                            "dl", "hr",  "section",    "article", "figure", "main"};
constexpr std::string_view kLines[] = {"address", "aside", "body",    "br",       "center",     "dd",
                                       "details", "div",   "dt",      "fieldset", "figcaption", "footer",
                                       "header",  "li",    "summary", "tr",       "caption",    "title"};

bool hides(std::string_view name, const xmlChar** attributes) {
  if (contains(kHidden, name)) return true;
  for (; attributes && attributes[0]; attributes += 2) {
    if (!attributes[1]) continue;
    const std::string_view key(reinterpret_cast<const char*>(attributes[0])),
        value(reinterpret_cast<const char*>(attributes[1]));
    if (key == "role" && value == "navigation") return true;
    if (key == "hidden") return true;
    if (key != "class") continue;
    for (std::size_t at = 0; at < value.size();) {
      const auto end = std::min(value.find(' ', at), value.size());
      if (contains(kHiddenClasses, value.substr(at, end - at))) return true;
      at = end + 1;
    }
  }
  return false;
}

// Receives the parser's events; there is no tree, so that no nesting is too deep.
class HtmlReader {
 public:
  void start(std::string_view name, const xmlChar** attributes) {
    ++depth_;
    if (hidden_from_) return;
    if (hides(name, attributes)) hidden_from_ = depth_;
    separate(name);
    if (name == "pre") ++preformatted_;
    if (name == "li") write("- ");
  }

  void end(std::string_view name) {
    if (!hidden_from_) {
      if (name == "pre" && preformatted_ > 0) --preformatted_;
      separate(name);
    }
    if (hidden_from_ == depth_) hidden_from_ = 0;
    --depth_;
  }

  void text(std::string_view text) {
    if (hidden_from_) return;
    while (!text.empty()) {
      const auto space = space_at(text);
      if (space == 0) {
        auto end = text.begin();
        while (end != text.end() && *end != ' ' && *end != '\n' && *end != '\t' && *end != '\r' && *end != '\xc2')
          ++end;
        if (end == text.begin()) ++end;  // a lone C2 that starts another character
        write({text.begin(), end});
        text.remove_prefix(end - text.begin());
        continue;
      }
      if (preformatted_ > 0 && text[0] == '\n') {
        out_ += '\n';
        gap_ = false;
      } else if (preformatted_ > 0 && text[0] != '\r') {
        flush();
        out_ += text[0] == '\t' ? '\t' : ' ';
      } else {
        gap_ = true;
      }
      text.remove_prefix(space);
    }
  }

  std::string take() { return normalize_text(out_); }

 private:
  // Length of the white-space character at the start: also the no-break space, C2 A0.
  static std::size_t space_at(std::string_view text) {
    if (text[0] == ' ' || text[0] == '\n' || text[0] == '\t' || text[0] == '\r') return 1;
    return text.starts_with("\xc2\xa0") ? 2 : 0;
  }

  void separate(std::string_view name) {
    if (contains(kParagraphs, name)) breaks_ = 2;
    if (contains(kLines, name)) breaks_ = std::max(breaks_, 1);
    if (name == "td" || name == "th") gap_ = true;
  }

  void flush() {
    if (breaks_ > 0) {
      if (!out_.empty() && !out_.ends_with("- ")) out_.append(breaks_, '\n');
    } else if (gap_ && !out_.empty() && out_.back() != '\n' && out_.back() != ' ') {
      out_ += ' ';
    }
    breaks_ = 0;
    gap_ = false;
  }

  void write(std::string_view text) {
    flush();
    out_ += text;
  }

  std::string out_;
  int depth_ = 0, hidden_from_ = 0, preformatted_ = 0;
  int breaks_ = 0;    // line ends due before the next text
  bool gap_ = false;  // a space is due
};

htmlSAXHandler sax_handler() {
  htmlSAXHandler handler{};
  handler.startElement = [](void* reader, const xmlChar* name, const xmlChar** attributes) {
    static_cast<HtmlReader*>(reader)->start(reinterpret_cast<const char*>(name), attributes);
  };
  handler.endElement = [](void* reader, const xmlChar* name) {
    static_cast<HtmlReader*>(reader)->end(reinterpret_cast<const char*>(name));
  };
  handler.characters = handler.ignorableWhitespace =
      handler.cdataBlock = [](void* reader, const xmlChar* text, int size) {
        static_cast<HtmlReader*>(reader)->text({reinterpret_cast<const char*>(text), static_cast<std::size_t>(size)});
      };
  return handler;
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_gzip(const fs::path& path) { return lower(path.extension().string()) == ".gz"; }

std::string kind(const fs::path& path) { return lower((is_gzip(path) ? path.stem() : path).extension().string()); }

bool is_html(const fs::path& path) { return kind(path) == ".html" || kind(path) == ".htm" || kind(path) == ".xhtml"; }

bool is_text_name(const fs::path& path) { return is_html(path) || kind(path) == ".txt" || kind(path) == ".md"; }

std::string read_text(const fs::path& path) {
  const auto name = path.string();
  auto bytes = read_file(path);
  if (is_gzip(path)) bytes = gunzip(bytes, name);
  require(bytes.size() <= kMostText, "{}: more than 1 GiB in one text: split it", name);
  const auto nul = bytes.find('\0');
  require(nul == std::string::npos, "{}: binary file (a NUL byte at offset {}), expected text", name, nul);
  if (is_html(path)) return html_to_text(bytes);
  const auto invalid = first_invalid_utf8(bytes);
  require(invalid == std::string::npos, "{}: not UTF-8 text (offset {}): convert it, for example with iconv", name,
          invalid);
  return normalize_text(bytes);
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  try {
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      if (entry.is_regular_file() && is_text_name(entry.path())) files.push_back(entry.path());
  } catch (const fs::filesystem_error& error) {
    fail_input("cannot read the folder {}: {}", folder.string(), error.code().message());
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace

std::size_t first_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = [&](std::size_t at) -> unsigned {
      return at < text.size() ? static_cast<unsigned char>(text[at]) : 0;
    };
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    // The second byte's range excludes overlong forms, surrogates and code points above 10FFFF (Unicode 15, table 3-7).
    const std::size_t size = lead >= 0xc2 && lead <= 0xdf   ? 2
                             : lead >= 0xe0 && lead <= 0xef ? 3
                             : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                            : 0;
    if (size == 0) return i;
    const unsigned least = lead == 0xe0   ? 0xa0
                           : lead == 0xf0 ? 0x90
                                          : 0x80,
                   most = lead == 0xed   ? 0x9f
                          : lead == 0xf4 ? 0x8f
                                         : 0xbf;
    if (byte(i + 1) < least || byte(i + 1) > most) return i;
    for (std::size_t k = 2; k < size; ++k)
      if ((byte(i + k) & 0xc0) != 0x80) return i;
    i += size;
  }
  return std::string_view::npos;
}

std::string normalize_text(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  std::string out;
  int ends = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find_first_of("\r\n", at), text.size());
    auto line = text.substr(at, end - at);
    at = end + (text.substr(end).starts_with("\r\n") ? 2 : 1);
    line = line.substr(0, line.find_last_not_of(" \t\f\v") + 1);
    if (line.empty()) {
      ++ends;
      continue;
    }
    if (!out.empty()) out.append(std::min(ends, 1) + 1, '\n');
    out += line;
    ends = 0;
  }
  return out;
}

std::string gunzip(std::string_view bytes, std::string_view where) {
  std::string out;
  const auto piece = std::make_unique<std::array<char, 1 << 16>>();
  while (!bytes.empty()) {  // one round per member
    z_stream stream{};
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) fail_computation("{}: zlib cannot start", where);
    const std::unique_ptr<z_stream, int (*)(z_stream*)> ending(&stream, inflateEnd);
    int status = Z_OK;
    while (status == Z_OK) {
      if (stream.avail_in == 0) {
        stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
        stream.avail_in = static_cast<uInt>(std::min<std::size_t>(bytes.size(), 1 << 30));
        bytes.remove_prefix(stream.avail_in);
      }
      stream.next_out = reinterpret_cast<Bytef*>(piece->data());
      stream.avail_out = piece->size();
      status = inflate(&stream, Z_NO_FLUSH);
      out.append(piece->data(), piece->size() - stream.avail_out);
      require(out.size() <= kMostText, "{}: more than 1 GiB of text in one gzip file", where);
    }
    require(status == Z_STREAM_END, "{}: damaged or truncated gzip file ({})", where,
            stream.msg ? stream.msg : "it ends too early");
    bytes = {bytes.data() - stream.avail_in, bytes.size() + stream.avail_in};
  }
  return out;
}

std::string html_to_text(std::string_view html) {
  static const bool initialized = (xmlInitParser(), true);  // libxml2's own tables; thread-safe from here on
  static_cast<void>(initialized);
  if (html.empty()) return {};
  const std::unique_ptr<htmlParserCtxt, void (*)(htmlParserCtxt*)> parser(htmlNewParserCtxt(), htmlFreeParserCtxt);
  if (!parser) throw std::bad_alloc();
  HtmlReader reader;
  *parser->sax = sax_handler();
  parser->userData = &reader;
  const bool utf8 = first_invalid_utf8(html) == std::string_view::npos;
  const int options = HTML_PARSE_RECOVER | HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING | HTML_PARSE_NONET |
                      static_cast<int>(XML_PARSE_HUGE);
  const auto* tree = htmlCtxtReadMemory(parser.get(), html.data(), static_cast<int>(html.size()), nullptr,
                                        utf8 ? "UTF-8" : nullptr, options);
  static_cast<void>(tree);  // our handler builds none
  return reader.take();
}

std::vector<Text> read_texts(const std::vector<fs::path>& inputs) {
  require(!inputs.empty(), "no text files or folders were given");
  std::vector<Text> texts;
  std::set<fs::path> seen;
  for (const auto& input : inputs) {
    std::error_code missing;
    if (!fs::is_directory(input, missing)) {
      auto text = read_text(input);
      require(!text.empty(), "{}: there is no text in it", input.string());
      if (seen.insert(fs::canonical(input)).second) texts.push_back({input.string(), std::move(text)});
      continue;
    }
    const auto files = files_in(input);
    bool any = false;
    for (const auto& file : files) {
      auto text = read_text(file);
      any |= !text.empty();
      if (!text.empty() && seen.insert(fs::canonical(file)).second) texts.push_back({file.string(), std::move(text)});
    }
    require(any, "{}: the folder has no text in .txt, .md, .html, .htm or .xhtml files", input.string());
  }
  return texts;
}

}  // namespace unbend::lm
