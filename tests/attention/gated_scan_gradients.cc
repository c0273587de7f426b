// Derivatives of the gated scan: pull (backward), push (double backward), second derivatives.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/attention/gated_scan_cases.h"
#include "unbend/attention/gated_scan_naive.h"

namespace unbend::test {
namespace {

using torch::autograd::grad;
using torch::autograd::variable_list;

constexpr double kForget = -std::numeric_limits<double>::infinity();

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    list.push_back({.decay = decay, .batch = 2, .heads = 4, .kv_heads = 2, .length = 23, .dk = 4, .dv = 5});
    list.push_back({.decay = decay, .heads = 3, .length = 40, .dk = 3, .dv = 2, .initial = false, .seed = 2});
    list.push_back({.decay = decay, .heads = 2, .length = 1, .dk = 17, .dv = 3, .seed = 3});
    list.push_back({.decay = decay, .length = 20, .dk = 4, .dv = 3, .constant = -5.0, .seed = 4});
    list.push_back({.decay = decay, .length = 20, .dk = 4, .dv = 3, .constant = 0.0, .seed = 5});
  }
  return list;
}

// The differentiable arguments of a case, as leaves.
variable_list leaves(const Inputs& x) {
  variable_list list;
  for (const at::Tensor& t : x) {
    if (t.defined()) list.push_back(t.detach().clone().requires_grad_());
  }
  return list;
}

Inputs with_holes(const Case& c, const variable_list& x) {
  Inputs full = {x[0], x[1], x[2], {}, {}};
  size_t next = 3;
  if (c.decay != Decay::None) full[3] = x[next++];
  if (c.initial) full[4] = x[next];
  return full;
}

variable_list results(const Case& c, const variable_list& x, Form form, int64_t chunk = 8) {
  const Scan scan = run(c, with_holes(c, x), form, chunk);
  return {scan.out, scan.state};
}

variable_list results_of_definition(const Case& c, const variable_list& x) {
  const Inputs full = with_holes(c, x);
  const at::Tensor zero = at::zeros({c.batch, c.kv_heads, c.dk, c.dv}, at::kDouble);
  const Scan scan =
      naive::recurrent_scan(full[0], full[1], full[2], full[3], full[4].defined() ? full[4] : zero, c.axis());
  return {scan.out, scan.state};
}

variable_list normals_like(const variable_list& x, uint64_t seed) {
  at::Generator random = at::detail::createCPUGenerator(seed);
  variable_list list;
  for (const at::Tensor& t : x) list.push_back(at::randn(t.sizes(), random, at::kDouble));
  return list;
}

double inner(const variable_list& a, const variable_list& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] * b[i]).sum().item<double>();
  return sum;
}

TEST(GatedScanPull, EqualsTheDefinitionsBackward) {
  for (const Case& c : cases()) {
    const variable_list x = leaves(make_inputs(c));
    const variable_list expected_results = results_of_definition(c, x);
    const variable_list cotangents = normals_like(expected_results, 7);
    const variable_list expected = grad(expected_results, x, cotangents);
    for (const int64_t chunk : {1, 5, 16, 64}) {
      const variable_list pulled = grad(results(c, x, Form::Chunked, chunk), x, cotangents);
      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_LT(distance(pulled[i], expected[i]), 1e-11) << c.name() << " chunk " << chunk << " argument " << i;
      }
    }
    for (const Form form : {Form::Parallel, Form::Recurrent}) {
      const variable_list pulled = grad(results(c, x, form), x, cotangents);
      for (size_t i = 0; i < x.size(); ++i) EXPECT_LT(distance(pulled[i], expected[i]), 1e-11) << c.name();
    }
  }
}

