// Times of unbend/transport on one core, in CPU seconds, for bench/peers/transport.py, which compares values and times.
// Usage: bench_transport opt|matrix|circle FOLDER [LAMBDA]  (arrays in FOLDER, results written there; prints JSON)
#include <fmt/format.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>

#include "unbend/base/error.h"
#include "unbend/base/npy.h"
#include "unbend/transport/lcot.h"
#include "unbend/transport/lopt.h"

namespace unbend {
namespace {

using namespace transport;

double seconds(int rounds, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < rounds; ++i) {
    const std::clock_t start = std::clock();
    work();
    best = std::min(best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return best;
}

/// FLOP per second of fused multiply-adds in float64, all in registers.
double fma_peak() {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<double> d;
  constexpr int kChains = 12, kSteps = 1 << 21;
  hn::Vec<decltype(d)> sums[kChains];
  for (int k = 0; k < kChains; ++k) sums[k] = hn::Set(d, k);
  const double time = seconds(5, [&] {
    const auto a = hn::Set(d, .999999), b = hn::Set(d, 1e-9);
    for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
      for (int k = 0; k < kChains; ++k) sums[k] = hn::MulAdd(sums[k], a, b);
    }
  });
  double total = 0;
  for (int k = 0; k < kChains; ++k) total += hn::GetLane(sums[k]);
  if (total == 0) fmt::print(stderr, "\n");  // the sums are used
  return 2.0 * kChains * kSteps * static_cast<double>(hn::Lanes(d)) / time;
}

Measure read_measure(const std::filesystem::path& points, const std::filesystem::path& masses) {
  const NpyArray x = read_npy(points);
  return {x.shape.at(1), to_doubles(x), to_doubles(read_npy(masses))};
}

void opt(const std::filesystem::path& folder, double lambda) {
  const Measure mu = read_measure(folder / "x.npy", folder / "p.npy"),
                nu = read_measure(folder / "y.npy", folder / "q.npy");
  PartialPlan plan;
  const double time = seconds(3, [&] { plan = partial_transport(mu, nu, lambda); });
  fmt::print("{{\"seconds\": {}, \"value\": {}, \"gap\": {}}}\n", time, plan.value, plan.gap.value_or(0));
}

void matrix(const std::filesystem::path& folder, double lambda) {
  const NpyArray u = read_npy(folder / "u.npy");
  const auto displacements = to_doubles(u), masses = to_doubles(read_npy(folder / "mass.npy")),
             rests = to_doubles(read_npy(folder / "rest.npy"));
  const std::int64_t count = u.shape.at(0), atoms = u.shape.at(1), dim = u.shape.at(2);
  std::vector<Embedding> embeddings;
  for (std::int64_t i = 0; i < count; ++i) {
    Embedding e;
    e.displacement.assign(displacements.begin() + i * atoms * dim, displacements.begin() + (i + 1) * atoms * dim);
    e.mass.assign(masses.begin() + i * atoms, masses.begin() + (i + 1) * atoms);
    e.rest = {dim, std::vector<double>(static_cast<std::size_t>(dim), 0.0), {rests[static_cast<std::size_t>(i)]}};
    embeddings.push_back(std::move(e));
  }
  std::vector<double> out;
  const double time = seconds(5, [&] { out = lopt_matrix(embeddings, lambda, 1); });
  write_npy(folder / "out.npy", {count, count}, out);
  // Per pair and atom: dim subtractions and fused multiply-adds, a maximum, a minimum, a fused multiply-add.
  const double flops = static_cast<double>(count) * static_cast<double>(count - 1) / 2 * static_cast<double>(atoms) *
                       static_cast<double>(3 * dim + 4);
  fmt::print("{{\"seconds\": {}, \"flops\": {}, \"peak\": {}}}\n", time, flops / time, fma_peak());
}

void circle(const std::filesystem::path& folder) {
  const NpyArray x = read_npy(folder / "x.npy");
  const auto values = to_doubles(x);
  const std::int64_t count = x.shape.at(0), atoms = x.shape.at(1);
  std::vector<CircularMeasure> measures;
  std::vector<double> out;
  const double time = seconds(3, [&] {
    measures.clear();
    std::vector<CircularMap> maps;
    for (std::int64_t i = 0; i < count; ++i) {
      measures.push_back(circular_atoms(
          std::span(values).subspan(static_cast<std::size_t>(i * atoms), static_cast<std::size_t>(atoms)), {}, 1, "x"));
      maps.push_back(lcot_embed(measures.back()));
    }
    out = lcot_matrix(maps, 2, 1);
  });
  write_npy(folder / "out.npy", {count, count}, out);
  constexpr int kPairs = 20;
  std::vector<double> exact;
  const double cot = seconds(1, [&] {
    for (std::int64_t k = 0; k < kPairs; ++k)
      exact.push_back(circular_transport(measures[static_cast<std::size_t>(k % count)],
                                         measures[static_cast<std::size_t>((k + 1) % count)])
                          .cost);
  });
  write_npy(folder / "exact.npy", {kPairs}, exact);
  fmt::print("{{\"seconds\": {}, \"cot_pair\": {}}}\n", time, cot / kPairs);
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const double lambda = argc > 3 ? std::atof(argv[3]) : 1;
  try {
    if (argc > 2 && what == "opt") return unbend::opt(argv[2], lambda), 0;
    if (argc > 2 && what == "matrix") return unbend::matrix(argv[2], lambda), 0;
    if (argc > 2 && what == "circle") return unbend::circle(argv[2]), 0;
  } catch (const unbend::Error& error) {
    fmt::print(stderr, "bench_transport: {}\n", error.what());
    return error.exit_code();
  }
  fmt::print(stderr, "usage: bench_transport opt|matrix|circle FOLDER [LAMBDA]\n");
  return 2;
}
