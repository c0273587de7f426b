// Every rule by which an operation is pushed, against dual numbers, and pulls through the same graph, against
// LibTorch's engine: with each argument constant or not, alone and many at once.
#include "unbend/calculus/recorded_map.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "tests/calculus/maps.h"
#include "unbend/calculus/linearize.h"
#include "unbend/calculus/push_rules.h"

namespace unbend::test {
namespace {

at::Tensor normal(std::vector<int64_t> shape, uint64_t seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble);
}

struct Operation {
  std::string name;
  std::vector<std::vector<int64_t>> shapes;
  Function f;
  bool has_rule = true;  // of its own, or pointwise
};

std::vector<Operation> pointwise_operations() {
  std::vector<Operation> all;
  const auto add = [&](const std::string& name, at::Tensor (*f)(const at::Tensor&)) {
    all.push_back({name, {{3, 4}}, [f](const Tensors& x) -> Tensors { return {f(.3 * x[0] * x[0] + .2)}; }});
  };
  add("abs", &at::abs), add("atan", &at::atan), add("cos", &at::cos), add("cosh", &at::cosh), add("erf", &at::erf);
  add("exp", &at::exp), add("exp2", &at::exp2), add("expm1", &at::expm1), add("log", &at::log);
  add("log1p", &at::log1p), add("neg", &at::neg), add("relu", &at::relu), add("reciprocal", &at::reciprocal);
  add("rsqrt", &at::rsqrt), add("sigmoid", &at::sigmoid), add("silu", &at::silu), add("sin", &at::sin);
  add("sinh", &at::sinh), add("sqrt", &at::sqrt), add("tan", &at::tan), add("tanh", &at::tanh), add("mish", &at::mish);
  add("log_sigmoid", &at::log_sigmoid), add("hardswish", &at::hardswish), add("hardsigmoid", &at::hardsigmoid);
  add("gelu", [](const at::Tensor& x) { return at::gelu(x, "tanh"); });
  add("softplus", [](const at::Tensor& x) { return at::softplus(x, 2); });
  add("leaky_relu", [](const at::Tensor& x) { return at::leaky_relu(x - .3, .1); });
  add("elu", [](const at::Tensor& x) { return at::elu(x - .3); });
  add("hardtanh", [](const at::Tensor& x) { return at::hardtanh(x, 0, .4); });
  add("threshold", [](const at::Tensor& x) { return at::threshold(x, .4, .1); });
  add("clamp", [](const at::Tensor& x) { return at::clamp(x, .25, .5); });
  add("clamp_min", [](const at::Tensor& x) { return at::clamp_min(x, .4); });
  add("clamp_max", [](const at::Tensor& x) { return at::clamp_max(x, .4); });
  add("pow", [](const at::Tensor& x) { return at::pow(x, 2.5); });
  return all;
}

std::vector<Operation> operations() {
  auto all = pointwise_operations();
  const auto add = [&](const std::string& name, std::vector<std::vector<int64_t>> shapes, const Function& f,
                       bool has_rule = true) {
    all.push_back({name, std::move(shapes), f, has_rule});
  };
  using X = const Tensors&;
  add("mm", {{3, 4}, {4, 5}}, [](X x) -> Tensors { return {at::mm(x[0], x[1])}; });
  add("addmm", {{5}, {3, 4}, {4, 5}}, [](X x) -> Tensors { return {at::addmm(x[0], x[1], x[2], .5, -2)}; });
  add("addmm, whole", {{3, 5}, {3, 4}, {4, 5}}, [](X x) -> Tensors { return {at::addmm(x[0], x[1], x[2])}; });
  add("bmm", {{2, 3, 4}, {2, 4, 5}}, [](X x) -> Tensors { return {at::bmm(x[0], x[1])}; });
  add("baddbmm", {{2, 3, 5}, {2, 3, 4}, {2, 4, 5}},
      [](X x) -> Tensors { return {at::baddbmm(x[0], x[1], x[2], 3, .5)}; });
  add("linear", {{2, 3, 4}, {5, 4}, {5}}, [](X x) -> Tensors { return {at::linear(x[0], x[1], x[2])}; });
  add("matmul", {{2, 3, 4, 5}, {2, 3, 5, 4}}, [](X x) -> Tensors { return {at::matmul(x[0], x[1])}; });
  add("add", {{3, 4}, {4}}, [](X x) -> Tensors { return {at::add(x[0], x[1], -2)}; });
  add("add, alike", {{3, 4}, {3, 4}}, [](X x) -> Tensors { return {2 * x[0] + 3 * x[1]}; });
  add("add, outer", {{3, 1}, {4}}, [](X x) -> Tensors { return {x[0] + x[1]}; });
  add("sub", {{4}, {3, 4}}, [](X x) -> Tensors { return {at::sub(x[0], x[1], .5) - 1 + 2}; });
  add("mul", {{3, 4}, {4}}, [](X x) -> Tensors { return {x[0] * x[1]}; });
  add("mul, alike", {{3, 4}, {3, 4}}, [](X x) -> Tensors { return {2 * x[0] * x[1]}; });
  add("mul, outer", {{3, 1}, {4}}, [](X x) -> Tensors { return {2 * x[0] * x[1]}; });
  add("mul, itself", {{3, 4}}, [](X x) -> Tensors { return {x[0] * x[0]}; });
  add("div", {{3, 4}, {4}}, [](X x) -> Tensors { return {x[0] / x[1] / 3}; });
  add("softmax", {{2, 3, 4}}, [](X x) -> Tensors { return {at::softmax(x[0], 1)}; });
  add("layer_norm", {{2, 3, 4}, {4}, {4}}, [](X x) -> Tensors { return {at::layer_norm(2 * x[0], {4}, x[1], x[2])}; });
  add("layer_norm of two axes, no weights", {{2, 3, 4}}, [](X x) -> Tensors { return {at::layer_norm(x[0], {3, 4})}; });
  add("views", {{2, 3, 4}}, [](X x) -> Tensors {
    const auto y = x[0].view({6, 4}).t().reshape({2, 12}).unsqueeze(1).expand({2, 5, 12}).unsqueeze(0).squeeze();
    return {y.transpose(0, 1).permute({2, 0, 1}).select(0, 3).slice(0, 1, 5, 2).clone(), x[0].squeeze(0).alias()};
  });
  add("pieces", {{4, 6}}, [](X x) -> Tensors {
    const auto rows = x[0].unbind(), halves = x[0].split(4, 1), some = x[0].split_with_sizes({1, 3}, 0);
    return {rows[2], halves[1], some[0], halves[0].to(at::kFloat)};
  });
  add("a result and what becomes of it", {{3, 3}}, [](X x) -> Tensors {
    const auto y = at::mm(x[0], x[0]), z = y + x[0];  // the push of y must not change under what follows
    return {y, z * 2, at::mm(z, y).tanh(), x[0]};
  });
  add(
      "cat, sum, cumsum", {{3, 4}, {2, 4}},
      [](X x) -> Tensors {
        return {at::cat({x[0], x[1], x[0]}), x[0].cumsum(0).sum(1)};
      },
      false);
  add(
      "convolution", {{2, 3, 6}, {4, 3, 3}, {4}}, [](X x) -> Tensors { return {at::conv1d(x[0], x[1], x[2], 1, 1)}; },
      false);
  add(
      "in place on a view", {{3, 4}, {4}},
      [](X x) -> Tensors {
        auto y = x[0] * 2;
        y.select(0, 1).mul_(x[1]);
        return {y, at::dot(y[1], x[1])};
      },
      false);
  return all;
}

Tensors point(const Operation& operation) {
  Tensors at;
  for (size_t i = 0; i < operation.shapes.size(); ++i) at.push_back(normal(operation.shapes[i], 10 + i));
  return at;
}

bool is_live(unsigned live, size_t i) { return (live >> i & 1U) != 0; }

// f of those arguments in `live`; the others stay at the point.
Function of_some(const Function& f, const Tensors& at, unsigned live) {
  return [=](const Tensors& x) {
    Tensors all = at;
    size_t next = 0;
    for (size_t i = 0; i < at.size(); ++i) {
      if (is_live(live, i)) all[i] = x[next++];
    }
    return f(all);
  };
}

// test(name, f, point): every operation as a function of some of its arguments, in every choice.
template <class Test>
void each_operation(const Test& test) {
  for (const auto& operation : operations()) {
    const Tensors at = point(operation);
    for (unsigned live = 1; live < 1U << at.size(); ++live) {
      Tensors some;
      for (size_t i = 0; i < at.size(); ++i) {
        if (is_live(live, i)) some.push_back(at[i]);
      }
      test(fmt::format("{}, arguments {}", operation.name, live), of_some(operation.f, at, live), some);
    }
  }
}

constexpr LinearizeOptions kConstants{.allow_constant = true};

double bound(const std::string& name) { return name.starts_with("pieces") ? 1e-6 : 1e-12; }  // one is in float32

Tensors copies(const Tensors& all) {
  Tensors some;
  for (const auto& t : all) some.push_back(t.clone());
  return some;
}

bool equal(const Tensors& a, const Tensors& b) {
  return std::ranges::equal(a, b, [](const at::Tensor& x, const at::Tensor& y) { return at::equal(x, y); });
}

TEST(RecordedMap, EveryRuleEqualsDualNumbers) {
  each_operation([](const std::string& name, const Function& f, const Tensors& at) {
    const LinearMap j = linearize(f, at, kConstants).jacobian,
                    dual = linearize(f, at, {.push = PushMode::Dual, .allow_constant = true}).jacobian;
    Random random(1);
    const Tensors v = random_normals(j.domain(), random, 3), before = copies(v), many = j.push_many(v);
    for (int64_t k = 0; k < 3; ++k) {
      const Tensors one = select(v, k), expected = dual.push(one);
      EXPECT_LT(distance(j.push(one), expected), bound(name)) << name;
      EXPECT_LT(distance(select(many, k), expected), bound(name)) << name << ", many";
    }
    EXPECT_TRUE(equal(v, before)) << name;
  });
}

// A first pull is the engine's; after a push, or another pull, the recorded graph is walked.
TEST(RecordedMap, PullsEqualTheEngines) {
  each_operation([](const std::string& name, const Function& f, const Tensors& at) {
    const LinearMap j = linearize(f, at, kConstants).jacobian;
    Random random(1);
    const Tensors c = random_normals(j.codomain(), random, 3), before = copies(c), many = j.pull_many(c);
    for (int64_t k = 0; k < 3; ++k) {
      const Tensors one = select(c, k), expected = linearize(f, at, kConstants).jacobian.pull(one);
      EXPECT_LT(distance(j.pull(one), expected), bound(name)) << name;
      EXPECT_LT(distance(select(many, k), expected), bound(name)) << name << ", many";
    }
    EXPECT_TRUE(equal(c, before)) << name;
  });
}

bool has_pull(const Tensors& x, const Tensors& y) { return RecordedMap(x, y).can_pull(); }

// What only the engine knows how to do is left to it; sums meet where results, or an input, are used twice.
TEST(RecordedMap, PullsOfGraphsThatAreNotPlain) {
  const auto x = normal({4}, 1).requires_grad_(), c = normal({4}, 2), weight = normal({4}, 3).requires_grad_();
  EXPECT_TRUE(has_pull({x}, {x.sin() * weight.detach()}));
  EXPECT_FALSE(has_pull({x}, {x.sin() * weight}));  // would compute the weight's gradient too
  const auto hooked = x.sin();
  hooked.register_hook([](const at::Tensor& g) { return 2 * g; });
  EXPECT_FALSE(has_pull({x}, {hooked}));
  const Function f = [](const Tensors& v) -> Tensors {
    const auto y = v[0].sin();
    y.register_hook([](const at::Tensor& g) { return 2 * g; });
    return {y};
  };
  const LinearMap j = linearize(f, {x.detach()}).jacobian;
  for (int i = 0; i < 3; ++i) EXPECT_LT(distance(j.pull({c})[0], 2 * x.detach().cos() * c), 1e-14);

  const auto y = x.sin();
  EXPECT_TRUE(has_pull({x}, {y, x, y, y.exp()}));
  const Tensors pulled = RecordedMap({x}, {y, x, y, y.exp()}).pull({c, 2 * c, 3 * c, c});
  const auto z = x.detach();
  EXPECT_LT(distance(pulled[0], z.cos() * (4 + z.sin().exp()) * c + 2 * c), 1e-14);
}

// Otherwise the test above would compare transposed backwards.
TEST(RecordedMap, OperationsHaveTheirRules) {
  for (const auto& operation : operations()) {
    if (!operation.has_rule) continue;
    Tensors x;
    for (const auto& t : point(operation)) x.push_back(t.requires_grad_());
    std::vector<torch::autograd::Node*> next;
    const Tensors y = operation.f(x);
    for (const auto& t : y) {
      if (t.grad_fn()) next.push_back(t.grad_fn().get());
    }
    EXPECT_FALSE(next.empty());
    while (!next.empty()) {
      auto* const node = next.back();
      next.pop_back();
      if (node->num_outputs() == 0) continue;  // a leaf
      EXPECT_TRUE(push_rule(*node) || is_pointwise(*node)) << operation.name << ": " << node->name();
      for (const auto& edge : node->next_edges()) {
        if (edge.is_valid()) next.push_back(edge.function.get());
      }
    }
  }
}

// A linearization that is first used while LibTorch runs another backward pass, which asks for few gradients.
struct Nested : torch::autograd::Function<Nested> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return x.clone();
  }
  static Tensors backward(torch::autograd::AutogradContext* context, const Tensors& c) {
    const auto x = context->get_saved_variables()[0].detach();
    const LinearMap j = linearize([](const Tensors& z) -> Tensors { return {z[0].cumsum(0).sin()}; }, {x}).jacobian;
    const Tensors pushed = j.push({c[0]}), pulled = j.pull(pushed);
    EXPECT_LT(distance(pulled[0], (x.cumsum(0).cos() * pushed[0]).flip(0).cumsum(0).flip(0)), 1e-14);
    return pushed;
  }
};

TEST(RecordedMap, InsideOfABackwardPass) {
  const auto x = normal({4}, 1).requires_grad_(), c = normal({4}, 2);
  const auto pushed = torch::autograd::grad({Nested::apply(x)}, {x}, {c})[0];
  EXPECT_LT((pushed - x.detach().cumsum(0).cos() * c.cumsum(0)).abs().max().item<double>(), 1e-14);
}

}  // namespace
}  // namespace unbend::test
