// The three string functions of llama.cpp's common library that its schema converter needs; the library itself stays
// out.
#include <common.h>

std::string string_join(const std::vector<std::string>& values, const std::string& separator) {
  std::string joined;
  for (std::size_t i = 0; i < values.size(); ++i) joined += (i > 0 ? separator : "") + values[i];
  return joined;
}

std::vector<std::string> string_split(const std::string& text, const std::string& delimiter) {
  std::vector<std::string> parts;
  std::size_t start = 0;
  for (std::size_t end; (end = text.find(delimiter, start)) != std::string::npos; start = end + delimiter.size())
    parts.push_back(text.substr(start, end - start));
  parts.push_back(text.substr(start));
  return parts;
}

std::string string_repeat(const std::string& text, std::size_t n) {
  std::string repeated;
  while (n-- > 0) repeated += text;
  return repeated;
}
