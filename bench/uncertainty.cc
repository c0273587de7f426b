// Cost of propagating input noise through a TorchScript network: CPU milliseconds of a forward pass, of the full and
// the marginal form, each the shortest of ROUNDS after a warm-up. For bench/peers/uncertainty.py, which compares values
// and times.
// Usage: bench_uncertainty NET.pt X.npy STD COVARIANCE.npy [ROUNDS]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <limits>

#include "unbend/base/error.h"
#include "unbend/nets/network_file.h"
#include "unbend/tangent/stable_distribution.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

double milliseconds(int rounds, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  work();  // warm-up
  for (int i = 0; i < rounds; ++i) {
    const std::clock_t start = std::clock();
    work();
    best = std::min(best, 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return best;
}

void measure(const std::string& net_file, const std::string& x_file, double std, const std::string& out, int rounds) {
  const at::NoGradGuard no_gradients;
  const auto net = read_network(net_file);
  const auto x = load_npy(x_file);
  const auto gaussian = independent_noise(gaussian_law(), std), cauchy = independent_noise(cauchy_law(), std);
  save_npy(out, covariance(propagate(net, x, gaussian)));
  const double forward = milliseconds(rounds, [&] { net(x); });
  const double full = milliseconds(rounds, [&] { propagate(net, x, gaussian); });
  const double heavy = milliseconds(rounds, [&] { propagate(net, x, cauchy); });
  const double marginal = milliseconds(rounds, [&] { propagate_marginal(net, x, gaussian); });
  fmt::print("{{\"forward\": {}, \"full\": {}, \"cauchy\": {}, \"marginal\": {}}}\n", forward, full, heavy, marginal);
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  if (argc < 5) {
    fmt::print(stderr, "usage: bench_uncertainty NET.pt X.npy STD COVARIANCE.npy [ROUNDS]\n");
    return 2;
  }
  at::set_num_threads(1);
  try {
    unbend::measure(argv[1], argv[2], std::atof(argv[3]), argv[4], argc > 5 ? std::atoi(argv[5]) : 5);
  } catch (const unbend::Error& error) {
    fmt::print(stderr, "bench_uncertainty: {}\n", error.what());
    return error.exit_code();
  }
}
