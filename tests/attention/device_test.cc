// Attention on other devices beside the same on the CPU: values, gradients and second derivatives.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <functional>

#include "tests/attention/gated_scan_cases.h"
#include "tests/other_device.h"
#include "unbend/attention/soft_attention.h"
#include "unbend/attention/window.h"

namespace unbend::test {
namespace {

using Tensors = std::vector<at::Tensor>;
using torch::autograd::grad;

Tensors squares(const Tensors& all) {
  at::Tensor sum;
  for (const auto& t : all) sum = sum.defined() ? sum + t.square().sum() : t.square().sum();
  return {sum};
}

// f's results, the gradient of the sum of their squares, and that of the sum of its squares.
Tensors through(const std::function<Tensors(const Tensors&)>& f, const Tensors& at, at::Device device) {
  Tensors x;
  for (const auto& t : at) x.push_back(t.to(device).requires_grad_());
  Tensors all = f(x);
  const Tensors first = grad(squares(all), x, {}, true, true);
  all.insert(all.end(), first.begin(), first.end());
  const Tensors second = grad(squares(first), x, {}, {}, false, /*allow_unused=*/true);
  for (const auto& t : second)
    if (t.defined()) all.push_back(t);
  for (auto& t : all) t = t.detach().to(at::kCPU);
  return all;
}

void expect_same(const std::string& what, const std::function<Tensors(const Tensors&)>& f, const Tensors& at) {
  const Tensors here = through(f, at, at::kCPU);
  for (const auto device : other_devices()) {
    const Tensors there = through(f, at, device);
    ASSERT_EQ(there.size(), here.size());
    for (size_t i = 0; i < here.size(); ++i)
      EXPECT_LT((there[i] - here[i]).abs().max().item<double>(), 1e-9 * here[i].abs().max().clamp_min(1).item<double>())
          << what << ", " << i << ", " << device.str();
  }
}

at::Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble);
}

TEST(Device, ScansElsewhereAsOnTheCpu) {
  for (const auto decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value})
    for (const auto form : {Form::Chunked, Form::Recurrent}) {
      const Case c{.decay = decay, .batch = 2, .heads = 4, .kv_heads = 2, .length = 37};
      Inputs x = make_inputs(c);
      const bool decays = x[3].defined();
      if (!decays) x.erase(x.begin() + 3);
      const ScanOptions options{.form = form, .chunk = 8, .axis = c.axis()};
      const auto scan = [&](const Tensors& t) -> Tensors {
        const auto s = decays ? gated_scan(t[0], t[1], t[2], t[3], t[4], options)
                              : gated_scan(t[0], t[1], t[2], {}, t[3], options);
        return {s.out, s.state};
      };
      expect_same(c.name(), scan, x);
    }
}

TEST(Device, WindowsElsewhereAsOnTheCpu) {
  for (const WindowOptions& options :
       {WindowOptions{.window = 5, .sinks = 2, .scale = .5}, WindowOptions{.window = 9, .scale = .5, .step = 8}}) {
    const auto window = [&](const Tensors& x) -> Tensors {
      const auto p = window_attention(x[0], x[1], x[2], options);
      return {p.out, p.lse};
    };
    expect_same("window", window, {normal({2, 4, 20, 3}, 1), normal({2, 2, 20, 3}, 2), normal({2, 2, 20, 5}, 3)});
  }
}

TEST(Device, SoftAttentionElsewhereAsOnTheCpu) {
  for (const auto solver : {InverseSolver::Newton, InverseSolver::Cholesky})
    for (const bool normalize : {false, true}) {
      SoftOptions options;
      options.normalize = normalize;
      options.inverse.solver = solver;
      const auto soft = [&](const Tensors& x) -> Tensors { return {soft_attention(x[0], x[1], x[2], options).out}; };
      expect_same("soft", soft, {normal({2, 2, 20, 3}, 1), normal({2, 2, 4, 3}, 2), normal({2, 2, 20, 5}, 3)});
    }
}

}  // namespace
}  // namespace unbend::test
