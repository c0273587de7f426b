#include "unbend/tensor/parameter.h"

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {

void assign(const std::vector<Parameter>& parameters, const std::map<std::string, at::Tensor>& tensors,
            const std::string& where) {
  for (const auto& [name, target] : parameters) {
    const auto found = tensors.find(name);
    require(found != tensors.end(), "{}: tensor {} is missing", where, name);
    const auto& source = found->second;
    require(source.sizes() == target->sizes(), "{}: tensor {} has shape {}, expected {}", where, name,
            shape_string(source.sizes()), shape_string(target->sizes()));
    require(at::isFloatingType(source.scalar_type()), "{}: tensor {} is not of a floating type", where, name);
    check_finite(source, where + ": tensor " + name);
    *target = source.to(target->options());
  }
  require(tensors.size() == parameters.size(), "{}: {} tensors where {} are expected", where, tensors.size(),
          parameters.size());
}

}  // namespace unbend
