// One description of a gated scan's test case: serves values, gradients and tangents.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "unbend/attention/gated_scan.h"

namespace unbend::test {

enum class Decay { None, Scalar, Key, Value };

struct Case {
  Decay decay = Decay::Key;
  int64_t batch = 1, heads = 1, kv_heads = 1, length = 10, dk = 4, dv = 3;
  bool initial = true;
  std::optional<double> constant = std::nullopt;  ///< log decay of every entry; random otherwise
  at::ScalarType type = at::kDouble;
  uint64_t seed = 1;

  std::string name() const {
    return fmt::format("decay {} B {} H {} Hkv {} T {} dk {} dv {} initial {} constant {} {}", int(decay), batch, heads,
                       kv_heads, length, dk, dv, initial, constant.value_or(1), at::toString(type));
  }
  DecayAxis axis() const { return decay == Decay::Value ? DecayAxis::Value : DecayAxis::Key; }
};

/// q, k, v, log_decay, initial_state; the last two may be undefined.
using Inputs = std::vector<at::Tensor>;

inline Inputs make_inputs(const Case& c) {
  at::Generator random = at::detail::createCPUGenerator(c.seed);
  const auto normal = [&](at::IntArrayRef shape) { return at::randn(shape, random, at::kDouble); };
  Inputs x = {normal({c.batch, c.heads, c.length, c.dk}),
              normal({c.batch, c.kv_heads, c.length, c.dk}),
              normal({c.batch, c.kv_heads, c.length, c.dv}),
              {},
              {}};
  if (c.decay != Decay::None) {
    const int64_t width = c.decay == Decay::Scalar ? 1 : c.decay == Decay::Key ? c.dk : c.dv;
    const std::vector<int64_t> shape = {c.batch, c.kv_heads, c.length, width};
    x[3] = c.constant ? at::full(shape, *c.constant, at::kDouble) : -normal(shape).exp() * 0.3;
  }
  if (c.initial) x[4] = normal({c.batch, c.kv_heads, c.dk, c.dv});
  for (at::Tensor& t : x) {
    if (t.defined()) t = t.to(c.type);
  }
  return x;
}

inline Scan run(const Inputs& x, const ScanOptions& options) {
  return gated_scan(x[0], x[1], x[2], x[3], x[4], options);
}

inline Scan run(const Case& c, const Inputs& x, Form form, int64_t chunk = 16) {
  return run(x, {.form = form, .chunk = chunk, .axis = c.axis()});
}

/// max |a - b| / max(1, max |b|)
inline double distance(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  if (b.numel() == 0) return 0;
  const double scale = std::max(1.0, b.abs().max().to(at::kDouble).item<double>());
  const double error = (a - b).abs().max().to(at::kDouble).item<double>() / scale;
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

}  // namespace unbend::test
