// linearize on plain tensor operations: oracles of methods/autofd.md, what it promises, and bad input.
#include <gmock/gmock.h>

#include <thread>

#include "tests/calculus/maps.h"
#include "tests/error_message.h"
#include "unbend/calculus/check.h"

namespace unbend::test {
namespace {

using testing::HasSubstr;

Tensors worked_example(const Tensors& x) {
  const auto a = x[0][0], b = x[0][1];
  return {at::stack({a * a, a * b, b.sin()})};
}

TEST(Linearize, WorkedExample) {
  const Linearization l = linearize(worked_example, {numbers({1, 2})});
  EXPECT_LT(distance(l.value[0], numbers({1, 2, std::sin(2)})), 1e-15);
  EXPECT_LT(distance(l.jacobian.push({numbers({1, 1})})[0], numbers({2, 3, -.4161468365})), 1e-10);
  EXPECT_LT(distance(l.jacobian.pull({numbers({1, 1, 1})})[0], numbers({4, .5838531635})), 1e-10);
  EXPECT_EQ(l.jacobian.domain(), flat_space(2));
  EXPECT_EQ(l.jacobian.codomain(), flat_space(3));
}

Tensors network(const Tensors& w) {  // all weights of a small perceptron, on a fixed batch
  const auto x = at::arange(12, w[0].options()).view({4, 3}) / 6 - 1;
  return {at::linear(at::gelu(at::linear(x, w[0], w[1])), w[2], w[3])};
}

Tensors network_weights(at::ScalarType type) {
  Random random(3);
  Space space;
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{5, 3}, {5}, {2, 5}, {2}})
    space.leaves.push_back({.shape = shape, .dtype = type});
  return random_normals(space, random);
}

TEST(Linearize, RunsTheFunctionOnce) {
  int calls = 0;
  const Function counted = [&](const Tensors& w) { return ++calls, network(w); };
  const Linearization l = linearize(counted, network_weights(at::kDouble));
  Random random(1);
  for (int i = 0; i < 10; ++i) {
    l.jacobian.push(random_normals(l.jacobian.domain(), random));
    l.jacobian.pull(random_normals(l.jacobian.codomain(), random));
    l.jacobian.push_many(random_normals(l.jacobian.domain(), random, 3));
  }
  to_dense(l.jacobian);
  EXPECT_EQ(calls, 1);
}

TEST(Linearize, IsTheDerivative) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    const CheckResult result = check_linearization(network, network_weights(type));
    EXPECT_TRUE(result) << result.message;
  }
  const Function wrong = [](const Tensors& x) -> Tensors { return {x[0] * x[0].detach()}; };  // half the derivative
  EXPECT_FALSE(check_linearization(wrong, {numbers({1, 2})}));
}

// The recorded push (R of the brief) equals forward mode (D) to rounding.
TEST(Linearize, RecordedPushesEqualDualNumbers) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    const Tensors w = network_weights(type);
    const LinearMap r = linearize(network, w).jacobian, d = linearize(network, w, {.push = PushMode::Dual}).jacobian;
    EXPECT_LT(distance(to_dense(r), to_dense(d)), type == at::kDouble ? 1e-14 : 1e-6);
    EXPECT_TRUE(dot_test(d));
  }
}

TEST(Linearize, DualNumbersRunTheFunctionForEveryPush) {
  int calls = 0;
  const Function counted = [&](const Tensors& w) { return ++calls, network(w); };
  const Linearization l = linearize(counted, network_weights(at::kDouble), {.push = PushMode::Dual, .pull = false});
  Random random(1);
  for (int i = 0; i < 3; ++i) l.jacobian.push(random_normals(l.jacobian.domain(), random));
  EXPECT_EQ(calls, 4);
  EXPECT_THAT(error_message([&] { l.jacobian.pull(l.value); }, ErrorKind::Usage), HasSubstr("without pulls"));
}

