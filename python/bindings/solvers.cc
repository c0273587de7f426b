#include "python/bindings/bindings.h"
#include "unbend/calculus/solve.h"

namespace py = pybind11;

namespace unbend {
namespace {

// Options that all iterative solvers share, in the order in which python/unbend/solve.py gives them.
SolveOptions options(std::optional<double> rtol, double atol, int64_t max_iterations, std::optional<Tensors> x0,
                     std::optional<LinearMap> preconditioner, std::function<bool(int64_t, double)> progress) {
  SolveOptions o;
  o.rtol = rtol, o.atol = atol, o.max_iterations = max_iterations, o.x0 = std::move(x0);
  o.preconditioner = std::move(preconditioner), o.progress = std::move(progress);
  return o;
}

template <class Solver>
void bind(py::module_& m, const char* name, Solver solver) {
  m.def(
      name,
      [solver](const LinearMap& a, const Tensors& b, std::optional<double> rtol, double atol, int64_t max_iterations,
               std::optional<Tensors> x0, std::optional<LinearMap> preconditioner,
               std::function<bool(int64_t, double)> progress, const std::map<std::string, double>& extra) {
        return solver(
            a, b, options(rtol, atol, max_iterations, std::move(x0), std::move(preconditioner), std::move(progress)),
            extra);
      },
      Released());
}

using Extra = std::map<std::string, double>;

}  // namespace

void bind_solvers(py::module_& m) {
  py::class_<SolveResult>(m, "SolveResult")
      .def_readonly("x", &SolveResult::x)
      .def_property_readonly("outcome", [](const SolveResult& r) { return std::string(name(r.outcome)); })
      .def_property_readonly("converged", &SolveResult::converged)
      .def_readonly("iterations", &SolveResult::iterations)
      .def_readonly("residual", &SolveResult::residual)
      .def_readonly("condition", &SolveResult::condition)
      .def_readonly("message", &SolveResult::message);
  bind(m, "cg", [](const LinearMap& a, const Tensors& b, const SolveOptions& o, const Extra& e) {
    return cg(a, b, o, e.at("quadratic_tolerance"));
  });
  bind(m, "minres",
       [](const LinearMap& a, const Tensors& b, const SolveOptions& o, const Extra&) { return minres(a, b, o); });
  bind(m, "gmres", [](const LinearMap& a, const Tensors& b, const SolveOptions& o, const Extra& e) {
    return gmres(a, b, o, static_cast<int64_t>(e.at("restart")));
  });
  bind(m, "lsqr", [](const LinearMap& a, const Tensors& b, const SolveOptions& o, const Extra& e) {
    LsqrOptions l;
    l.damping = e.at("damping");
    if (const auto limit = e.find("condition_limit"); limit != e.end()) l.condition_limit = limit->second;
    return lsqr(a, b, o, l);
  });
  bind(m, "solve",
       [](const LinearMap& a, const Tensors& b, const SolveOptions& o, const Extra&) { return solve(a, b, o); });
  m.def(
      "solve_directly", [](const LinearMap& a, const Tensors& b) { return solve_directly(a, b); }, Released());
}

}  // namespace unbend
