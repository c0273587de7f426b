#include "python/bindings/bindings.h"
#include "unbend/base/error.h"
#include "unbend/nets/network_file.h"
#include "unbend/tangent/local_complexity.h"
#include "unbend/tangent/stable_distribution.h"
#include "unbend/tangent/uncertainty.h"

namespace py = pybind11;

namespace unbend {
namespace {

Noise noise(const Law& law, const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& factor,
            const std::optional<at::Tensor>& covariance) {
  require(scale.has_value() + factor.has_value() + covariance.has_value() == 1,
          "one of scale, factor and covariance says how noisy the input is");
  require(!covariance || law.gaussian(), "only Gaussian noise has a covariance");
  if (scale) return independent_noise(law, *scale);
  return factor ? factor_noise(law, *factor) : gaussian_noise(*covariance);
}

std::optional<at::Tensor> given(const at::Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }

}  // namespace

void bind_networks(py::module_& m) {
  py::class_<Network>(m, "Network")
      .def("__call__", &Network::operator(), Released())
      .def_property_readonly("layers", [](const Network& net) {
        std::vector<std::string> names;
        for (const auto& node : net.nodes) names.push_back(node.name);
        return names;
      });
  m.def(
      "read_network", [](const std::string& path) { return read_network(path); }, Released());

  py::class_<LayerComplexity>(m, "LayerComplexity")
      .def_readonly("name", &LayerComplexity::name)
      .def_readonly("neurons", &LayerComplexity::neurons)
      .def_readonly("crossings", &LayerComplexity::crossings)
      .def_property_readonly("mean", &LayerComplexity::mean)
      .def_property_readonly("fraction", &LayerComplexity::fraction);
  py::class_<LocalComplexity>(m, "LocalComplexity")
      .def_readonly("layers", &LocalComplexity::layers)
      .def_property_readonly("total", &LocalComplexity::total)
      .def_property_readonly("mean", &LocalComplexity::mean)
      .def_property_readonly("warnings", &LocalComplexity::warnings);
  m.def("orthoplex_frame", &orthoplex_frame, Released());
  m.def(
      "local_complexity",
      [](const Network& net, const at::Tensor& probes, const at::Tensor& frame, double radius, bool include_output,
         bool include_centre, const std::vector<std::string>& layers) {
        LocalComplexityOptions o;
        o.radius = radius, o.include_output = include_output, o.include_centre = include_centre, o.layers = layers;
        return local_complexity(net, probes, frame, o);
      },
      Released());

  py::class_<Propagated>(m, "Propagated")
      .def_readonly("location", &Propagated::location)
      .def_property_readonly("law", [](const Propagated& p) { return std::string(name_of(p.law)); })
      .def_property_readonly("factor", [](const Propagated& p) { return given(p.factor); })
      .def_property_readonly("covariance", [](const Propagated& p) { return covariance(p); })
      .def_property_readonly("scale", [](const Propagated& p) { return scale(p); })
      .def("with_own_noise", &with_own_noise)
      .def("outputs", &outputs)
      .def(
          "intervals",
          [](const Propagated& p, double coverage) {
            auto i = intervals(p, coverage);
            return std::pair(std::move(i.low), std::move(i.high));
          },
          Released())
      .def("pairwise", &pairwise_probabilities, Released())
      .def("confidence", &confidence, Released())
      .def("pairwise_loss", &pairwise_loss, Released())
      .def("negative_log_likelihood", &negative_log_likelihood, Released());
  m.def(
      "propagate",
      [](const std::variant<Network, BatchFunction>& f, const at::Tensor& x, const std::string& law, double alpha,
         const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& factor,
         const std::optional<at::Tensor>& covariance, bool create_graph) {
        PropagateOptions options;
        options.create_graph = create_graph;
        const auto in = noise(law_named(law, alpha), scale, factor, covariance);
        return std::visit([&](const auto& g) { return propagate(g, x, in, options); }, f);
      },
      Released());
  m.def(
      "propagate_marginal",
      [](const Network& net, const at::Tensor& x, const std::string& law, double alpha, const at::Tensor& scale) {
        return propagate_marginal(net, x, independent_noise(law_named(law, alpha), scale));
      },
      Released());
}

}  // namespace unbend