TEST(Linearize, LinearAndConstantPartsAreFine) {
  const auto m = at::arange(6, at::kDouble).view({2, 3});
  const Function linear = [&](const Tensors& x) -> Tensors { return {at::mv(m, x[0])}; };
  EXPECT_LT(distance(to_dense(linearize(linear, {numbers({1, 2, 3})}).jacobian), m), 1e-15);
  const Function identity = [](const Tensors& x) { return x; };
  EXPECT_LT(distance(to_dense(linearize(identity, {numbers({1, 2})}).jacobian), at::eye(2, at::kDouble)), 1e-15);
  const Function twice = [](const Tensors& x) -> Tensors { return {x[0], x[0]}; };
  EXPECT_LT(distance(linearize(twice, {numbers({1, 2})}).jacobian.pull({numbers({1, 2}), numbers({3, 4})})[0],
                     numbers({4, 6})),
            1e-15);
  const Function unused = [](const Tensors& x) -> Tensors { return {x[0].sin()}; };
  const LinearMap j = linearize(unused, {numbers({1}), numbers({2, 3})}).jacobian;
  EXPECT_LT(distance(to_dense(j), numbers({std::cos(1), 0, 0}).view({1, 3})), 1e-15);
  const Function steps = [](const Tensors& x) -> Tensors { return {x[0].floor(), x[0]}; };
  EXPECT_LT(distance(to_dense(linearize(steps, {numbers({1.5})}).jacobian), numbers({0, 1}).view({2, 1})), 1e-15);
  const Function kink = [](const Tensors& x) -> Tensors { return {at::relu(x[0])}; };
  for (const auto mode : {PushMode::Recorded, PushMode::Dual})
    EXPECT_EQ(linearize(kink, {numbers({0})}, {.push = mode}).jacobian.push({numbers({1})})[0].item<double>(), 0);
  const Function empty = [](const Tensors& x) -> Tensors { return {x[0].narrow(0, 0, 0), x[0]}; };
  EXPECT_TRUE(dot_test(linearize(empty, {numbers({1})}).jacobian));
}

TEST(Linearize, MixedDtypesAndShapes) {
  const Function f = [](const Tensors& x) -> Tensors {
    return {(x[0].to(at::kDouble) * x[1]).sum(), x[0].sin().unsqueeze(0)};
  };
  const Tensors at_point = {at::ones({2, 3}, at::kFloat) / 3, numbers({.5})};
  const LinearMap j = linearize(f, at_point).jacobian;
  EXPECT_TRUE(dot_test(j));
  EXPECT_EQ(j.push(at_point)[1].scalar_type(), at::kFloat);
  const CheckResult result = check_linearization(f, at_point);
  EXPECT_TRUE(result) << result.message;
}

TEST(Linearize, AnswersTheSameTwiceAndFromSeveralThreads) {
  const LinearMap j = linearize(network, network_weights(at::kDouble)).jacobian;
  Random random(1);
  const Tensors v = random_normals(j.domain(), random), c = random_normals(j.codomain(), random);
  const Tensors pushed = j.push(v), pulled = j.pull(c);
  EXPECT_TRUE(at::equal(j.push(v)[0], pushed[0]));
  std::vector<std::thread> threads;
  std::vector<double> errors(4);
  for (size_t t = 0; t < errors.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i)
        errors[t] = std::max({errors[t], distance(j.push(v), pushed), distance(j.pull(c), pulled)});
    });
  }
  for (auto& thread : threads) thread.join();
  for (const double error : errors) EXPECT_LT(error, 1e-14);
}

TEST(Linearize, KeepsASnapshotOfThePoint) {
  Tensors x = {numbers({1, 2})};
  const Linearization l = linearize(worked_example, x);
  x[0].fill_(100);
  l.value[0].fill_(100);
  EXPECT_LT(distance(l.jacobian.push({numbers({1, 1})})[0], numbers({2, 3, -.4161468365})), 1e-10);
}

TEST(Linearize, LetsGoOfWhatItHeld) {
  const auto weight = numbers({1, 2});
  const auto before = weight.use_count();
  {
    const Function f = [weight](const Tensors& x) -> Tensors { return {(x[0] * weight).sin()}; };
    for (const auto mode : {PushMode::Recorded, PushMode::Dual}) {
      const LinearMap j = linearize(f, {numbers({1, 2})}, {.push = mode}).jacobian;
      j.push(j.pull({numbers({1, 1})}));
    }
  }
  EXPECT_EQ(weight.use_count(), before);
}

