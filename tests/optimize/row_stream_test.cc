#include "unbend/optimize/row_stream.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/base/random.h"
#include "unbend/optimize/ftrl_file.h"

namespace unbend::optimize {
namespace {

struct Parsed {
  LineKind kind;
  std::string problem;
  Rows rows;
  std::vector<std::pair<std::uint32_t, double>> features() const {
    std::vector<std::pair<std::uint32_t, double>> all;
    for (std::size_t i = 0; i < rows[0].index.size(); ++i) all.emplace_back(rows[0].index[i], rows[0].value[i]);
    return all;
  }
};

Parsed parse(FormatOptions options, std::string_view line) {
  Parsed p;
  p.kind = RowParser(options).parse(line, p.rows, p.problem);
  return p;
}

using Features = std::vector<std::pair<std::uint32_t, double>>;

TEST(RowFormat, Libsvm) {
  FormatOptions o;
  o.features = 10;
  const auto row = parse(o, "+1 qid:3 1:.5  3:-2e1 1:2 # 4:5\r");
  ASSERT_EQ(row.kind, LineKind::Row);
  EXPECT_EQ(row.rows[0].label, 1);
  EXPECT_EQ(row.features(), (Features{{1, 2.5}, {3, -20}, {10, 1}}));
  o.constant = false;
  EXPECT_EQ(parse(o, "-1").features(), Features{});
  EXPECT_EQ(parse(o, "# nothing").kind, LineKind::Blank);
  EXPECT_EQ(parse(o, " \t").kind, LineKind::Blank);
  for (const auto& [line, part] :
       std::vector<std::pair<std::string, std::string>>{{"x 1:2", "label 'x'"},
                                                        {"1 1", "index:value"},
                                                        {"1 a:2", "column 3"},
                                                        {"1 1:nan", "finite"},
                                                        {"1 1:1e999", "finite"},
                                                        {"1 10:1", "not below 10"},
                                                        {"1 -1:1", "index:value"},
                                                        {"1 1:2x", "finite"},
                                                        {"1 99999999999999999999:1", "index:value"},
                                                        {"nan 1:1", "label"},
                                                        {"1:2", "label"}}) {
    const auto bad = parse(o, line);
    EXPECT_EQ(bad.kind, LineKind::Bad) << line;
    EXPECT_NE(bad.problem.find(part), std::string::npos) << bad.problem;
    EXPECT_EQ(bad.rows.size(), 0u);
    EXPECT_EQ(bad.rows.features(), 0u);
  }
  o.labelled = false;
  EXPECT_EQ(parse(o, "1:2 3:4").features(), (Features{{1, 2}, {3, 4}}));
  EXPECT_EQ(parse(o, "7 1:2").rows[0].label, 7);
}

TEST(RowFormat, VowpalWabbit) {
  FormatOptions o;
  o.format = RowFormat::Vw;
  o.bits = 20;
  o.constant = false;
  const std::uint32_t mask = (1u << 20) - 1, user = murmur3("user", 0), size = murmur3("size", 0);
  const auto row = parse(o, "-1 2.5 'tag|user age:25 male |size:2 12:3 |4 2");
  ASSERT_EQ(row.kind, LineKind::Row) << row.problem;
  EXPECT_EQ(row.rows[0].label, -1);
  EXPECT_EQ(row.rows[0].weight, 2.5);
  EXPECT_EQ(
      row.features(),
      (Features{
          {murmur3("age", user) & mask, 25}, {murmur3("male", user) & mask, 1}, {(12 + size) & mask, 6}, {6, 1}}));
  EXPECT_EQ(parse(o, "1 | 3:2").features(), (Features{{3, 2}}));
  EXPECT_EQ(parse(o, "1 2 tag| 3:2").rows[0].weight, 2);
  for (const auto& [line, part] : std::vector<std::pair<std::string, std::string>>{{"1 2 3", "no '|'"},
                                                                                   {"| a", "no label"},
                                                                                   {"x | a", "label 'x"},
                                                                                   {"1 -2 | a", "negative"},
                                                                                   {"1 1 .5 | a", "initial"},
                                                                                   {"1 | a:b", "value of 'a:b'"},
                                                                                   {"1 | a:inf", "finite"}}) {
    const auto bad = parse(o, line);
    EXPECT_EQ(bad.kind, LineKind::Bad) << line;
    EXPECT_NE(bad.problem.find(part), std::string::npos) << bad.problem;
  }
  o.labelled = false;
  EXPECT_EQ(parse(o, "| 3:2").kind, LineKind::Row);
}

TEST(RowFormat, MurmurOfItsAuthor) {  // the reference's values
  EXPECT_EQ(murmur3("", 0), 0u);
  EXPECT_EQ(murmur3("", 1), 0x514e28b7u);
  EXPECT_EQ(murmur3("test", 0), 0xba6bd213u);
  EXPECT_EQ(murmur3("Hello, world!", 0x9747b28c), 0x24884cbau);
}

TEST(RowFormat, Csv) {
  FormatOptions o;
  o.format = RowFormat::Csv;
  o.features = 2;
  EXPECT_EQ(parse(o, "1,2,3").features(), (Features{{0, 2}, {1, 3}, {2, 1}}));
  o.label_column = -1;
  EXPECT_EQ(parse(o, "1, 0 ,3").features(), (Features{{0, 1}, {2, 1}}));
  EXPECT_EQ(parse(o, "1,0,3").rows[0].label, 3);
  EXPECT_EQ(parse(o, "a,b,y").kind, LineKind::Blank);  // a heading
  for (const auto& [line, part] : std::vector<std::pair<std::string, std::string>>{
           {"1,2", "2 cells where 3"}, {"1,,3", "cell 2"}, {"1,2,x", "cell 3 'x'"}, {"1,nan,3", "finite"}}) {
    const auto bad = parse(o, line);
    EXPECT_EQ(bad.kind, LineKind::Bad) << line;
    EXPECT_NE(bad.problem.find(part), std::string::npos) << bad.problem;
  }
}

TEST(RowFormat, NumbersAreThoseOfTheLibrary) {
  Random random(1);
  FormatOptions o;
  o.features = 2;
  o.constant = false;
  for (int i = 0; i < 2000; ++i) {
    const double x = random.normal() * std::pow(10, static_cast<double>(random.below(40)) - 20);
    const std::string text = i % 2 ? fmt::format("{}", x) : fmt::format("{:.{}f}", x, random.below(12));
    const auto row = parse(o, "1 1:" + text);
    ASSERT_EQ(row.kind, LineKind::Row) << text;
    EXPECT_EQ(row.features()[0].second, std::strtod(text.c_str(), nullptr)) << text;
  }
}

class StreamTest : public ::testing::Test {
 protected:
  std::string file(const std::string& text) {
    const auto path = folder_.path() / "rows";
    write_file(path, text);
    return path.string();
  }
  TemporaryFolder folder_;
  FormatOptions format_;
};

std::string many_lines(int count) {
  std::string text;
  Random random(3);
  for (int i = 0; i < count; ++i) {
    text += random.below(2) ? "1" : "-1";
    for (int j = 0; j < 12; ++j) text += fmt::format(" {}:{:.3f}", random.below(5000), random.normal());
    text += "\n";
  }
  return text;
}

TEST_F(StreamTest, LearningResumesToTheSameBits) {
  const std::string path = file(many_lines(9000)), model = (folder_.path() / "model").string();
  FtrlOptions o;
  o.schedule = Schedule::Adagrad;
  format_.bits = 13;
  Ftrl whole(o, format_.dimension());
  RowStream all(path, format_);
  const auto result = learn_stream(whole, all, {});
  EXPECT_EQ(whole.rows(), 9000);
  EXPECT_EQ(result.position.lines, 9000);
  EXPECT_EQ(result.position.bytes, static_cast<std::int64_t>(std::filesystem::file_size(path)));

  // Saved in the middle, by chance in the middle of a batch.
  {
    Ftrl first(o, format_.dimension());
    RowStream stream(path, format_);
    int saves = 0;
    learn_stream(first, stream, {false, 2345, [&](StreamPosition p) {
                                   if (saves++ == 0) save_ftrl(model, first, format_, p);
                                 }});
    EXPECT_EQ(saves, 3);
  }
  FtrlModel resumed = load_ftrl(model);
  EXPECT_EQ(resumed.learner.rows(), 2345);
  RowStream rest(path, resumed.format, resumed.position);
  learn_stream(resumed.learner, rest, {});
  EXPECT_EQ(resumed.learner.numbers(), whole.numbers());
}

TEST_F(StreamTest, BadLinesStopOrArePassedOver) {
  const std::string path = file("1 1:1\n1 1:2\n5 1:1\n\n1 x:1\n-1 2:1");
  FtrlOptions o;
  {
    Ftrl learner(o, format_.dimension());
    RowStream stream(path, format_);
    const auto result = learn_stream(learner, stream, {});
    EXPECT_TRUE(result.stopped);
    EXPECT_EQ(result.first_bad.line, 3);
    EXPECT_NE(result.first_bad.problem.find("label 5"), std::string::npos) << result.first_bad.problem;
    EXPECT_EQ(learner.rows(), 2);
    EXPECT_EQ(result.position.lines, 2);
  }
  Ftrl learner(o, format_.dimension());
  RowStream stream(path, format_);
  const auto result = learn_stream(learner, stream, {.skip_bad = true});
  EXPECT_EQ(result.bad, 2);
  EXPECT_EQ(result.first_bad.line, 3);
  EXPECT_EQ(learner.rows(), 3);
  EXPECT_EQ(result.position.lines, 6);
  EXPECT_THROW(RowStream("no/such/file", format_), Error);
}

TEST_F(StreamTest, AReadErrorLosesNothing) {
  std::string text = "1 1:1\n";
  text.resize((70 << 20), ' ');  // a line that is too long
  Ftrl learner({}, format_.dimension());
  RowStream stream(file(text), format_);
  const auto result = learn_stream(learner, stream, {});
  EXPECT_NE(result.failure.find("line 2 is longer than 64 MiB"), std::string::npos) << result.failure;
  EXPECT_EQ(learner.rows(), 1);
  EXPECT_EQ(result.position.lines, 1);
}

TEST_F(StreamTest, CsvTellsItsWidth) {
  format_.format = RowFormat::Csv;
  RowStream stream(file("a,b,label\n1,2,1\n"), format_);
  EXPECT_EQ(stream.format().features, 2);
  RowBatch* batch = stream.next();
  ASSERT_NE(batch, nullptr);
  EXPECT_EQ(batch->rows.size(), 1u);
  EXPECT_THROW(RowStream(file("\n"), format_), Error);
}

TEST_F(StreamTest, GoesOnBetweenLinesOnly) {
  std::string path = file("1 1:1\n1 1:2\n-1 2:1");
  const auto says = [&](std::int64_t bytes, std::int64_t lines) {
    return error_message([&] { RowStream(path, format_, {bytes, lines}); });
  };
  EXPECT_EQ(says(6, 1), "no error");
  EXPECT_EQ(says(18, 3), "no error");  // the end
  EXPECT_NE(says(7, 1).find("byte 7, behind its line 1, is inside a line"), std::string::npos) << says(7, 1);
  EXPECT_NE(says(19, 3).find("it ends at byte 18, before byte 19"), std::string::npos) << says(19, 3);
  path = file("1 1:1\n1 1:2\n-1 2:1\n1 3:1\n");  // it has grown: the last line lacked its end
  EXPECT_EQ(says(18, 3), "no error");
  path = file("1 1:1\n1 1:2\n-1 2:15\n");  // the last line was not whole
  EXPECT_NE(says(18, 3), "no error");
}

TEST_F(StreamTest, AHeadingIsOnlyAtTheStart) {
  format_.format = RowFormat::Csv;
  const std::string path = file("label,a,b\n1,1,2\nx,y,z\n");
  const std::int64_t first = 10, second = first + 6;
  RowStream whole(path, format_), rest(path, whole.format(), {second, 2});
  EXPECT_EQ(whole.next()->bad.size(), 1u);
  RowBatch* batch = rest.next();
  ASSERT_NE(batch, nullptr);
  ASSERT_EQ(batch->bad.size(), 1u);
  EXPECT_EQ(batch->bad[0].line, 3);
}

TEST_F(StreamTest, DamagedModelsAreRefused) {
  FtrlOptions o;
  o.rates = {.1, 1};
  format_.features = 3;
  Ftrl learner(o, format_.dimension());
  const auto path = folder_.path() / "model";
  save_ftrl(path, learner, format_, {});
  const std::string good = read_file(path);
  const auto refused = [&](std::string bytes) {
    return error_message([&] { parse_ftrl(std::as_bytes(std::span(bytes)), "it"); });
  };
  EXPECT_NE(refused(good.substr(0, good.size() - 8)), "no error");
  const auto changed = [&](std::string_view from, std::string_view to) {
    std::string bytes = good;
    bytes.replace(bytes.find(from), from.size(), to);
    return bytes;
  };
  EXPECT_NE(refused(changed("dimension\\\":4", "dimension\\\":9")), "no error");
  EXPECT_NE(refused(changed("logistic", "logistix")), "no error");
  EXPECT_NE(refused(changed("unbend.imp", "unbend.exp")), "no error");
  std::string nan = good;
  const double value = NAN;
  nan.replace(nan.size() - 8, 8, reinterpret_cast<const char*>(&value), 8);
  EXPECT_NE(refused(nan).find("nan"), std::string::npos);
  o.loss.kind = LossKind::User;
  o.loss.value = o.loss.slope = [](double s, double) { return s; };
  EXPECT_THROW(save_ftrl(path, Ftrl(o, 4), format_, {}), Error);
}

}  // namespace
}  // namespace unbend::optimize
