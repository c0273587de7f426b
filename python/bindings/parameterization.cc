#include "unbend/nets/parameterization.h"
#include "python/bindings/bindings.h"

namespace py = pybind11;

namespace unbend {

void bind_parameterization(py::module_& m) {
  py::class_<TensorRule>(m, "TensorRule")
      .def_readonly("name", &TensorRule::name)
      .def_property_readonly("role", [](const TensorRule& r) { return std::string(to_string(r.role)); })
      .def_readonly("init_std", &TensorRule::init_std)
      .def_readonly("lr", &TensorRule::lr)
      .def_readonly("weight_decay", &TensorRule::weight_decay)
      .def_readonly("eps", &TensorRule::eps);
  py::class_<ScaledRules>(m, "ScaledRules")
      .def_readonly("tensors", &ScaledRules::tensors)
      .def_readonly("warnings", &ScaledRules::warnings)
      .def_property_readonly("input_multiplier", [](const ScaledRules& r) { return r.multipliers.input; })
      .def_property_readonly("residual_multiplier", [](const ScaledRules& r) { return r.multipliers.residual; })
      .def_property_readonly("logit_multiplier", [](const ScaledRules& r) { return r.multipliers.logits; });
  m.def("parameterize",
        [](const std::vector<std::pair<std::string, std::vector<int64_t>>>& tensors, const std::string& name,
           std::optional<double> alpha, const std::vector<int64_t>& size, const std::vector<int64_t>& base,
           const std::map<std::string, double>& settings, bool tied, bool independent_decay, bool force,
           const std::vector<std::pair<std::string, std::optional<std::string>>>& roles) {
          std::vector<NamedShape> shapes;
          for (const auto& [tensor, sizes] : tensors) shapes.push_back({tensor, sizes});
          auto parameterization = find_parameterization(name);
          if (alpha) parameterization.alpha = alpha;
          BaseSettings s;
          s.lr = settings.at("lr"), s.weight_decay = settings.at("weight_decay"), s.eps = settings.at("eps");
          s.init_std = settings.at("init_std");
          RuleOptions o;
          o.tied = tied, o.force = force;
          o.decay = independent_decay ? WeightDecay::Independent : WeightDecay::Coupled;
          for (const auto& [part, role] : roles)
            o.roles.emplace_back(part, role ? std::optional(find_role(*role)) : std::nullopt);
          return parameterize(shapes, {size.at(0), size.at(1), size.at(2)}, {base.at(0), base.at(1), base.at(2)}, s,
                              parameterization, o);
        });
}

}  // namespace unbend