TEST(Linearize, DeepFunctions) {  // a long chain is walked and destroyed without recursion
  const Function f = [](const Tensors& x) -> Tensors {
    at::Tensor z = x[0];
    for (int i = 0; i < 10000; ++i) z = z + 1e-4 * z.sin();
    return {z};
  };
  EXPECT_TRUE(dot_test(linearize(f, {numbers({.5, 1})}).jacobian));
}

TEST(Linearize, DropoutKeepsItsFrozenSample) {
  at::Tensor mask;
  const Function f = [&](const Tensors& x) -> Tensors {
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(4);
    mask = at::rand({50}, generator, at::kDouble).lt(.5).to(at::kDouble) * 2;
    return {x[0] * mask};
  };
  const LinearMap j = linearize(f, {at::ones({50}, at::kDouble)}).jacobian;
  EXPECT_TRUE(at::equal(flatten(diagonal(j), j.domain()), mask));
}

// Softmax attention by LibTorch's fused operator, as users' networks have it.
TEST(Linearize, ScaledDotProductAttention) {
  const Function f = [](const Tensors& x) -> Tensors {
    return {at::scaled_dot_product_attention(x[0], x[1], x[2], {}, 0, /*is_causal=*/true)};
  };
  Random random(1);
  Space heads;
  for (int i = 0; i < 3; ++i) heads.leaves.push_back({.shape = {1, 2, 7, 4}});
  const Tensors at_point = random_normals(heads, random);
  const bool before = at::globalContext().userEnabledFlashSDP();
  const CheckResult result = check_linearization(f, at_point);
  EXPECT_TRUE(result) << result.message;
  EXPECT_EQ(at::globalContext().userEnabledFlashSDP(), before);
  EXPECT_TRUE(
      dot_test(hessian([&](const Tensors& x) -> Tensors { return {f(x)[0].square().sum()}; }, at_point).jacobian));
}

TEST(Linearize, BatchesPushesThroughOneCall) {
  const LinearMap j = linearize(network, network_weights(at::kDouble)).jacobian;
  Random random(8);
  const Tensors v = random_normals(j.domain(), random, 64), pushed = j.push_many(v);
  for (int64_t k = 0; k < 64; ++k) EXPECT_LT(distance(select(pushed, k), j.push(select(v, k))), 1e-13);
}

Tensors energy(const Tensors& x) {  // a scalar of two tensors
  return {(x[0].exp() * x[1].sum()).sum() + x[1].pow(4).sum() + (x[0] * x[0].flip(0)).sum()};
}

TEST(Hessian, EqualsReverseOverReverseAndIsSymmetric) {
  const Tensors at_point = {numbers({.3, -.2, .5}), numbers({1, 2})};
  const Linearization h = hessian(energy, at_point);
  EXPECT_TRUE(h.jacobian.has(Property::Symmetric));
  EXPECT_EQ(check_properties(h.jacobian), "");
  // By hand, reverse over reverse.
  Tensors leaves;
  for (const auto& t : at_point) leaves.push_back(t.clone().requires_grad_());
  const Tensors gradient = torch::autograd::grad(energy(leaves), leaves, {}, true, true);
  EXPECT_LT(distance(h.value, gradient), 1e-13);
  Random random(1);
  const Tensors v = random_normals(h.jacobian.domain(), random);
  const auto along = (gradient[0] * v[0]).sum() + (gradient[1] * v[1]).sum();
  const Tensors expected = torch::autograd::grad({along}, leaves);
  EXPECT_LT(distance(h.jacobian.push(v), expected), 1e-12);
  // The same by linearizing the pull with recorded pushes, and with the push of the pull.
  const LinearMap j = linearize(pull_of(energy, {at::ones({}, at::kDouble)}), at_point).jacobian;
  EXPECT_LT(distance(j.push(v), expected), 1e-12);
  EXPECT_LT(distance(j.pull(v), expected), 1e-12);
  const LinearMap along_v = linearize(push_of(energy, v), at_point).jacobian;
  EXPECT_LT(distance(along_v.pull({at::ones({}, at::kDouble)}), expected), 1e-12);
  // Linear functions have the second derivative zero.
  const Linearization flat = hessian([](const Tensors& x) -> Tensors { return {x[0].sum()}; }, at_point);
  EXPECT_EQ(norm(flat.jacobian.push(v)), 0);
  EXPECT_THAT(error_message([&] { hessian([](const Tensors& x) { return x; }, at_point); }), HasSubstr("one number"));
}