TEST(GatedScanPull, EqualsCentralDifferences) {
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    const Case c = {.decay = decay, .heads = 2, .length = 11, .dk = 3, .dv = 2, .seed = 9};
    const variable_list x = leaves(make_inputs(c));
    const variable_list y = results(c, x, Form::Chunked, 4);
    const variable_list cotangents = normals_like(y, 8);
    const variable_list pulled = grad(y, x, cotangents);
    const double h = 1e-5;
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < x.size(); ++i) {
      at::Tensor flat = x[i].detach().view(-1);
      const at::Tensor gradient = pulled[i].reshape(-1);
      for (int64_t j = 0; j < flat.numel(); ++j) {
        const double original = flat[j].item<double>();
        if (c.decay != Decay::None && i == 3 && original > -h) continue;  // a step would leave the domain
        flat[j] = original + h;
        const double above = inner(results(c, x, Form::Chunked, 4), cotangents);
        flat[j] = original - h;
        const double below = inner(results(c, x, Form::Chunked, 4), cotangents);
        flat[j] = original;
        const double difference = (above - below) / (2 * h), value = gradient[j].item<double>();
        EXPECT_NEAR(value, difference, 1e-7 * std::max(1.0, std::abs(difference))) << c.name() << " argument " << i;
      }
    }
  }
}

TEST(GatedScanPull, Float32IsCloseAndLongSequencesCrossSegments) {
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    Case c = {.decay = decay, .heads = 2, .length = 333, .dk = 16, .dv = 17, .seed = 4};
    const variable_list x = leaves(make_inputs(c));
    const variable_list y = results_of_definition(c, x);
    const variable_list cotangents = normals_like(y, 8);
    const variable_list expected = grad(y, x, cotangents);
    c.type = at::kFloat;
    const variable_list single = leaves(make_inputs(c));
    const variable_list single_cotangents = {cotangents[0].to(at::kFloat), cotangents[1].to(at::kFloat)};
    const variable_list pulled = grad(results(c, single, Form::Chunked, 8), single, single_cotangents);
    const variable_list exact = grad(results(c, x, Form::Chunked, 8), x, cotangents);
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_LT(distance(exact[i], expected[i]), 1e-11) << c.name() << " argument " << i;
      EXPECT_LT(distance(pulled[i].to(at::kDouble), expected[i]), 1e-4) << c.name() << " argument " << i;
    }
  }
}

// Threads take equal shares of the tokens, which cuts heads; -5 makes chunks end early, on both sides of the cuts. Who
// goes on at a cut finds a state there or not, by chance: the numbers are the same to the last bit.
TEST(GatedScanPull, EveryNumberOfThreadsGivesTheSame) {
  const int threads_before = at::get_num_threads();
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    for (const std::optional<double> constant : {std::optional<double>(), std::optional<double>(-5)}) {
      const Case c = {
          .decay = decay, .heads = 6, .kv_heads = 3, .length = 600, .dk = 12, .dv = 17, .constant = constant};
      const variable_list x = leaves(make_inputs(c));
      const variable_list expected_results = results_of_definition(c, x);
      const variable_list cotangents = normals_like(expected_results, 7);
      const variable_list expected = grad(expected_results, x, cotangents);
      variable_list first_results, first_pulled;
      for (const int threads : {1, 2, 3, 4, 7, 2, 3, 4, 7}) {
        at::set_num_threads(threads);
        const variable_list y = results(c, x, Form::Chunked, 16), pulled = grad(y, x, cotangents);
        for (size_t i = 0; i < y.size(); ++i) {
          EXPECT_LT(distance(y[i], expected_results[i]), 1e-11) << c.name() << " threads " << threads;
        }
        for (size_t i = 0; i < x.size(); ++i) {
          EXPECT_LT(distance(pulled[i], expected[i]), 1e-11) << c.name() << " threads " << threads << " argument " << i;
        }
        if (threads == 1) first_results = y, first_pulled = pulled;
        for (size_t i = 0; i < y.size(); ++i) EXPECT_TRUE(at::equal(y[i], first_results[i])) << c.name() << threads;
        for (size_t i = 0; i < x.size(); ++i) EXPECT_TRUE(at::equal(pulled[i], first_pulled[i])) << c.name() << threads;
      }
    }
  }
  at::set_num_threads(threads_before);
}

