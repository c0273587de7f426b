// Local complexity of a perceptron at 1,000 points beside forward passes of the same points, in one run on one thread:
// the fused kernel, the same through blocks of vertices, at several frames and radii. Usage: bench_local_complexity
// [--json] [ROUNDS]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "bench/peak.h"
#include "unbend/tangent/local_complexity.h"

namespace unbend {
namespace {

constexpr int64_t kPoints = 1000;

// Milliseconds of CPU time.
template <class Work>
double measure(const Work& work) {
  const std::clock_t start = std::clock();
  work();
  return 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// The authors' MNIST perceptron: 4 Linear layers of width 200.
struct Case {
  Network network;
  at::Tensor points, frame;
  LocalComplexityOptions options;
};

Case make(Activation activation, int64_t directions, double radius, at::ScalarType type) {
  Random random(1);
  Case c{to(multilayer_perceptron({784, 200, 200, 200, 10}, {activation}, random), type),
         (uniform_tensor({kPoints, 784}, .5, random) + .5).to(type),
         orthoplex_frame(784, directions, 1),
         {.radius = radius}};
  return c;
}

struct Times {
  double forward = INFINITY, vertices = INFINITY, complexity = INFINITY, blocks = INFINITY, crossed = 0;
};

Times run(const Case& c, int rounds) {
  const at::NoGradGuard no_gradients;
  Times t;
  auto by_blocks = c.options;
  by_blocks.layers = {"layer1", "layer2", "layer3"};  // by name: the general way
  const auto many = c.points.repeat({2 * c.frame.size(0), 1});
  for (int i = 0; i < rounds; ++i) {  // in turns, so that all meet the same state of the machine
    t.forward = std::min(t.forward, measure([&] { c.network(c.points); }));
    t.complexity = std::min(
        t.complexity, measure([&] { t.crossed = local_complexity(c.network, c.points, c.frame, c.options).mean(); }));
    t.forward = std::min(t.forward, measure([&] { c.network(c.points); }));
    if (i % 4 == 0) {
      t.vertices = std::min(t.vertices, measure([&] { c.network(many); }));
      t.blocks = std::min(t.blocks, measure([&] { local_complexity(c.network, c.points, c.frame, by_blocks); }));
    }
  }
  return t;
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  using namespace unbend;  // NOLINT(google-build-using-namespace)
  bool json = false;
  int rounds = 12;
  for (int i = 1; i < argc; ++i)
    std::string(argv[i]) == "--json" ? void(json = true) : void(rounds = std::atoi(argv[i]));
  at::set_num_threads(1);
  const auto peak = matrix_peak(at::kFloat);
  if (!json)
    fmt::print(
        "784-200-200-200-10, {} points, one thread, best of {} rounds, CPU time; products at {:.0f} GFLOP/s.\n"
        "forward: one pass of the points; vertices: one pass of their 2 P vertices; complexity: the kernel; blocks: "
        "through the vertices.\nbar: complexity within 10 forward passes of the points\n"
        "{:10} {:>4} {:>7} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>9}\n",
        kPoints, rounds, peak / 1e9, "", "P", "radius", "crossed", "forward ms", "vertices", "complexity", "blocks",
        "/ forward", "/ vertices", "bar");
  struct Setting {
    const char* name;
    Activation activation;
    at::ScalarType type;
    int64_t directions;
    double radius;
  };
  const Setting settings[] = {
      {"relu", Activation::Relu, at::kFloat, 25, .05},      {"relu", Activation::Relu, at::kFloat, 25, .5},
      {"relu", Activation::Relu, at::kFloat, 25, 5},        {"relu", Activation::Relu, at::kFloat, 5, .05},
      {"relu", Activation::Relu, at::kFloat, 50, .05},      {"gelu", Activation::Gelu, at::kFloat, 25, .05},
      {"relu f64", Activation::Relu, at::kDouble, 25, .05}, {"gelu f64", Activation::Gelu, at::kDouble, 25, .05},
  };
  for (const auto& s : settings) {
    const auto t = run(make(s.activation, s.directions, s.radius, s.type), rounds);
    const double ratio = t.complexity / t.forward;
    if (json)
      fmt::print(
          "{{\"case\": \"{}\", \"directions\": {}, \"radius\": {}, \"crossed\": {:.3f}, \"forward_ms\": {:.3f}, "
          "\"vertices_ms\": {:.3f}, \"complexity_ms\": {:.3f}, \"blocks_ms\": {:.3f}}}\n",
          s.name, s.directions, s.radius, t.crossed, t.forward, t.vertices, t.complexity, t.blocks);
    else
      fmt::print("{:10} {:4} {:7g} {:8.2f} {:10.2f} {:10.2f} {:10.2f} {:10.2f} {:9.2f}x {:9.3f}x {:>9}\n", s.name,
                 s.directions, s.radius, t.crossed, t.forward, t.vertices, t.complexity, t.blocks, ratio,
                 t.complexity / t.vertices, ratio <= 10 ? "pass" : "MISS");
  }
}
