// Values of the gated scan: worked example, equality of the forms, grouping, streaming, bad input.
#include <gmock/gmock.h>

#include "tests/attention/gated_scan_cases.h"
#include "unbend/attention/gated_scan_naive.h"
#include "unbend/base/error.h"

namespace unbend::test {
namespace {

at::Tensor rows(std::vector<double> values, int64_t width) {
  return at::tensor(values, at::kDouble).view({1, 1, -1, width});
}

// liger.md, oracle 6.
TEST(GatedScan, WorkedExample) {
  for (const Form form : {Form::Parallel, Form::Chunked, Form::Recurrent}) {
    const Scan scan = gated_scan(rows({1, 0, 1, 1, 2, 1}, 2), rows({1, 2, 0, 1, 1, 1}, 2), rows({1, 2, 3}, 1),
                                 rows({.5, .5, .5, .25, .8, .5}, 2).log(), {}, {.form = form});
    EXPECT_LT(distance(scan.out, rows({1, 3, 11.05}, 1)), 1e-14);
    EXPECT_LT(distance(scan.state, rows({3.4, 4.25}, 1)), 1e-14);
  }
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    for (const int64_t length : {0, 1, 2, 15, 16, 17, 70, 133}) {
      list.push_back({.decay = decay,
                      .batch = 2,
                      .heads = 6,
                      .kv_heads = 2,
                      .length = length,
                      .dk = 8,
                      .dv = 5,
                      .seed = uint64_t(length)});
    }
    for (const double constant : {0.0, -1e-3, -50.0, -std::numeric_limits<double>::infinity()}) {
      list.push_back({.decay = decay, .heads = 2, .kv_heads = 2, .length = 67, .dk = 5, .dv = 9, .constant = constant});
    }
    for (const int64_t width : {1, 16, 33, 64, 128}) {
      list.push_back({.decay = decay, .heads = 3, .length = 50, .dk = width, .dv = width + 1, .initial = false});
    }
  }
  return list;
}

TEST(GatedScan, EveryChunkEqualsTheTokenLoop) {
  for (Case c : cases()) {
    for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
      const double tolerance = type == at::kDouble ? 1e-12 : 1e-4;
      c.type = at::kDouble;
      Inputs x = make_inputs(c);
      const at::Tensor zero = at::zeros({c.batch, c.kv_heads, c.dk, c.dv}, at::kDouble);
      const Scan loop = naive::recurrent_scan(x[0], x[1], x[2], x[3], c.initial ? x[4] : zero, c.axis());
      c.type = type;
      x = make_inputs(c);
      const Scan recurrent = run(c, x, Form::Recurrent);
      EXPECT_LT(distance(recurrent.out, loop.out), tolerance) << c.name();
      EXPECT_LT(distance(recurrent.state, loop.state), tolerance) << c.name();
      for (const int64_t chunk : {int64_t(1), int64_t(8), int64_t(16), int64_t(64), std::max<int64_t>(c.length, 1)}) {
        const Scan scan = run(c, x, Form::Chunked, chunk);
        EXPECT_LT(distance(scan.out, loop.out), tolerance) << c.name() << " chunk " << chunk;
        EXPECT_LT(distance(scan.state, loop.state), tolerance) << c.name() << " chunk " << chunk;
      }
      const Scan parallel = run(c, x, Form::Parallel);
      EXPECT_LT(distance(parallel.out, loop.out), tolerance) << c.name();
      EXPECT_LT(distance(parallel.state, loop.state), tolerance) << c.name();
    }
  }
}

TEST(GatedScan, ForgettingEverythingInTheMiddleCutsTheSequence) {
  for (const Decay decay : {Decay::Scalar, Decay::Key, Decay::Value}) {
    const Case c = {.decay = decay, .length = 40, .dk = 6, .dv = 5};
    Inputs x = make_inputs(c);
    x[3].select(2, 21).fill_(-std::numeric_limits<double>::infinity());
    Inputs tail = {};
    for (int i = 0; i < 4; ++i) tail.push_back(x[i].slice(2, 21));
    tail.push_back({});
    for (const Form form : {Form::Parallel, Form::Chunked, Form::Recurrent}) {
      const Scan whole = run(c, x, form), cut = run(c, tail, form);
      EXPECT_LT(distance(whole.out.slice(2, 21), cut.out), 1e-12);
      EXPECT_LT(distance(whole.state, cut.state), 1e-12);
    }
  }
}

