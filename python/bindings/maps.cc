#include "python/bindings/bindings.h"
#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"
#include "unbend/calculus/check.h"
#include "unbend/calculus/dense.h"
#include "unbend/calculus/implicit.h"
#include "unbend/calculus/linearize.h"

namespace py = pybind11;

namespace unbend {
namespace {

Properties properties_named(const std::vector<std::string>& names) {
  static const std::vector<std::pair<std::string, Property>> known{
      {"symmetric", Property::Symmetric},  {"psd", Property::Psd},           {"nsd", Property::Nsd},
      {"diagonal", Property::Diagonal},    {"identity", Property::Identity}, {"zero", Property::Zero},
      {"orthogonal", Property::Orthogonal}};
  Properties all;
  for (const auto& name : names) {
    const auto found = std::ranges::find(known, name, &std::pair<std::string, Property>::first);
    require(found != known.end(),
            "there is no property '{}': symmetric, psd, nsd, diagonal, identity, zero or orthogonal", name);
    all = all | Properties{found->second};
  }
  return all;
}

Space floating(const Tensors& like) {
  for (const auto& t : like)
    require(at::isFloatingType(t.scalar_type()), "linear maps are between floating-point numbers, not {}",
            at::toString(t.scalar_type()));
  return space_of(like);
}

std::vector<std::string> names_of(Properties properties) {
  std::vector<std::string> names;
  const auto text = to_string(properties);
  if (properties.empty()) return names;
  for (size_t first = 0; first < text.size();) {
    const auto end = std::min(text.find(", ", first), text.size());
    names.push_back(text.substr(first, end - first));
    first = end + 2;
  }
  return names;
}

LinearizeOptions options(const std::string& push, bool pull, bool verify_push, bool allow_constant,
                         bool allow_nonfinite) {
  LinearizeOptions o;
  require(push == "recorded" || push == "dual" || push == "none", "push is 'recorded', 'dual' or 'none', not '{}'",
          push);
  o.push = push == "recorded" ? PushMode::Recorded : push == "dual" ? PushMode::Dual : PushMode::None;
  o.pull = pull, o.verify_push = verify_push, o.allow_constant = allow_constant, o.allow_nonfinite = allow_nonfinite;
  return o;
}

SolveOptions solving(std::optional<double> rtol) {
  SolveOptions o;
  o.rtol = rtol;
  return o;
}

std::pair<Tensors, LinearMap> parts(Linearization l) { return {std::move(l.value), std::move(l.jacobian)}; }

void bind_map(py::module_& m) {
  py::class_<LinearMap>(m, "LinearMap")
      .def_property_readonly("rows", [](const LinearMap& a) { return a.codomain().dim(); })
      .def_property_readonly("columns", [](const LinearMap& a) { return a.domain().dim(); })
      .def_property_readonly(
          "dtype", [](const LinearMap& a) { return at::promote_types(a.domain().dtype(), a.codomain().dtype()); })
      .def_property_readonly("properties", [](const LinearMap& a) { return names_of(a.properties()); })
      .def_property_readonly("domain", [](const LinearMap& a) { return to_string(a.domain()); })
      .def_property_readonly("codomain", [](const LinearMap& a) { return to_string(a.codomain()); })
      .def("push", &LinearMap::push, Released())
      .def("pull", &LinearMap::pull, Released())
      .def("push_many", &LinearMap::push_many, Released())
      .def("pull_many", &LinearMap::pull_many, Released())
      // On flat vectors [n], or many of them [K, n]: what other libraries know.
      .def(
          "push_flat",
          [](const LinearMap& a, const at::Tensor& x) {
            return flatten(a.push(unflatten(x, a.domain())), a.codomain());
          },
          Released())
      .def(
          "pull_flat",
          [](const LinearMap& a, const at::Tensor& x) {
            return flatten(a.pull(unflatten(x, a.codomain())), a.domain());
          },
          Released())
      .def(
          "push_flat_many",
          [](const LinearMap& a, const at::Tensor& x) {
            return flatten_many(a.push_many(unflatten_many(x, a.domain())), a.codomain());
          },
          Released())
      .def(
          "pull_flat_many",
          [](const LinearMap& a, const at::Tensor& x) {
            return flatten_many(a.pull_many(unflatten_many(x, a.codomain())), a.domain());
          },
          Released());
}

void bind_algebra(py::module_& m) {
  m.def(
      "declare",
      [](const LinearMap& a, const std::vector<std::string>& names) { return declare(a, properties_named(names)); },
      Released());
  m.def(
      "function_map",
      [](const Tensors& domain, const Tensors& codomain, VectorFunction push, VectorFunction pull,
         const std::vector<std::string>& properties) {
        return function_map(floating(domain), floating(codomain), std::move(push), std::move(pull),
                            properties_named(properties));
      },
      Released());
  m.def("identity_map", [](const Tensors& like) { return identity_map(floating(like)); });
  m.def("zero_map",
        [](const Tensors& domain, const Tensors& codomain) { return zero_map(floating(domain), floating(codomain)); });
  m.def("diagonal_map", [](const Tensors& d) { return diagonal_map(d); });
  m.def("dense_map", [](const at::Tensor& matrix) { return dense_map(matrix); });
  m.def("low_rank_map", [](const at::Tensor& u, const at::Tensor& v) { return low_rank_map(u, v); });
  m.def("adjoint", &adjoint);
  m.def("add", [](const LinearMap& a, const LinearMap& b) { return a + b; });
  m.def("scale", [](double factor, const LinearMap& a) { return factor * a; });
  m.def("compose", [](const LinearMap& a, const LinearMap& b) { return a * b; });
  m.def("shift", &shift);
  m.def("gram", &gram);
  m.def("outer_gram", &outer_gram);
  m.def("block_row", &block_row);
  m.def("block_column", &block_column);
  m.def("block_diagonal", &block_diagonal);
  m.def("to_dense", &to_dense, Released());
  m.def("materialize", &materialize, Released());
  m.def("diagonal", &diagonal, Released());
  m.def("trace", &trace, Released());
  m.def(
      "inverse", [](const LinearMap& a, std::optional<double> rtol) { return inverse(a, solving(rtol)); }, Released());
}

}  // namespace

void bind_maps(py::module_& m) {
  bind_map(m);
  bind_algebra(m);

  m.def(
      "linearize",
      [](const Function& f, const Tensors& at, const std::string& push, bool pull, bool verify_push,
         bool allow_constant, bool allow_nonfinite) {
        return parts(linearize(f, at, options(push, pull, verify_push, allow_constant, allow_nonfinite)));
      },
      Released());
  m.def(
      "hessian", [](const Function& f, const Tensors& at) { return parts(hessian(f, at)); }, Released());
  m.def(
      "implicit_derivative",
      [](const Residual& f, const Tensors& theta, const Tensors& x, const std::vector<std::string>& properties,
         std::optional<double> rtol) {
        return implicit_derivative(f, theta, x, properties_named(properties), solving(rtol));
      },
      Released());

  py::class_<CheckResult>(m, "CheckResult")
      .def_readonly("ok", &CheckResult::ok)
      .def_readonly("error", &CheckResult::error)
      .def_readonly("tolerance", &CheckResult::tolerance)
      .def_readonly("message", &CheckResult::message)
      .def("__bool__", [](const CheckResult& c) { return c.ok; })
      .def("__repr__", [](const CheckResult& c) {
        return c.ok ? fmt::format("<passed: error {:.1e}, tolerance {:.0e}>", c.error, c.tolerance)
                    : fmt::format("<failed: {}>", c.message);
      });
  m.def("dot_test", &dot_test, Released());
  m.def("check_properties", &check_properties, Released());
  m.def(
      "check_linearization",
      [](const Function& f, const Tensors& at, uint64_t seed) { return check_linearization(f, at, seed); }, Released());
}

}  // namespace unbend
