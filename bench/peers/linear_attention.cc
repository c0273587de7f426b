// Our side of linear_attention.py, which writes one request per line and waits for the answer, one line of JSON:
//
//   peak                       FLOP per second of a large matrix product
//   time DECAY PASS TOKENS     seconds of one call, median of a burst; PASS is forward or both (forward and backward)
//   check DECAY TOKENS         norms of the output and of the gradients
//   memory DECAY TOKENS        bytes that a first forward and backward adds to the process
//
// DECAY is none, scalar or vector. Nine query heads, three kv heads, width 64; normal numbers from seed 1, drawn as
// linear_attention.py draws them.
//
//   bench_peers_linear_attention THREADS
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>
#include <vector>

#include "bench/gated_scan.h"
#include "bench/peak.h"
#include "unbend/attention/gated_scan.h"
#include "unbend/base/error.h"
#include "unbend/base/json.h"

namespace unbend {
namespace {

constexpr int64_t kHeads = 9, kKvHeads = 3, kWidth = 64;

/// q, k, v, then the log decays unless there are none; [1, H, T, d], as projections give them.
struct Inputs {
  std::vector<at::Tensor> arguments;
  at::Tensor cotangent;

  Inputs(const std::string& decay, int64_t tokens, bool differentiable) {
    require(decay == "none" || decay == "scalar" || decay == "vector", "no decay '{}'", decay);
    at::Generator random = at::detail::createCPUGenerator(1);
    const auto make = [&](int64_t heads, int64_t width) {
      return at::randn({1, tokens, heads, width}, random, at::kFloat).transpose(1, 2);
    };
    for (const int64_t heads : {kHeads, kKvHeads, kKvHeads}) arguments.push_back(make(heads, kWidth));
    if (decay != "none") arguments.push_back(at::log_sigmoid(make(kKvHeads, decay == "scalar" ? 1 : kWidth)).div(16));
    cotangent = make(kHeads, kWidth);
    for (auto& x : arguments) x.requires_grad_(differentiable);
  }

  at::Tensor forward() const {
    const auto decay = arguments.size() > 3 ? arguments[3] : at::Tensor();
    return gated_scan(arguments[0], arguments[1], arguments[2], decay).out;
  }
  std::vector<at::Tensor> both() const {
    const auto out = forward();
    auto all = torch::autograd::grad({out}, arguments, {cotangent});
    all.insert(all.begin(), out);
    return all;
  }
};

/// Median of the calls of a tenth of a second, one at least.
double seconds_of_call(const std::function<void()>& call) {
  std::vector<double> all;
  for (double total = 0; total < .1; total += all.back()) {
    const auto start = std::chrono::steady_clock::now();
    call();
    all.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2), all.end());
  return all[all.size() / 2];
}

/// Bytes that `call` adds to what is resident, at most at one time.
int64_t added_memory(const std::function<void()>& call) {
  const auto status = [](const std::string& field) {
    std::ifstream file("/proc/self/status");
    for (std::string word; file >> word;)
      if (word == field + ":") return file >> word, std::stoll(word) * 1024;
    fail_computation("/proc/self/status has no {}", field);
  };
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts anew
  const int64_t before = status("VmRSS");
  call();
  return status("VmHWM") - before;
}

Json answer(std::istringstream request) {
  std::string what, decay, pass;
  int64_t tokens = 0;
  request >> what;
  if (what == "peak") return {{"flops_per_second", wall_matrix_peak()}};
  request >> decay;
  if (what == "time") request >> pass;
  request >> tokens;
  require(!request.fail() && tokens > 0, "not a request: {}", request.str());
  const bool both = pass != "forward";
  const Inputs inputs(decay, tokens, both);
  if (what == "time") {
    const auto call = [&] { both ? void(inputs.both()) : void(inputs.forward()); };
    call();
    return {{"seconds", seconds_of_call(call)},
            {"flops", gated_scan_flops(kHeads, kKvHeads, kWidth, tokens, ScanOptions().chunk, both)}};
  }
  if (what == "check") {
    Json norms = Json::array();
    for (const auto& x : inputs.both()) norms.push_back(x.to(at::kDouble).norm().item<double>());
    return {{"norms", norms}};
  }
  require(what == "memory", "not a request: {}", request.str());
  return {{"bytes", added_memory([&] { inputs.both(); })}};
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  try {
    unbend::require(argc == 2, "usage: {} THREADS", argv[0]);
    at::set_num_threads(std::stoi(argv[1]));
    for (std::string line; std::getline(std::cin, line);)
      std::cout << unbend::answer(std::istringstream(line)).dump() << std::endl;
  } catch (const std::exception& error) {
    fmt::print(stderr, "linear_attention: {}\n", error.what());
    return 2;
  }
}