TEST(GatedScanPull, ForgettingEverythingHasFiniteGradients) {
  for (const Decay decay : {Decay::Scalar, Decay::Key, Decay::Value}) {
    const Case c = {.decay = decay, .length = 20, .dk = 4, .dv = 3};
    Inputs inputs = make_inputs(c);
    inputs[3].select(2, 0).fill_(kForget);
    inputs[3].select(2, 13).fill_(kForget);
    const variable_list x = leaves(inputs);
    const variable_list y = results_of_definition(c, x);
    const variable_list cotangents = normals_like(y, 5);
    const variable_list expected = grad(y, x, cotangents);
    for (const Form form : {Form::Chunked, Form::Parallel}) {
      const variable_list pulled = grad(results(c, x, form), x, cotangents);
      for (size_t i = 0; i < x.size(); ++i) EXPECT_LT(distance(pulled[i], expected[i]), 1e-12) << c.name() << i;
      EXPECT_EQ(pulled[3].select(2, 13).abs().max().item<double>(), 0);
    }
  }
}

TEST(GatedScanPull, OnlyTheAskedGradients) {
  const Case c = {.heads = 2, .length = 19};
  for (int wanted = 0; wanted < 5; ++wanted) {
    Inputs x = make_inputs(c);
    x[wanted].requires_grad_();
    const Scan scan = run(c, x, Form::Chunked, 4);
    const at::Tensor gradient = grad({scan.out.sum()}, {x[wanted]})[0];
    const Scan loop = naive::recurrent_scan(x[0], x[1], x[2], x[3], x[4], c.axis());
    EXPECT_LT(distance(gradient, grad({loop.out.sum()}, {x[wanted]})[0]), 1e-12) << wanted;
  }
}

// R mode of autofd.md: record the backward once, then differentiate it with respect to its cotangents.
variable_list push(const variable_list& y, const variable_list& x, const variable_list& tangent) {
  variable_list cotangents;
  for (const at::Tensor& t : y) cotangents.push_back(at::zeros_like(t).requires_grad_());
  const variable_list pulled = grad(y, x, cotangents, /*retain_graph=*/true, /*create_graph=*/true);
  return grad(pulled, cotangents, tangent);
}

TEST(GatedScanPush, EqualsCentralDifferencesAndTheDefinition) {
  for (const Case& c : cases()) {
    const variable_list x = leaves(make_inputs(c));
    const variable_list tangent = normals_like(x, 6);
    const variable_list expected = push(results_of_definition(c, x), x, tangent);
    for (const int64_t chunk : {1, 5, 16, 64}) {
      const variable_list y = results(c, x, Form::Chunked, chunk);
      const variable_list pushed = push(y, x, tangent);
      for (int i = 0; i < 2; ++i) EXPECT_LT(distance(pushed[i], expected[i]), 1e-11) << c.name() << " chunk " << chunk;
      const variable_list cotangents = normals_like(y, 5);
      const double left = inner(cotangents, pushed), right = inner(grad(y, x, cotangents), tangent);
      EXPECT_NEAR(left, right, 1e-10 * std::max(1.0, std::abs(left))) << c.name();
    }
    if (c.constant == 0.0) continue;  // at the edge of the domain
    const double h = 1e-6;
    variable_list above, below;
    for (size_t i = 0; i < x.size(); ++i) {
      // Log decays move in proportion, so that they stay negative.
      const at::Tensor step = (c.decay != Decay::None && i == 3 ? tangent[i] * x[i] : tangent[i]) * h;
      above.push_back((x[i] + step).detach());
      below.push_back((x[i] - step).detach());
    }
    variable_list direction = tangent;
    if (c.decay != Decay::None) direction[3] = tangent[3] * x[3].detach();
    const variable_list y = results(c, x, Form::Chunked), pushed = push(y, x, direction);
    const variable_list y1 = results(c, above, Form::Chunked), y0 = results(c, below, Form::Chunked);
    for (int i = 0; i < 2; ++i) EXPECT_LT(distance(pushed[i], (y1[i] - y0[i]) / (2 * h)), 1e-7) << c.name();
  }
}