TEST(LinearizeBadInput, Dtypes) {
  const Function f = [](const Tensors& x) { return x; };
  EXPECT_THAT(error_message([&] { linearize(f, {}); }), HasSubstr("no inputs"));
  EXPECT_THAT(error_message([&] { linearize(f, {at::ones({2}, at::kLong)}); }), HasSubstr("input 0 is Long"));
  EXPECT_THAT(error_message([&] { linearize(f, {at::ones({2}, at::kComplexDouble)}); }), HasSubstr("ComplexDouble"));
  EXPECT_THAT(error_message([&] { linearize(f, {at::Tensor()}); }), HasSubstr("undefined"));
  const Function integers = [](const Tensors& x) -> Tensors { return {x[0], x[0].argmax()}; };
  EXPECT_THAT(error_message([&] { linearize(integers, {numbers({1})}); }), HasSubstr("output 1 of f is Long"));
  EXPECT_THAT(error_message([&] { linearize([](const Tensors&) { return Tensors{}; }, {numbers({1})}); }),
              HasSubstr("no outputs"));
}

TEST(LinearizeBadInput, DetachedOutputsAreNamed) {
  const auto weight = at::ones({2}, at::kDouble).requires_grad_();  // a graph, but not from the inputs
  const Function f = [&](const Tensors& x) -> Tensors { return {x[0].sin(), x[0].detach() * weight}; };
  EXPECT_THAT(error_message([&] { linearize(f, {numbers({1, 2})}); }), HasSubstr("output 1 of f (Double [2])"));
  const LinearMap j = linearize(f, {numbers({1, 2})}, {.allow_constant = true}).jacobian;
  EXPECT_EQ(j.push({numbers({1, 1})})[1].abs().max().item<double>(), 0);
  EXPECT_TRUE(dot_test(j));
  const Function all = [](const Tensors& x) -> Tensors { return {x[0].detach()}; };
  EXPECT_THAT(error_message([&] { linearize(all, {numbers({1})}); }), HasSubstr("output 0"));
  EXPECT_EQ(norm(linearize(all, {numbers({1})}, {.allow_constant = true}).jacobian.push({numbers({1})})), 0);
}

TEST(LinearizeBadInput, WorksWhereGradientsAreOff) {
  const at::NoGradGuard no_gradients;
  EXPECT_TRUE(dot_test(linearize(network, network_weights(at::kDouble)).jacobian));
  const c10::InferenceMode inference;
  EXPECT_TRUE(dot_test(linearize(worked_example, {at::ones({2}, at::kDouble)}).jacobian));
}

TEST(LinearizeBadInput, ChangesInPlace) {
  const auto weight = numbers({1, 2});
  const Function captured = [&](const Tensors& x) -> Tensors { return {(x[0] * weight).sin() * weight}; };
  const LinearMap j = linearize(captured, {numbers({1, 2})}).jacobian;
  weight.add_(1);
  EXPECT_THAT(error_message(
                  [&] {
                    j.push({numbers({1, 1})});
                  },
                  ErrorKind::Computation),
              HasSubstr("changed in place after linearize"));
  EXPECT_THAT(error_message(
                  [&] {
                    j.pull({numbers({1, 1})});
                  },
                  ErrorKind::Computation),
              HasSubstr("changed in place after linearize"));
  const Function inputs = [](const Tensors& x) -> Tensors { return {x[0].add_(1)}; };
  EXPECT_THAT(error_message([&] { linearize(inputs, {numbers({1})}); }), HasSubstr("changes one of its inputs"));
}

TEST(LinearizeBadInput, NotFinite) {
  const Function f = [](const Tensors& x) -> Tensors { return {x[0], x[0].log()}; };
  EXPECT_THAT(error_message(
                  [&] {
                    linearize(f, {numbers({1, -1})});
                  },
                  ErrorKind::Computation),
              HasSubstr("output 1 of f has 1 of 2 values that are not finite, the first (NaN) at [1]"));
  EXPECT_NO_THROW(linearize(f, {numbers({1, -1})}, {.allow_nonfinite = true}));
  const Function large = [](const Tensors& x) -> Tensors {
    return {x[0] * 1e308};
  };  // the sum overflows, no entry does
  EXPECT_NO_THROW(linearize(large, {numbers({1, 1, 1})}));
}

