#include <span>

#include "python/bindings/bindings.h"
#include "unbend/base/error.h"
#include "unbend/base/random.h"
#include "unbend/transport/lcot.h"
#include "unbend/transport/lopt.h"
#include "unbend/transport/sphere.h"

namespace py = pybind11;

namespace unbend {
namespace {

using namespace transport;  // NOLINT(google-build-using-namespace)

using Given = std::pair<at::Tensor, std::optional<at::Tensor>>;  // points [n, d] (or [n]), masses [n] or none: 1 each

std::vector<double> numbers(const at::Tensor& t) {
  const auto flat = t.detach().to(at::kCPU, at::kDouble).contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

at::Tensor tensor(const std::vector<double>& values, at::IntArrayRef shape) {
  return unbend::tensor(values).view(shape);
}
using unbend::tensor;

std::vector<double> masses_of(const Given& given) {
  const auto& [points, masses] = given;
  if (!masses) return std::vector<double>(static_cast<std::size_t>(points.size(0)), 1.);
  require(masses->dim() == 1 && masses->size(0) == points.size(0), "masses must be [{}], one per point",
          points.size(0));
  return numbers(*masses);
}

Measure measure(const Given& given) {
  const auto& points = given.first;
  require(points.dim() == 1 || points.dim() == 2, "points must be [n, d] or [n], not of {} dimensions", points.dim());
  return {points.dim() == 1 ? 1 : points.size(1), numbers(points), masses_of(given)};
}

/// The reference as the embedding took it.
Measure reference_of(const Given& given, const Embedding& e) {
  auto reference = measure(given);
  return e.scaled ? normalised(std::move(reference), "reference") : reference;
}

std::vector<Measure> measures(const std::vector<Given>& all) {
  std::vector<Measure> result;
  for (const auto& given : all) result.push_back(measure(given));
  return result;
}

/// (points [n, d], masses [n]).
std::pair<at::Tensor, at::Tensor> given(const Measure& m) {
  return {tensor(m.points, {m.size(), m.dim}), tensor(m.masses)};
}

Solver solver_named(const std::string& name) {
  if (name == "network simplex") return Solver::NetworkSimplex;
  if (name == "assignment") return Solver::Assignment;
  require(name == "automatic", "solver is 'automatic', 'network simplex' or 'assignment', not '{}'", name);
  return Solver::Automatic;
}

CircularMeasure circle(const Given& given, double period, bool wrap, std::string_view name) {
  return circular_atoms(numbers(given.first), masses_of(given), period, name, wrap ? Range::Reduce : Range::Refuse);
}

/// Which atoms a plan joins: index 0 sources, 1 targets.
at::Tensor atoms(const PartialPlan& plan) {
  auto result = at::empty({2, std::ssize(plan.entries)}, at::kLong);
  auto* to = result.mutable_data_ptr<std::int64_t>();
  for (const auto& e : plan.entries) *to++ = e.source;
  for (const auto& e : plan.entries) *to++ = e.target;
  return result;
}

at::Tensor plan_masses(const PartialPlan& plan) {
  std::vector<double> result;
  for (const auto& e : plan.entries) result.push_back(e.mass);
  return tensor(result);
}

void bind_partial(py::module_& m) {
  py::class_<PartialPlan>(m, "PartialPlan")
      .def_property_readonly("atoms", &atoms)
      .def_property_readonly("masses", &plan_masses)
      .def_readonly("value", &PartialPlan::value)
      .def_readonly("cost", &PartialPlan::cost)
      .def_readonly("transported", &PartialPlan::transported)
      .def_readonly("gap", &PartialPlan::gap)
      .def_readonly("solver", &PartialPlan::solver)
      .def_readonly("steps", &PartialPlan::steps)
      .def_property_readonly("source_potentials", [](const PartialPlan& p) { return tensor(p.source_potentials); })
      .def_property_readonly("target_potentials", [](const PartialPlan& p) { return tensor(p.target_potentials); });
  m.def(
      "partial_transport",
      [](const Given& source, const Given& target, std::optional<double> lambda, const std::string& solver) {
        const auto with = solver_named(solver);
        if (lambda) return partial_transport(measure(source), measure(target), *lambda, with);
        require(with == Solver::Automatic, "balanced transport, without lam, has one solver: leave out '{}'", solver);
        return balanced_transport(measure(source), measure(target));
      },
      Released());

  py::class_<Embedding>(m, "LoptEmbedding")
      .def_property_readonly("displacement",
                             [](const Embedding& e) {
                               const auto atoms = std::ssize(e.mass);
                               return tensor(e.displacement, {atoms, std::ssize(e.displacement) / atoms});
                             })
      .def_property_readonly("mass", [](const Embedding& e) { return tensor(e.mass); })
      .def_property_readonly("rest", [](const Embedding& e) { return given(e.rest); })
      .def_readonly("value", &Embedding::value);
  m.def(
      "lopt_embed",
      [](const Given& reference, const std::vector<Given>& targets, std::optional<double> lambda, int threads) {
        const auto from = measure(reference);
        const auto embed = [&](const Measure& target) {
          return lambda ? lopt_embed(from, target, *lambda) : lot_embed(from, target);
        };
        return embed_all(measures(targets), embed, threads);
      },
      Released());
  m.def(
      "lopt_matrix",
      [](const std::vector<Embedding>& all, double lambda, int threads) {
        return tensor(lopt_matrix(all, lambda, threads), {std::ssize(all), std::ssize(all)});
      },
      Released());
  m.def(
      "lopt_features",
      [](const Given& reference, const std::vector<Embedding>& all, std::optional<double> lambda) {
        require(!all.empty(), "features of no embeddings");
        auto from = measure(reference);
        if (!lambda) from = normalised(std::move(from), "reference");  // as LOT has it
        return tensor(features(from, all, lambda.has_value(), lambda.value_or(0)), {std::ssize(all), -1});
      },
      Released());
  m.def(
      "lopt_interpolate",
      [](const Given& reference, const Embedding& e, double t) {
        return given(interpolate(reference_of(reference, e), e, t));
      },
      Released());
  m.def(
      "lopt_interpolate_between",
      [](const Given& reference, const Embedding& from, const Embedding& to, double t) {
        return given(interpolate(reference_of(reference, from), from, to, t));
      },
      Released());
  m.def(
      "lopt_barycenter",
      [](const Given& start, const std::vector<Given>& targets, double lambda, const std::vector<double>& weights,
         bool weigh_by_mass, int most_rounds, double tolerance, int threads) {
        const BarycenterOptions o{weights, weigh_by_mass, most_rounds, tolerance, threads};
        auto result = barycenter(measure(start), measures(targets), lambda, o);
        const auto [points, masses] = given(result.measure);
        return std::tuple(points, masses, result.rounds, result.change);
      },
      Released());
}

void bind_circle(py::module_& m) {
  py::class_<CircularMap>(m, "CircularMap")
      .def_property_readonly("starts", [](const CircularMap& map) { return tensor(map.starts); })
      .def_property_readonly("left", [](const CircularMap& map) { return tensor(map.left); })
      .def_property_readonly("right", [](const CircularMap& map) { return tensor(map.right); })
      .def("__len__", &CircularMap::size)
      .def("__call__", [](const CircularMap& map, double t) {
        require(t >= 0 && t < 1, "a circular map takes t in [0, 1), not {}", t);
        return map(t);
      });
  m.def(
      "circular_transport",
      [](const Given& a, const Given& b, double period, double p, bool wrap) {
        return circular_transport(circle(a, period, wrap, "a"), circle(b, period, wrap, "b"), p).cost;
      },
      Released());
  m.def(
      "lcot_embed",
      [](const Given& atoms, double period, bool wrap, const std::optional<Given>& reference, double p) {
        const auto to = circle(atoms, period, wrap, "measure");
        return reference ? lcot_embed(to, circle(*reference, period, wrap, "reference"), p) : lcot_embed(to);
      },
      Released());
  m.def(
      "lcot_embed_histogram",
      [](const at::Tensor& masses) { return lcot_embed(circular_histogram(numbers(masses), "histogram")); },
      Released());
  m.def("lcot", &lcot, Released());
  m.def(
      "lcot_matrix",
      [](const std::vector<CircularMap>& maps, double p, int threads) {
        return tensor(lcot_matrix(maps, p, threads), {std::ssize(maps), std::ssize(maps)});
      },
      Released());
  m.def("lcot_grid", [](const CircularMap& map, std::int64_t nodes) { return tensor(lcot_grid(map, nodes)); });
  m.def("lcot_atoms", [](const CircularMap& map) {
    const auto atoms = inverse_atoms(map);
    return std::pair(tensor(atoms.positions), tensor(atoms.masses));
  });
  m.def("lcot_histogram",
        [](const CircularMap& map, std::int64_t bins) { return tensor(inverse_histogram(map, bins)); });
  m.def("lcot_interpolate", [](const CircularMap& a, const CircularMap& b, double t) { return interpolate(a, b, t); });
  m.def(
      "lcot_barycenter",
      [](const std::vector<CircularMap>& maps, const std::vector<double>& weights) {
        return barycenter(maps, weights);
      },
      Released());
  m.def(
      "lcot_gradient",
      [](const Given& a, const Given& b, double period, bool wrap) {
        const auto first = circle(a, period, wrap, "a");
        auto g = lcot_gradient(first, lcot_embed(first), lcot_embed(circle(b, period, wrap, "b")), a.first.size(0));
        return std::tuple(g.value, tensor(g.values) / period, tensor(g.masses));
      },
      Released());
  m.def(
      "sliced_lcot",
      [](const Given& a, const Given& b, std::int64_t count, std::uint64_t seed) {
        const auto from = measure(a), to = measure(b);
        Random random(seed);
        const auto circles = great_circles(from.dim, count, random);
        auto g = sliced_gradient(from, to, circles);
        return std::pair(g.value, tensor(g.points, {from.size(), from.dim}));
      },
      Released());
}

}  // namespace

void bind_transport(py::module_& m) {
  bind_partial(m);
  bind_circle(m);
}

}  // namespace unbend
