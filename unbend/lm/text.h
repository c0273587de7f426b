// Readable text out of the files that people have: plain text, Markdown, HTML, each perhaps gzipped.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace unbend::lm {

/// One document: the contents of one file.
struct Text {
  std::string source;  ///< the path, as it was given or found
  std::string text;    ///< UTF-8, never empty
};

/// Reads files, and folders recursively in the order of their names. In folders only .txt, .md, .html, .htm and .xhtml
/// (and the same with .gz) count, each file once whatever links lead to it, and files that hold no text once their
/// markup is gone are passed over. HTML goes through html_to_text(), everything else through normalize_text(). Input
/// error naming the file: missing, unreadable, binary, not UTF-8, damaged gzip; a named file or a folder without text.
std::vector<Text> read_texts(const std::vector<std::filesystem::path>& inputs);

/// The text that a reader sees, by libxml2's HTML parser: scripts, styles, forms and navigation (also that of Sphinx
/// and DocBook pages) removed, block elements on their own lines with a blank line around paragraphs, white space
/// collapsed except in <pre>. Any bytes are accepted; the encoding is UTF-8 if they are valid in it, otherwise the
/// declared one.
std::string html_to_text(std::string_view html);

/// Line ends become \n, spaces before them and more than one blank line in a row go away.
std::string normalize_text(std::string_view text);

/// Inflates gzip (several members too) up to 1 GiB. Input error that starts with `where`.
std::string gunzip(std::string_view bytes, std::string_view where);

/// Offset of the first byte that is not UTF-8; npos if there is none.
std::size_t first_invalid_utf8(std::string_view text);

}  // namespace unbend::lm
