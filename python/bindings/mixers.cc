#include <cmath>

#include "python/bindings/bindings.h"
#include "unbend/attention/gated_scan.h"
#include "unbend/attention/gaussian.h"
#include "unbend/attention/soft_attention.h"
#include "unbend/attention/window.h"
#include "unbend/base/error.h"
#include "unbend/nets/fused.h"
#include "unbend/nets/layers.h"

namespace py = pybind11;

namespace unbend {
namespace {

InverseOptions inverse_options(const std::string& solver, double ridge, int64_t iterations) {
  require(solver == "newton" || solver == "cholesky", "solver is 'newton' or 'cholesky', not '{}'", solver);
  InverseOptions options;
  options.solver = solver == "newton" ? InverseSolver::Newton : InverseSolver::Cholesky;
  options.ridge = ridge, options.iterations = iterations;
  return options;
}

Form form_named(const std::string& name) {
  if (name == "parallel") return Form::Parallel;
  if (name == "chunked") return Form::Chunked;
  require(name == "recurrent", "form is 'parallel', 'chunked' or 'recurrent', not '{}'", name);
  return Form::Recurrent;
}

}  // namespace

void bind_mixers(py::module_& m) {
  m.def(
      "gated_scan",
      [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& log_decay,
         const std::optional<at::Tensor>& initial_state, const std::string& form, int64_t chunk,
         const std::string& axis) {
        require(axis == "key" || axis == "value", "axis is 'key' or 'value', not '{}'", axis);
        const ScanOptions options{form_named(form), chunk, axis == "key" ? DecayAxis::Key : DecayAxis::Value};
        auto scan =
            gated_scan(q, k, v, log_decay.value_or(at::Tensor()), initial_state.value_or(at::Tensor()), options);
        return std::pair(std::move(scan.out), std::move(scan.state));
      },
      Released());
  m.def(
      "window_attention",
      [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window, int64_t sinks,
         std::optional<double> scale, int64_t step) {
        require(q.dim() == 4, "q must be [batch, heads, tokens, width], not of {} dimensions", q.dim());
        const double usual = 1 / std::sqrt(static_cast<double>(q.size(3)));
        auto part = window_attention(q, k, v, {window, sinks, scale.value_or(usual), step});
        return std::tuple(std::move(part.out), std::move(part.max), std::move(part.lse));
      },
      Released());
  m.def(
      "soft_attention",
      [](const at::Tensor& q, const at::Tensor& landmarks, const at::Tensor& v, bool normalize,
         const std::string& solver, double ridge, int64_t iterations) {
        auto result = soft_attention(q, landmarks, v, {normalize, inverse_options(solver, ridge, iterations)});
        return std::pair(std::move(result.out), std::move(result.residual));
      },
      Released());
  m.def(
      "symmetric_inverse",
      [](const at::Tensor& a, const std::string& solver, double ridge, int64_t iterations) {
        auto inverse = symmetric_inverse(a, inverse_options(solver, ridge, iterations));
        return std::pair(std::move(inverse.value), std::move(inverse.residual));
      },
      Released());
  m.def("gaussian_kernel", &gaussian_kernel, Released());
  m.def("rms_norm", &rms_norm, Released());
  m.def("swiglu", &swiglu, Released());
}

}  // namespace unbend
