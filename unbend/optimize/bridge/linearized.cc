#include "unbend/optimize/bridge/linearized.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "unbend/base/error.h"

namespace unbend::optimize {
namespace {

struct State {
  Function function;
  Tensors like;
  double p = 2;
};

std::shared_ptr<State> state_of(Function f, const Tensors& like, double p = 2) {
  require(!like.empty(), "a function needs at least one tensor");
  for (const auto& t : like)
    require(at::isFloatingType(t.scalar_type()), "variables must be floating-point, not {}",
            c10::toString(t.scalar_type()));
  require(p >= 2 && std::isfinite(p), "the power p must be at least 2, not {}", p);
  return std::make_shared<State>(State{std::move(f), like, p});
}

Eigen::Index count(const Tensors& tensors) {
  Eigen::Index n = 0;
  for (const auto& t : tensors) n += t.numel();
  return n;
}

/// f and its pull at x; values that are not finite are the minimiser's to judge.
Linearization first_order(const State& s, const Vector& x) {
  LinearizeOptions options;
  options.push = PushMode::None;
  options.allow_nonfinite = true;
  return linearize(s.function, unflatten(x, s.like), options);
}

}  // namespace

Vector flatten(const Tensors& tensors) {
  Vector x(count(tensors));
  double* at = x.data();
  for (const auto& t : tensors) {
    const auto flat = t.detach().to(at::kCPU, at::kDouble).contiguous();
    at = std::copy_n(flat.const_data_ptr<double>(), flat.numel(), at);
  }
  return x;
}

Tensors unflatten(const Vector& x, const Tensors& like) {
  Tensors tensors;
  const double* at = x.data();
  for (const auto& t : like) {
    const auto flat = at::empty({t.numel()}, at::kDouble);
    std::copy_n(at, t.numel(), flat.mutable_data_ptr<double>());
    tensors.push_back(flat.to(t.options()).view(t.sizes()));
    at += t.numel();
  }
  return tensors;
}

Problem newton_problem(Function f, const Tensors& like) {
  const auto s = state_of(std::move(f), like);
  Problem problem;
  problem.size = count(like);
  problem.evaluate = [s](const Vector& x, Vector& g) {
    const Linearization l = first_order(*s, x);
    require(l.value.size() == 1 && l.value[0].numel() == 1, "a function to minimise must give one number");
    g = flatten(l.jacobian.pull({at::ones_like(l.value[0])}));
    return l.value[0].item<double>();
  };
  problem.curvature = ProductCurvature{[s](const Vector& x) -> std::function<Vector(const Vector&)> {
    const auto second = std::make_shared<Linearization>(hessian(s->function, unflatten(x, s->like)));
    return [s, second](const Vector& v) { return flatten(second->jacobian.push(unflatten(v, s->like))); };
  }};
  return problem;
}

Problem gauss_newton_problem(Function u, const Tensors& like, double p) {
  const auto s = state_of(std::move(u), like, p);
  Problem problem;
  problem.size = count(like);
  problem.evaluate = [s](const Vector& x, Vector& g) {
    const Linearization l = first_order(*s, x);
    const double norm = flatten(l.value).norm();
    g = std::pow(norm, s->p - 2) * flatten(l.jacobian.pull(l.value));
    return std::pow(norm, s->p) / s->p;
  };
  problem.curvature = ProductCurvature{[s](const Vector& x) -> std::function<Vector(const Vector&)> {
    const auto l = std::make_shared<Linearization>(linearize(s->function, unflatten(x, s->like)));
    const double norm = flatten(l->value).norm();
    const Vector ju = flatten(l->jacobian.pull(l->value));
    const double inner = std::pow(norm, s->p - 2),
                 outer = s->p == 2 || norm == 0 ? 0 : (s->p - 2) * std::pow(norm, s->p - 4);
    return [s, l, ju, inner, outer](const Vector& v) -> Vector {
      const auto image = l->jacobian.push(unflatten(v, s->like));
      return inner * flatten(l->jacobian.pull(image)) + outer * ju.dot(v) * ju;
    };
  }};
  return problem;
}

}  // namespace unbend::optimize