TEST(GatedScanPush, RunsManyTimesOnOneRecording) {
  const Case c = {.heads = 2, .length = 19};
  const variable_list x = leaves(make_inputs(c));
  const variable_list y = results(c, x, Form::Chunked);
  const variable_list cotangents = {at::zeros_like(y[0]).requires_grad_(), at::zeros_like(y[1]).requires_grad_()};
  const variable_list pulled = grad(y, x, cotangents, true, true);
  const variable_list a = normals_like(x, 1), b = normals_like(x, 2);
  variable_list sum;
  for (size_t i = 0; i < x.size(); ++i) sum.push_back(a[i] + 2 * b[i]);
  const auto pushed = [&](const variable_list& t) { return grad(pulled, cotangents, t, /*retain_graph=*/true)[0]; };
  EXPECT_LT(distance(pushed(sum), pushed(a) + 2 * pushed(b)), 1e-12);
}

// What is larger than the caches is written past them; a head alone is not: the same numbers.
TEST(GatedScanPull, LargeResultsAreThoseOfTheirHeads) {
  at::manual_seed(6);
  const int64_t heads = 4, length = 4200;
  const auto make = [&](int64_t width) { return at::randn({1, length, heads, width}).transpose(1, 2); };
  const variable_list x{make(64), make(64), make(64), at::log_sigmoid(make(64)) / 16};
  const auto cotangent = make(64);
  ASSERT_GE(x[0].nbytes(), size_t{4} << 20);
  const auto both = [&](int64_t first, int64_t count) {
    variable_list part;
    for (const auto& t : x) part.push_back(t.narrow(1, first, count).detach().requires_grad_());
    const auto out = gated_scan(part[0], part[1], part[2], part[3]).out;
    auto all = grad({out}, part, {cotangent.narrow(1, first, count)});
    all.push_back(out.detach());
    return all;
  };
  const auto whole = both(0, heads);
  for (int64_t head = 0; head < heads; ++head) {
    const auto alone = both(head, 1);
    for (size_t i = 0; i < alone.size(); ++i)
      EXPECT_LT(distance(whole[i].narrow(1, head, 1), alone[i]), 1e-4) << "head " << head << ", result " << i;
  }
}

// Hessian-vector products in both orders: gradient of <pull, u>, and of <cotangents, push>, and once more of that.
TEST(GatedScanSecondOrder, EqualsTheDefinition) {
  for (const Decay decay : {Decay::None, Decay::Scalar, Decay::Key, Decay::Value}) {
    const Case c = {.decay = decay, .heads = 2, .length = 18, .dk = 3, .dv = 2};
    const variable_list x = leaves(make_inputs(c));
    const variable_list u = normals_like(x, 3);
    const auto derivatives = [&](const variable_list& y) {
      variable_list cotangents = normals_like(y, 4);
      for (at::Tensor& t : cotangents) t.requires_grad_();
      const variable_list pulled = grad(y, x, cotangents, true, true);
      at::Tensor product = at::zeros({}, at::kDouble);
      for (size_t i = 0; i < x.size(); ++i) product = product + (pulled[i] * u[i]).sum();
      variable_list second = grad({product}, x, {}, true, true, true);
      const variable_list pushed = grad({product}, cotangents, {}, true, true);
      const at::Tensor length = pushed[0].square().sum() + pushed[1].square().sum();
      const variable_list more = grad({length}, x, {}, true, true, true);
      second.insert(second.end(), more.begin(), more.end());
      at::Tensor third = at::zeros({}, at::kDouble);
      for (size_t i = 0; i < x.size(); ++i) third = third + (second[i] * u[i]).sum();
      for (const at::Tensor& t : grad({third}, x, {}, false, false, true)) second.push_back(t);
      return second;
    };
    const variable_list expected = derivatives(results_of_definition(c, x));
    const variable_list actual = derivatives(results(c, x, Form::Chunked));
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_LT(distance(actual[i], expected[i]), 1e-10) << c.name() << " derivative " << i;
    }
  }
}

}  // namespace
}  // namespace unbend::test
