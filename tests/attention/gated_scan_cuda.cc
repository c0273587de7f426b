// The gated scan on a CUDA device, beside the definition on the CPU in float64. Skipped where there is no device.
#include <gmock/gmock.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/attention/gated_scan_cases.h"
#include "unbend/attention/gated_scan_naive.h"
#include "unbend/base/error.h"

namespace unbend::test {
namespace {

using torch::autograd::grad;
using torch::autograd::variable_list;

constexpr double kForget = -std::numeric_limits<double>::infinity();

class GatedScanCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  }
};

at::Tensor on_device(const at::Tensor& x, at::ScalarType type) {
  return x.defined() ? x.to(at::Device(at::kCUDA), type) : x;
}
at::Tensor back(const at::Tensor& x) { return x.to(at::kCPU, at::kDouble); }

/// |a - b| / |b|, or |a| where b is zero.
double relative(const at::Tensor& a, const at::Tensor& b) {
  if (b.numel() == 0) return 0;
  const double norm = b.norm().item<double>(), error = (back(a) - b).norm().item<double>();
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : norm > 0 ? error / norm : error;
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    for (const int64_t length : {0, 1, 2, 15, 16, 17, 33, 70, 133})
      list.push_back({.decay = decay,
                      .batch = 2,
                      .heads = 6,
                      .kv_heads = 2,
                      .length = length,
                      .dk = 8,
                      .dv = 5,
                      .seed = uint64_t(length)});
    for (const double constant : {0.0, -1e-3, -3.0, -5.0, -50.0, kForget})
      list.push_back({.decay = decay, .heads = 2, .kv_heads = 2, .length = 67, .dk = 5, .dv = 9, .constant = constant});
    for (const int64_t width : {1, 16, 33, 64, 65, 128, 200})
      list.push_back({.decay = decay, .heads = 3, .length = 50, .dk = width, .dv = width + 1, .initial = false});
    // Several segments of time, with and without groups.
    list.push_back({.decay = decay, .batch = 1, .heads = 4, .kv_heads = 2, .length = 1500, .dk = 64, .dv = 65});
    list.push_back({.decay = decay, .batch = 2, .heads = 3, .kv_heads = 3, .length = 1111, .dk = 24, .dv = 16});
    list.push_back(
        {.decay = decay, .heads = 2, .kv_heads = 2, .length = 1500, .dk = 16, .dv = 16, .constant = kForget});
  }
  return list;
}

struct Derivatives {
  variable_list x, y, cotangents, pulled;
};

// In float64 on the CPU, of numbers as `type` has them.
Derivatives expected(const Case& c, at::ScalarType type) {
  Derivatives d;
  const Inputs inputs = make_inputs(c);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].defined())
      d.x.push_back((i < 3 ? inputs[i].to(type) : inputs[i].to(at::kFloat)).to(at::kDouble).requires_grad_());
  }
  Inputs full = {d.x[0], d.x[1], d.x[2], {}, {}};
  size_t next = 3;
  if (c.decay != Decay::None) full[3] = d.x[next++];
  full[4] = c.initial ? d.x[next] : at::zeros({c.batch, c.kv_heads, c.dk, c.dv}, at::kDouble);
  const Scan scan = naive::recurrent_scan(full[0], full[1], full[2], full[3], full[4], c.axis());
  d.y = {scan.out, scan.state};
  at::Generator random = at::detail::createCPUGenerator(7);
  for (const auto& y : d.y) d.cotangents.push_back(at::randn(y.sizes(), random, at::kDouble));
  d.cotangents[0] = d.cotangents[0].to(type).to(at::kDouble);
  variable_list of, along;  // without tokens the result does not depend on anything
  for (size_t i = 0; i < d.y.size(); ++i) {
    if (d.y[i].requires_grad()) of.push_back(d.y[i]), along.push_back(d.cotangents[i]);
  }
  d.pulled.resize(d.x.size());
  if (!of.empty()) d.pulled = grad(of, d.x, along, /*retain_graph=*/true, false, /*allow_unused=*/true);
  for (size_t i = 0; i < d.x.size(); ++i) {
    if (!d.pulled[i].defined()) d.pulled[i] = at::zeros_like(d.x[i]);
  }
  return d;
}

struct OnDevice {
  variable_list x, y, cotangents;
};
OnDevice compute(const Case& c, const Derivatives& of, at::ScalarType type, Form form, bool differentiable) {
  OnDevice d;
  for (size_t i = 0; i < of.x.size(); ++i)
    d.x.push_back(on_device(of.x[i].detach(), i < 3 ? type : at::kFloat).requires_grad_(differentiable));
  Inputs full = {d.x[0], d.x[1], d.x[2], {}, {}};
  size_t next = 3;
  if (c.decay != Decay::None) full[3] = d.x[next++];
  if (c.initial) full[4] = d.x[next];
  const Scan scan = run(c, full, form);
  d.y = {scan.out, scan.state};
  d.cotangents = {on_device(of.cotangents[0], type), on_device(of.cotangents[1], at::kFloat)};
  return d;
}

