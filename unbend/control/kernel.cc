#include "unbend/control/kernel.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"

namespace unbend::control {
namespace {

using Eigen::ArrayXd;
using Kind = Factor::Kind;

struct KindInfo {
  const char* name;
  std::vector<const char*> parameters;
};

const KindInfo& info(Kind kind) {
  static const KindInfo kinds[] = {
      {"constant", {"amplitude"}},
      {"squared_exponential", {"length"}},
      {"matern32", {"length"}},
      {"matern52", {"length"}},
      {"rational_quadratic", {"length", "exponent"}},
      {"periodic", {"length", "period"}},
      {"linear", {"bias"}},
  };
  return kinds[static_cast<int>(kind)];
}
constexpr int kKinds = 7;

/// The factor's value, or its derivative by the logarithm of its `parameter`.
ArrayXd value_of(const Factor& f, const ArrayXd& squared, const ArrayXd& inner, int parameter = -1) {
  const double a = f.parameters[0];
  switch (f.kind) {
    case Kind::Constant: return ArrayXd::Constant(squared.size(), parameter < 0 ? a * a : 2 * a * a);
    case Kind::SquaredExponential: {
      const ArrayXd e = squared * (-.5 / (a * a));
      return parameter < 0 ? ArrayXd(e.exp()) : ArrayXd(-2 * e * e.exp());
    }
    case Kind::Matern32: {
      const ArrayXd s = (3 * squared).sqrt() / a;
      return parameter < 0 ? ArrayXd((1 + s) * (-s).exp()) : ArrayXd(s * s * (-s).exp());
    }
    case Kind::Matern52: {
      const ArrayXd s = (5 * squared).sqrt() / a;
      return parameter < 0 ? ArrayXd((1 + s + s * s / 3) * (-s).exp()) : ArrayXd(s * s * (1 + s) / 3 * (-s).exp());
    }
    case Kind::RationalQuadratic: {
      const double alpha = f.parameters[1];
      const ArrayXd x = squared / (2 * alpha * a * a), k = (1 + x).pow(-alpha);
      if (parameter < 0) return k;
      return parameter == 0 ? ArrayXd(2 * alpha * k * x / (1 + x)) : ArrayXd(alpha * k * (x / (1 + x) - (1 + x).log()));
    }
    case Kind::Periodic: {
      const double period = f.parameters[1];
      const ArrayXd angle = std::numbers::pi / period * squared.sqrt(), sine = angle.sin();
      const ArrayXd k = (-2 / (a * a) * sine * sine).exp();
      if (parameter < 0) return k;
      return parameter == 0 ? ArrayXd(4 / (a * a) * sine * sine * k)
                            : ArrayXd(4 / (a * a) * sine * angle.cos() * angle * k);
    }
    case Kind::Linear:
      return parameter < 0 ? ArrayXd(a * a + inner) : ArrayXd(ArrayXd::Constant(inner.size(), 2 * a * a));
  }
  return {};
}

template <class Call>
void each_free(const Kernel& kernel, const Call& call) {
  for (std::size_t t = 0; t < kernel.terms.size(); ++t) {
    for (std::size_t f = 0; f < kernel.terms[t].size(); ++f) {
      const Factor& factor = kernel.terms[t][f];
      for (std::size_t p = 0; !factor.fixed && p < factor.parameters.size(); ++p) call(t, f, p);
    }
  }
}

}  // namespace

Kernel squared_exponential(double amplitude, double length) {
  return {{{{Kind::Constant, {amplitude}}, {Kind::SquaredExponential, {length}}}}};
}

Kernel linear(double amplitude) { return {{{{Kind::Constant, {amplitude}}, {Kind::Linear, {1}, true}}}}; }

Kernel operator+(Kernel a, const Kernel& b) {
  a.terms.insert(a.terms.end(), b.terms.begin(), b.terms.end());
  return a;
}

void evaluate(const Kernel& kernel, const ArrayXd& squared, const ArrayXd& inner, ArrayXd& out) {
  out.setZero(squared.size());
  for (const Term& term : kernel.terms) {
    double amplitude = 1;
    const Factor* only = nullptr;
    int others = 0;
    for (const Factor& f : term) {
      if (f.kind == Kind::Constant)
        amplitude *= f.parameters[0] * f.parameters[0];
      else
        ++others, only = &f;
    }
    // The two terms of a control step, without a vector in between.
    if (others == 1 && only->kind == Kind::SquaredExponential) {
      out += amplitude * (squared * (-.5 / (only->parameters[0] * only->parameters[0]))).exp();
    } else if (others == 1 && only->kind == Kind::Linear) {
      out += amplitude * (only->parameters[0] * only->parameters[0] + inner);
    } else {
      ArrayXd product = ArrayXd::Constant(squared.size(), amplitude);
      for (const Factor& f : term) {
        if (f.kind != Kind::Constant) product *= value_of(f, squared, inner);
      }
      out += product;
    }
  }
}

double evaluate(const Kernel& kernel, double squared, double inner) {
  ArrayXd out;
  evaluate(kernel, ArrayXd::Constant(1, squared), ArrayXd::Constant(1, inner), out);
  return out[0];
}

std::vector<double> log_parameters(const Kernel& kernel) {
  std::vector<double> values;
  each_free(kernel, [&](std::size_t t, std::size_t f, std::size_t p) {
    values.push_back(std::log(kernel.terms[t][f].parameters[p]));
  });
  return values;
}

std::vector<std::string> parameter_names(const Kernel& kernel) {
  std::vector<std::string> names;
  each_free(kernel, [&](std::size_t t, std::size_t f, std::size_t p) {
    const KindInfo& kind = info(kernel.terms[t][f].kind);
    names.push_back(fmt::format("term {} {} {}", t + 1, kind.name, kind.parameters[p]));
  });
  return names;
}

Kernel with_log_parameters(Kernel kernel, const std::vector<double>& values) {
  std::size_t next = 0;
  each_free(kernel, [&](std::size_t t, std::size_t f, std::size_t p) {
    kernel.terms[t][f].parameters[p] = std::exp(values.at(next++));
  });
  return kernel;
}

void evaluate_gradient(const Kernel& kernel, std::size_t parameter, const ArrayXd& squared, const ArrayXd& inner,
                       ArrayXd& out) {
  std::size_t next = 0;
  out.setZero(squared.size());
  each_free(kernel, [&](std::size_t t, std::size_t f, std::size_t p) {
    if (next++ != parameter) return;
    out.setOnes();
    for (std::size_t i = 0; i < kernel.terms[t].size(); ++i)
      out *= value_of(kernel.terms[t][i], squared, inner, i == f ? static_cast<int>(p) : -1);
  });
}

double lipschitz(const Kernel& kernel, double radius) {
  double total = 0;
  for (const Term& term : kernel.terms) {
    // Of a product: each factor's constant times the largest values of the others.
    double sum = 0, largest = 1;
    for (const Factor& f : term) {
      const double a = f.parameters[0];
      double top = 1, slope = 0;
      switch (f.kind) {
        case Kind::Constant: top = a * a; break;
        case Kind::SquaredExponential: slope = std::exp(-.5) / a; break;
        case Kind::Matern32: slope = std::sqrt(3) / (std::numbers::e * a); break;  // 3 r / l^2 exp(-sqrt(3) r / l)
        case Kind::Matern52: slope = std::sqrt(5) / 3 * .84 / a; break;            // largest s (1 + s) exp(-s)
        case Kind::RationalQuadratic: slope = 1 / a; break;  // (r / l^2)(1 + x)^(-a-1), x = r^2 / (2 a l^2)
        case Kind::Periodic: slope = 2 * std::numbers::pi / (f.parameters[1] * a * a); break;  // |sin 2t| <= 1
        case Kind::Linear: top = a * a + radius * radius, slope = radius; break;
      }
      sum = sum * top + largest * slope;
      largest *= top;
    }
    total += sum;
  }
  return total;
}

Kernel kernel_from_json(const Json& json, std::string_view where) {
  require(json.is_array() && !json.empty(), "{}: a kernel is a JSON list of terms, each a list of factors", where);
  Kernel kernel;
  for (std::size_t t = 0; t < json.size(); ++t) {
    require(json[t].is_array() && !json[t].empty(), "{}, term {}: a term is a list of factors", where, t + 1);
    Term term;
    for (const Json& entry : json[t]) {
      const std::string at = fmt::format("{}, term {}", where, t + 1);
      require(entry.is_object() && !entry.empty(), "{}: a factor is an object such as {{\"squared_exponential\": 1}}",
              at);
      const std::string key = entry.begin().key();
      int kind = 0;
      while (kind < kKinds && key != info(static_cast<Kind>(kind)).name) ++kind;
      require(kind < kKinds, "{}: unknown factor '{}'", at, key);
      Factor factor{static_cast<Kind>(kind), {}, json_get<bool>(entry, "fixed", at, false)};
      if (entry[key].is_number())
        factor.parameters = {json_get<double>(entry, key, at)};
      else
        factor.parameters = json_get<std::vector<double>>(entry, key, at);
      const auto& names = info(factor.kind).parameters;
      require(factor.parameters.size() == names.size(), "{}: '{}' has the parameters {}", at, key,
              fmt::join(names, ", "));
      for (const double p : factor.parameters)
        require(p > 0 && std::isfinite(p), "{}: parameters of '{}' must be positive, not {:g}", at, key, p);
      term.push_back(factor);
    }
    kernel.terms.push_back(term);
  }
  return kernel;
}

Json to_json(const Kernel& kernel) {
  Json json = Json::array();
  for (const Term& term : kernel.terms) {
    Json list = Json::array();
    for (const Factor& f : term) {
      Json entry{{info(f.kind).name, f.parameters.size() == 1 ? Json(f.parameters[0]) : Json(f.parameters)}};
      if (f.fixed) entry["fixed"] = true;
      list.push_back(entry);
    }
    json.push_back(list);
  }
  return json;
}

}  // namespace unbend::control
