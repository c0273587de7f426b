#include "unbend/lm/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/random.h"

namespace unbend::lm {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

TEST(Html, KeepsWhatAReaderSees) {
  EXPECT_EQ(html_to_text("<p>One  <b>two</b>\n three.<p>Four&nbsp;&amp; five &#233;.</p>"),
            "One two three.\n\nFour & five \xc3\xa9.");
  EXPECT_EQ(html_to_text("<html><head><title>T</title><style>p{}</style></head><body><script>if (a < b) x()</script>"
                         "<nav><a>Next</a></nav><div role='navigation'>menu <div>deep</div></div><h1>Title"
                         "<a class='x headerlink'>P</a></h1>text<div class='navfooter'><p>Prev</div></body>"),
            "Title\n\ntext");
  EXPECT_EQ(html_to_text("a<br>b<br/>c<ul><li>one<li><p>two</p></li></ul>d"), "a\nb\nc\n\n- one\n- two\n\nd");
  EXPECT_EQ(html_to_text("<pre>\n  if x:\n\ty\n\n</pre>after"), "  if x:\n\ty\n\nafter");
  EXPECT_EQ(html_to_text("<table><tr><td>a<td>b</tr><tr><td>c</table>"), "a b\nc");
  EXPECT_EQ(html_to_text("<p>in</p><script>never closed <p>x</p>"), "in");
  EXPECT_EQ(html_to_text(""), "");
  EXPECT_EQ(html_to_text("<img src=x>"), "");
}

TEST(Html, Encodings) {
  EXPECT_EQ(html_to_text("<p>\xc3\xa9\xc2\xa7</p>"), "\xc3\xa9\xc2\xa7");
  EXPECT_EQ(html_to_text("<meta charset='iso-8859-1'><p>caf\xe9</p>"), "caf\xc3\xa9");
}

TEST(Html, AnyBytesAndDepthsAreAccepted) {
  std::string deep;
  for (int i = 0; i < 50'000; ++i) deep += "<div><b>";
  EXPECT_EQ(html_to_text(deep + "x"), "x");
  Random random(1);
  const std::string alphabet = "<>/!-&;#x='\" pdivscrt\n\xc2\xa0\xff";
  for (int i = 0; i < 300; ++i) {
    std::string html;
    for (int k = 0; k < 300; ++k) html += alphabet[random.below(alphabet.size())];
    EXPECT_EQ(first_invalid_utf8(html_to_text(html)), std::string::npos);
  }
}

TEST(Text, Normalized) {
  EXPECT_EQ(normalize_text("\xef\xbb\xbf\n\n a  b \r\n\r\n\r\n\r\nc\rd\n\n"), " a  b\n\nc\nd");
  EXPECT_EQ(normalize_text(" \n\t\n"), "");
}

TEST(Text, Utf8) {
  EXPECT_EQ(first_invalid_utf8("ascii \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"), std::string::npos);
  for (const std::string bad :
       {"\x80", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\xc3"})
    EXPECT_EQ(first_invalid_utf8("ab" + bad), 2);
}

class ReadTexts : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_ / "b" / "c"); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string error(const fs::path& path) {
    const auto message = error_message([&] { read_texts({path}); });
    EXPECT_THAT(message, AnyOf("no error", HasSubstr(path.string())));
    return message;
  }

  const fs::path folder_ = fs::temp_directory_path() / fmt::format("unbend_text_{}", ::getpid());
};

TEST_F(ReadTexts, FoldersInOrderAndEachFileOnce) {
  write_file(folder_ / "b" / "2.md", "two");
  write_file(folder_ / "b" / "c" / "3.HTML.gz", gzip("<p>thr") + gzip("ee</p>"));
  write_file(folder_ / "1.txt", "one");
  write_file(folder_ / "b" / "frame.html", "<img>");
  write_file(folder_ / "picture.png", std::string("\0\1", 2));
  fs::create_symlink(folder_ / "1.txt", folder_ / "z.txt");
  fs::create_directory_symlink(folder_, folder_ / "b" / "loop");
  const auto texts = read_texts({folder_, folder_ / "1.txt"});
  ASSERT_EQ(texts.size(), 3);
  EXPECT_EQ(texts[0].text, "one");
  EXPECT_EQ(texts[1].text, "two");
  EXPECT_EQ(texts[2].text, "three");
  EXPECT_EQ(texts[2].source, (folder_ / "b" / "c" / "3.HTML.gz").string());
  write_file(folder_ / "letter", "a name without extension");
  EXPECT_EQ(read_texts({folder_ / "letter"})[0].text, "a name without extension");
}

TEST_F(ReadTexts, BadInputIsNamed) {
  EXPECT_THAT(error(folder_ / "absent.txt"), HasSubstr("No such file"));
  EXPECT_THAT(error(folder_ / "b"), HasSubstr("no text"));
  write_file(folder_ / "e.txt", "");
  EXPECT_THAT(error(folder_ / "e.txt"), HasSubstr("no text"));
  write_file(folder_ / "w.html", "<p> </p>");
  EXPECT_THAT(error(folder_ / "w.html"), HasSubstr("no text"));
  write_file(folder_ / "n.txt", std::string("ab\0c", 4));
  EXPECT_THAT(error(folder_ / "n.txt"), HasSubstr("NUL byte at offset 2"));
  write_file(folder_ / "l.txt", "caf\xe9");
  EXPECT_THAT(error(folder_ / "l.txt"), HasSubstr("not UTF-8 text (offset 3)"));
  auto packed = gzip("some text");
  write_file(folder_ / "t.txt.gz", packed.substr(0, packed.size() - 3));
  EXPECT_THAT(error(folder_ / "t.txt.gz"), HasSubstr("gzip"));
  packed[12] ^= 0x55;
  write_file(folder_ / "d.txt.gz", packed);
  EXPECT_THAT(error(folder_ / "d.txt.gz"), HasSubstr("gzip"));
  EXPECT_THROW(read_texts({}), Error);
}

}  // namespace
}  // namespace unbend::lm
