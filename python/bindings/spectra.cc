#include "unbend/calculus/spectra.h"
#include "python/bindings/bindings.h"
#include "unbend/base/error.h"
#include "unbend/calculus/estimates.h"

namespace py = pybind11;

namespace unbend {
namespace {

SpectrumOptions options(double tolerance, int64_t basis, int64_t restarts, uint64_t seed,
                        std::optional<Tensors> start) {
  return {tolerance, basis, restarts, seed, std::move(start)};
}

Which which_named(const std::string& name) {
  if (name == "largest") return Which::Largest;
  if (name == "smallest") return Which::Smallest;
  require(name == "magnitude", "which is 'largest', 'smallest' or 'magnitude', not '{}'", name);
  return Which::LargestMagnitude;
}

}  // namespace

void bind_spectra(py::module_& m) {
  py::class_<Eigenpairs>(m, "Eigenpairs")
      .def_readonly("values", &Eigenpairs::values)
      .def_readonly("vectors", &Eigenpairs::vectors)
      .def_readonly("errors", &Eigenpairs::errors)
      .def_property_readonly("outcome", [](const Eigenpairs& e) { return std::string(name(e.outcome)); })
      .def_readonly("products", &Eigenpairs::products)
      .def_readonly("message", &Eigenpairs::message);
  py::class_<SingularTriplets>(m, "SingularTriplets")
      .def_readonly("values", &SingularTriplets::values)
      .def_readonly("left", &SingularTriplets::left)
      .def_readonly("right", &SingularTriplets::right)
      .def_readonly("errors", &SingularTriplets::errors)
      .def_property_readonly("outcome", [](const SingularTriplets& s) { return std::string(name(s.outcome)); })
      .def_readonly("products", &SingularTriplets::products)
      .def_readonly("message", &SingularTriplets::message);
  py::class_<Estimate>(m, "Estimate")
      .def_readonly("value", &Estimate::value)
      .def_readonly("standard_error", &Estimate::standard_error)
      .def_property_readonly("outcome", [](const Estimate& e) { return std::string(name(e.outcome)); })
      .def_readonly("message", &Estimate::message)
      .def("__float__", [](const Estimate& e) { return e.value; })
      .def("__repr__", [](const Estimate& e) {
        return fmt::format("<{:.6g} +- {:.2g}, {}>", e.value, e.standard_error, name(e.outcome));
      });

  m.def(
      "eigenpairs",
      [](const LinearMap& a, int64_t k, const std::string& which, double tolerance, int64_t basis, int64_t restarts,
         uint64_t seed, std::optional<Tensors> start) {
        return lanczos(a, k, which_named(which), options(tolerance, basis, restarts, seed, std::move(start)));
      },
      Released());
  m.def(
      "singular_triplets",
      [](const LinearMap& a, int64_t k, double tolerance, int64_t basis, int64_t restarts, uint64_t seed,
         std::optional<Tensors> start) {
        return golub_kahan(a, k, options(tolerance, basis, restarts, seed, std::move(start)));
      },
      Released());
  m.def(
      "randomized_svd",
      [](const LinearMap& a, int64_t rank, int64_t oversample, int64_t power, uint64_t seed) {
        return randomized_svd(a, rank, {oversample, power, seed});
      },
      Released());
  m.def(
      "trace_of_function",
      [](const LinearMap& a, const std::function<double(double)>& f, int64_t samples, int64_t steps, uint64_t seed) {
        return trace_of_function(a, f, {samples, steps, seed});
      },
      Released());
  m.def(
      "log_determinant",
      [](const LinearMap& a, int64_t samples, int64_t steps, uint64_t seed) {
        return log_determinant(a, {samples, steps, seed});
      },
      Released());
  m.def(
      "estimate_trace",
      [](const LinearMap& a, int64_t samples, uint64_t seed) {
        Random random(seed);
        return estimate_trace(a, samples, random);
      },
      Released());
  m.def(
      "estimate_diagonal",
      [](const LinearMap& a, int64_t samples, uint64_t seed) {
        Random random(seed);
        auto d = estimate_diagonal(a, samples, random);
        return std::pair(std::move(d.diagonal), d.relative_spread);
      },
      Released());
}

}  // namespace unbend