TEST_F(GatedScanCuda, ValuesEqualTheDefinition) {
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 5e-6}, {at::kBFloat16, 8e-3}, {at::kDouble, 1e-12}}) {
    for (const Case& c : cases()) {
      const auto of = expected(c, type);
      for (const Form form : {Form::Chunked, Form::Recurrent}) {
        const at::NoGradGuard no_grad;
        const auto d = compute(c, of, type, form, false);
        EXPECT_EQ(d.y[0].scalar_type(), type);
        EXPECT_LT(relative(d.y[0], of.y[0]), tolerance) << c.name() << " " << int(form) << " " << at::toString(type);
        EXPECT_LT(relative(d.y[1], of.y[1]), tolerance)
            << c.name() << " " << int(form) << " " << at::toString(type) << " state";
      }
    }
  }
}

TEST_F(GatedScanCuda, PullEqualsTheDefinitions) {
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 2e-5}, {at::kBFloat16, 2e-2}}) {
    for (const Case& c : cases()) {
      const auto of = expected(c, type);
      const auto d = compute(c, of, type, Form::Chunked, true);
      const auto pulled = grad(d.y, d.x, d.cotangents, {}, false, true);
      for (size_t i = 0; i < d.x.size(); ++i) {
        EXPECT_EQ(pulled[i].scalar_type(), d.x[i].scalar_type());
        double size = of.pulled[i].norm().item<double>();
        // The decays' gradient is a difference of sums over up to 128 tokens, as accurate as their terms.
        const bool of_decay = i == 3 && c.decay != Decay::None;
        if (of_decay) size = std::max(size, 2 * (of.x[1] * of.pulled[1]).norm().item<double>());
        const double error = (back(pulled[i]) - of.pulled[i]).norm().item<double>();
        EXPECT_LE(error, tolerance * size) << c.name() << " argument " << i << " " << at::toString(type);
      }
    }
  }
}

// <J t, u> = <t, J^T u>, and the derivative of the gradient, which goes through the plain form.
TEST_F(GatedScanCuda, PushFitsThePull) {
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    const Case c = {.decay = decay, .batch = 2, .heads = 4, .kv_heads = 2, .length = 45, .dk = 12, .dv = 9};
    const auto of = expected(c, at::kFloat);
    const auto d = compute(c, of, at::kFloat, Form::Chunked, true);
    variable_list u, tangent;
    for (const auto& y : d.cotangents) u.push_back(y.detach().clone().requires_grad_());
    for (const auto& x : d.x) tangent.push_back(at::randn_like(x));
    const auto pulled = grad(d.y, d.x, u, true, /*create_graph=*/true);
    const auto pushed = grad(pulled, u, tangent, true);
    double left = 0, right = 0, size = 0;
    for (size_t i = 0; i < u.size(); ++i) left += (pushed[i] * u[i]).sum().item<double>();
    for (size_t i = 0; i < d.x.size(); ++i) {
      right += (pulled[i] * tangent[i]).sum().item<double>();
      size += std::abs((pulled[i] * tangent[i]).sum().item<double>());
    }
    EXPECT_NEAR(left, right, 1e-4 * size) << c.name();
    const auto second = grad(pulled, d.x, tangent, true);
    const auto on_cpu = grad(of.y, of.x, of.cotangents, true, /*create_graph=*/true);
    variable_list same;
    for (const auto& t : tangent) same.push_back(back(t));
    const auto expected_second = grad(on_cpu, of.x, same);
    for (size_t i = 0; i < d.x.size(); ++i) EXPECT_LT(relative(second[i], expected_second[i]), 1e-4) << c.name() << i;
  }
}

TEST_F(GatedScanCuda, TakesStridedTensors) {
  const Case c = {.batch = 2, .heads = 4, .kv_heads = 2, .length = 33, .dk = 16, .dv = 8, .type = at::kFloat};
  Inputs plain, strided;
  for (const at::Tensor& t : make_inputs(c)) {
    plain.push_back(on_device(t, at::kFloat));
    strided.push_back(plain.back().transpose(1, 2).contiguous().transpose(1, 2));
  }
  EXPECT_TRUE(at::equal(run(c, strided, Form::Chunked).out, run(c, plain, Form::Chunked).out));
}

TEST_F(GatedScanCuda, AWrongDecayMakesALaterCallThrow) {
  const Case c = {.length = 40, .dk = 8, .dv = 8, .type = at::kFloat};
  for (const double wrong : {.1, std::nan("")}) {
    Inputs x;
    for (const at::Tensor& t : make_inputs(c)) x.push_back(on_device(t, at::kFloat));
    Inputs bad = x;
    bad[3] = x[3].clone();
    bad[3].select(2, 17).fill_(wrong);
    std::string message = "no error";
    try {
      run(c, bad, Form::Chunked).out.cpu();  // waits for the kernel
      run(c, x, Form::Chunked);
    } catch (const Error& error) {
      message = error.what();
    }
    EXPECT_THAT(message, testing::HasSubstr("positive or NaN"));
    EXPECT_NO_THROW(run(c, x, Form::Chunked));
  }
}

}  // namespace
}  // namespace unbend::test