// An operation whose backward is a constant to autograd, as kernels written for training only are.
struct OnceOnly : torch::autograd::Function<OnceOnly> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return x.square();
  }
  static Tensors backward(torch::autograd::AutogradContext* context, const Tensors& c) {
    return {(2 * context->get_saved_variables()[0] * c[0]).detach()};
  }
};

TEST(LinearizeBadInput, OperationsWithoutPushes) {
  Random random(1);
  const Tensors x = {random_normals(flat_space(50), random)};
  const Function silent = [](const Tensors& v) -> Tensors { return {OnceOnly::apply(v[0]) + v[0].sin()}; };
  const LinearMap j = linearize(silent, {x[0]}).jacobian;
  EXPECT_THAT(error_message([&] { j.push({x[0]}); }, ErrorKind::Computation),
              HasSubstr("not differentiable in its cotangent"));
  EXPECT_THROW(j.push({x[0]}), Error);  // again and again
  const Function whole = [](const Tensors& v) -> Tensors { return {OnceOnly::apply(v[0])}; };
  const LinearMap none = linearize(whole, {x[0]}).jacobian;
  EXPECT_THAT(error_message([&] { none.push({x[0]}); }, ErrorKind::Computation), HasSubstr("not differentiable"));
  EXPECT_LT(distance(none.pull({x[0]})[0], 2 * x[0] * x[0]), 1e-14);
  // What the test would have found.
  const LinearMap untested = linearize(silent, {x[0]}, {.verify_push = false}).jacobian;
  EXPECT_LT(distance(untested.push({x[0]})[0], x[0] * x[0].cos()), 1e-14);
  // LibTorch says which operation it is.
  const Function named = [](const Tensors& v) -> Tensors {
    return {std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(v[0], v[0], v[0]))};
  };
  const Tensors heads = {x[0].narrow(0, 0, 24).view({1, 1, 6, 4})};
  const std::string said = error_message([&] { linearize(named, heads).jacobian.push(heads); }, ErrorKind::Computation);
  EXPECT_THAT(said, HasSubstr("flash_attention"));
  EXPECT_TRUE(norm(linearize(named, heads, {.push = PushMode::None}).jacobian.pull(heads)) > 0);
}

TEST(LinearizeBadInput, HooksOnGradients) {
  const Function f = [](const Tensors& x) -> Tensors {
    const auto y = x[0].sin();
    y.register_hook([](const at::Tensor& g) { return 2 * g; });
    return {y};
  };
  const Tensors at_point = {numbers({1, 2})};
  EXPECT_THAT(error_message([&] { linearize(f, at_point).jacobian.push(at_point); }, ErrorKind::Computation),
              HasSubstr("hook"));
  EXPECT_LT(distance(linearize(f, at_point, {.verify_push = false}).jacobian.push(at_point)[0],
                     at_point[0] * at_point[0].cos()),
            1e-14);
}

TEST(LinearizeBadInput, NestedDualNumbersAreRefused) {
  const Function f = [](const Tensors& x) -> Tensors { return {x[0].sin()}; };
  const Function nested = [&](const Tensors& x) {
    return linearize(f, x, {.push = PushMode::Dual}).jacobian.push({at::ones_like(x[0])});
  };
  const LinearizeOptions dual{.push = PushMode::Dual, .pull = false, .allow_constant = true};
  EXPECT_THAT(error_message([&] { linearize(nested, {numbers({1})}, dual).jacobian.push({numbers({1})}); },
                            ErrorKind::Computation),
              HasSubstr("Nested forward mode"));
}

TEST(LinearizeBadInput, FunctionsThatFailSayWhy) {
  const Function f = [](const Tensors& x) -> Tensors { return {at::mm(x[0], x[0])}; };
  EXPECT_THAT(error_message(
                  [&] {
                    linearize(f, {at::ones({2, 3}, at::kDouble)});
                  },
                  ErrorKind::Computation),
              HasSubstr("linearize: "));
}

}  // namespace
}  // namespace unbend::test
