// linearize on the three cases of methods/autofd.md, B2: CPU time of forward, build (with what the first
// push makes), pull, push and dual push, as multiples of a forward pass without graph, and what 10 pushes cost in all.
// Usage: bench_linearize [--json] [ROUNDS]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <string>
#include <vector>

#include "unbend/calculus/linearize.h"

namespace unbend {
namespace {

struct Case {
  std::string name;
  Function f;
  Tensors at;
  bool has_bars = false;
};

at::Tensor weights(int64_t out, int64_t in) { return at::randn({out, in}) / std::sqrt(static_cast<double>(in)); }

// All weights of a perceptron with GELU, on a batch.
Case perceptron(const std::string& name, int64_t batch, int64_t in, int64_t hidden) {
  const auto x = at::randn({batch, in});
  const Function f = [x](const Tensors& w) -> Tensors {
    const auto h = at::gelu(at::linear(at::gelu(at::linear(x, w[0], w[1])), w[2], w[3]));
    return {at::linear(h, w[4], w[5])};
  };
  return {name,
          f,
          {weights(hidden, in), at::zeros({hidden}), weights(hidden, hidden), at::zeros({hidden}), weights(10, hidden),
           at::zeros({10})}};
}

// Pre-norm transformer block, B 2, T 256, D 256, H 4: attention written out; or LibTorch's fused one, which can only be
// linearized in plain form.
Case block(bool fused) {
  const int64_t batch = 2, tokens = 256, width = 256, heads = 4, head = width / heads;
  const auto x = at::randn({batch, tokens, width});
  const Function f = [=](const Tensors& w) -> Tensors {
    const auto norm = [&](const at::Tensor& h, size_t i) { return at::layer_norm(h, {width}, w[i], w[i + 1]); };
    const auto qkv = at::linear(norm(x, 0), w[2], w[3]).view({batch, tokens, 3, heads, head}).permute({2, 0, 3, 1, 4});
    const auto parts = qkv.unbind();
    at::Tensor mixed;
    if (fused) {
      mixed = at::scaled_dot_product_attention(parts[0], parts[1], parts[2]);
    } else {
      const auto scores = at::matmul(parts[0] / std::sqrt(static_cast<double>(head)), parts[1].transpose(-1, -2));
      mixed = at::matmul(at::softmax(scores, -1), parts[2]);
    }
    const auto h = x + at::linear(mixed.transpose(1, 2).reshape({batch, tokens, width}), w[4], w[5]);
    return {h + at::linear(at::gelu(at::linear(norm(h, 6), w[8], w[9])), w[10], w[11])};
  };
  return {fused ? "  LibTorch's fused attention" : "transformer block, B2 T256 D256 H4",
          f,
          {at::ones({width}), at::zeros({width}), weights(3 * width, width), at::zeros({3 * width}),
           weights(width, width), at::zeros({width}), at::ones({width}), at::zeros({width}), weights(4 * width, width),
           at::zeros({4 * width}), weights(width, 4 * width), at::zeros({width})}};
}

Case chain() {
  const Function f = [](const Tensors& x) -> Tensors {
    at::Tensor z = x[0];
    for (int i = 0; i < 20; ++i) z = at::tanh(at::sin(z) * at::exp(-z));
    return {z};
  };
  return {"20 x tanh(sin z exp(-z)), 3e5 numbers", f, {at::randn({300000})}};
}

double resident_mb() {
  malloc_trim(0);  // what has been freed is not held
  std::ifstream file("/proc/self/statm");
  double pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

// Milliseconds of CPU time.
template <class Work>
double measure(const Work& work) {
  const std::clock_t start = std::clock();
  work();
  return 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

struct Times {
  double forward = INFINITY, build = INFINITY, pull = INFINITY, push = INFINITY, dual = INFINITY, many = INFINITY;
  double memory = 0;  // MB that the linearization holds
  int64_t calls = 0;  // of f, in one build with all its pushes and pulls
};

double held_mb(const Case& c) {
  const double before = resident_mb();
  const Linearization l = linearize(c.f, c.at);
  l.jacobian.push(c.at);
  return resident_mb() - before;
}

Times run(const Case& c, int rounds) {
  constexpr int kPushes = 10;
  Times best;
  double first = INFINITY;  // the first push, which makes what all pushes need, with the build before it
  best.memory = held_mb(c);
  const auto keep_best = [](double& time, const auto& work) { time = std::min(time, measure(work)); };
  for (int round = 0; round < rounds; ++round) {
    int64_t calls = 0;
    const Function counted = [&](const Tensors& x) { return ++calls, c.f(x); };
    std::optional<Linearization> l;
    keep_best(first, [&] {
      l = linearize(counted, c.at);
      l->jacobian.push(c.at);
    });
    const LinearMap j = l->jacobian, dual = linearize(c.f, c.at, {.push = PushMode::Dual, .pull = false}).jacobian;
    Random random(1);
    const Tensors v = random_normals(j.domain(), random), cotangent = random_normals(j.codomain(), random);
    for (int i = 0; i < kPushes; ++i) {  // in turns, so that all meet the same state of the machine
      const at::NoGradGuard no_gradients;
      keep_best(best.forward, [&] { c.f(c.at); });
      keep_best(best.push, [&] { j.push(v); });
      keep_best(best.pull, [&] { j.pull(cotangent); });
      keep_best(best.dual, [&] { dual.push(v); });
    }
    const Tensors eight = random_normals(j.codomain(), random, 8);
    double together = INFINITY;
    keep_best(together, [&] { j.pull_many(eight); });
    best.many = std::min(best.many, together / 8);
    best.calls = calls;
  }
  best.build = first - best.push;
  return best;
}

// The bars: pull 1.8 and push 2.0 for the perceptron and the block.
std::string verdicts(const Case& c, const Times& t) {
  if (!c.has_bars) return "";
  const auto verdict = [&](double time, double bar) { return time <= bar * t.forward ? "pass" : "MISS"; };
  return fmt::format("   pull {}, push {}", verdict(t.pull, 1.8), verdict(t.push, 2.0));
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  using namespace unbend;  // NOLINT(google-build-using-namespace)
  bool json = false;
  int rounds = 5;
  for (int i = 1; i < argc; ++i)
    std::string(argv[i]) == "--json" ? void(json = true) : void(rounds = std::atoi(argv[i]));
  at::set_num_threads(1);
  at::manual_seed(1);
  if (!json) {
    fmt::print("float32, one thread, best of {} rounds; bars: pull 1.8, push 2.0\n", rounds);
    fmt::print("{:38} {:>10} {:>6} {:>6} {:>6} {:>6} {:>9} {:>9} {:>9} {:>8}\n", "", "forward ms", "build", "pull",
               "push", "dual", "8 pulls/8", "10 pushes", "10 duals", "MB held");
  }
  Case large = perceptron("MLP 784-1024-1024-10, batch 128", 128, 784, 1024), plain = block(false);
  large.has_bars = plain.has_bars = true;
  for (const Case& c : {large, plain, block(true), chain(), perceptron("MLP 30-40-40-10, batch 16", 16, 30, 40)}) {
    const Times t = run(c, rounds);
    if (json) {
      fmt::print(
          "{{\"case\": \"{}\", \"forward_ms\": {:.3f}, \"build_ms\": {:.3f}, \"pull_ms\": {:.3f}, \"push_ms\": {:.3f}, "
          "\"dual_ms\": {:.3f}, \"calls\": {}}}\n",
          c.name, t.forward, t.build, t.pull, t.push, t.dual, t.calls);
      continue;
    }
    fmt::print(
        "{:38} {:10.2f} {:5.2f}x {:5.2f}x {:5.2f}x {:5.2f}x {:8.2f}x {:8.2f}x {:8.2f}x {:8.0f}   f ran {} time{}{}\n",
        c.name, t.forward, t.build / t.forward, t.pull / t.forward, t.push / t.forward, t.dual / t.forward,
        t.many / t.forward, (t.build + 10 * t.push) / t.forward, 10 * t.dual / t.forward, t.memory, t.calls,
        t.calls == 1 ? "" : "s", verdicts(c, t));
  }
}
