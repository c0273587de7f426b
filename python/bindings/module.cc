#include "python/bindings/bindings.h"

#include "unbend/base/error.h"

namespace py = pybind11;

// Errors arrive as classes of python/unbend/errors.py, so that callers can tell their mistakes from failed
// computations.
static void register_errors() {
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const unbend::Error& error) {
      const auto errors = py::module_::import("unbend.errors");
      const char* name = error.kind() == unbend::ErrorKind::Computation ? "ComputationError" : "InputError";
      PyErr_SetString(errors.attr(name).ptr(), error.what());
    }
  });
}

PYBIND11_MODULE(_core, module) {
  py::module_::import("torch");  // its libraries, its types
  register_errors();
  unbend::bind_maps(module);
  unbend::bind_solvers(module);
  unbend::bind_spectra(module);
  unbend::bind_mixers(module);
  unbend::bind_networks(module);
  unbend::bind_parameterization(module);
  unbend::bind_transport(module);
  unbend::bind_optimize(module);
  unbend::bind_forecast(module);
}