TEST(GatedScan, OneStatePerKvHeadServesItsQueryHeads) {
  const Case c = {.batch = 2, .heads = 6, .kv_heads = 2, .length = 37, .dk = 8, .dv = 9};
  const Inputs x = make_inputs(c);
  Inputs repeated = x;
  for (int i = 1; i < 5; ++i) repeated[i] = x[i].repeat_interleave(3, 1);
  for (const Form form : {Form::Parallel, Form::Chunked, Form::Recurrent}) {
    EXPECT_LT(distance(run(c, x, form).out, run(c, repeated, form).out), 1e-13);
  }
}

TEST(GatedScan, StreamingEqualsOnePass) {
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    const Case c = {.decay = decay, .heads = 4, .kv_heads = 2, .length = 120, .dk = 16, .dv = 17};
    const Inputs x = make_inputs(c);
    const Scan whole = run(c, x, Form::Chunked);
    at::Tensor state = x[4];
    std::vector<at::Tensor> out;
    const auto feed = [&](int64_t begin, int64_t end, Form form) {
      const auto part = [&](const at::Tensor& t) { return t.defined() ? t.slice(2, begin, end) : t; };
      const Scan scan = run({part(x[0]), part(x[1]), part(x[2]), part(x[3]), state}, {.form = form, .axis = c.axis()});
      out.push_back(scan.out);
      state = scan.state;
    };
    feed(0, 63, Form::Chunked);
    feed(63, 100, Form::Chunked);
    for (int64_t t = 100; t < 110; ++t) feed(t, t + 1, Form::Recurrent);
    for (int64_t t = 110; t < 120; ++t) feed(t, t + 1, Form::Chunked);
    EXPECT_LT(distance(at::cat(out, 2), whole.out), 1e-12);
    EXPECT_LT(distance(state, whole.state), 1e-12);
  }
}

TEST(GatedScan, TakesStridedAndBfloat16Tensors) {
  const Case c = {.batch = 2, .heads = 4, .kv_heads = 2, .length = 33, .dk = 16, .dv = 8, .type = at::kFloat};
  const Inputs x = make_inputs(c);
  const Scan plain = run(c, x, Form::Chunked);
  Inputs strided, half;
  for (const at::Tensor& t : x) {
    strided.push_back(t.transpose(1, 2).contiguous().transpose(1, 2));
    half.push_back(t.to(at::kBFloat16));
  }
  EXPECT_EQ(distance(run(c, strided, Form::Chunked).out, plain.out), 0);
  const Scan rounded = run(c, half, Form::Chunked);
  EXPECT_EQ(rounded.out.scalar_type(), at::kBFloat16);
  EXPECT_EQ(rounded.state.scalar_type(), at::kFloat);
  EXPECT_LT(distance(rounded.out.to(at::kFloat), plain.out), 0.05);
}

TEST(GatedScan, BadInputNamesArgumentAndShapes) {
  const Case c = {.heads = 4, .kv_heads = 2, .length = 5, .dk = 4, .dv = 3};
  const auto message = [&](int index, const at::Tensor& replacement) -> std::string {
    Inputs x = make_inputs(c);
    x[index] = replacement;
    try {
      run(c, x, Form::Chunked);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  using testing::HasSubstr;
  const auto zeros = [](at::IntArrayRef shape) { return at::zeros(shape, at::kDouble); };
  EXPECT_THAT(message(0, {}), HasSubstr("q must be"));
  EXPECT_THAT(message(0, zeros({1, 4, 5})), HasSubstr("[1, 4, 5]"));
  EXPECT_THAT(message(0, zeros({1, 4, 5, 7})), HasSubstr("q [1, 4, 5, 7] and k [1, 2, 5, 4]"));
  EXPECT_THAT(message(0, zeros({1, 3, 5, 4})), HasSubstr("3 heads"));
  EXPECT_THAT(message(1, zeros({1, 2, 6, 4})), HasSubstr("k [1, 2, 6, 4]"));
  EXPECT_THAT(message(2, zeros({1, 2, 6, 3})), HasSubstr("v [1, 2, 6, 3]"));
  EXPECT_THAT(message(3, zeros({1, 2, 5, 3})), HasSubstr("key axis), got [1, 2, 5, 3]"));
  EXPECT_THAT(message(4, zeros({1, 2, 3, 4})), HasSubstr("initial_state must be [1, 2, 4, 3], got [1, 2, 3, 4]"));
  EXPECT_THAT(message(3, zeros({1, 2, 5, 4}) + .1), HasSubstr("positive or NaN"));
  EXPECT_THAT(message(3, zeros({1, 2, 5, 4}) / 0), HasSubstr("positive or NaN"));
  EXPECT_THAT(message(0, at::zeros({1, 4, 5, 4}, at::kLong)), HasSubstr("floating point"));
  EXPECT_THROW(run(make_inputs(c), {.chunk = 0}), Error);
}

}  // namespace
}  // namespace unbend::test
