#include "unbend/calculus/linearize.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>

#include "unbend/base/error.h"
#include "unbend/calculus/batched.h"
#include "unbend/calculus/recorded_map.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

using torch::autograd::grad;
using torch::autograd::Node;

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// LibTorch's complaint as a sentence of ours.
[[noreturn]] void complain(const char* what, std::string said) {
  said = said.substr(0, said.find('\n'));
  if (contains(said, "modified by an inplace operation")) {
    fail_computation("{}: a tensor that f uses was changed in place after linearize: linearize again ({})", what, said);
  }
  if (contains(said, "a leaf Variable that requires grad") || contains(said, "view of a leaf Variable")) {
    fail_input("{}: f changes one of its inputs in place: let it work on a copy ({})", what, said);
  }
  if (contains(said, "is not implemented") || contains(said, "does not support")) {
    fail_computation("{}: an operation in f has no such derivative: {}{}", what, said,
                     contains(what, "Dual") ? "" : " (for pushes, PushMode::Dual may have it)");
  }
  fail_computation("{}: {}", what, said);
}

// Whether LibTorch says this of what f does; other exceptions of f are its own.
bool is_complaint(const std::string& said) {
  constexpr std::array kParts{"modified by an inplace operation", "a leaf Variable that requires grad",
                              "view of a leaf Variable", "jvp is not implemented", "Trying to use forward AD"};
  return std::ranges::any_of(kParts, [&](const char* part) { return contains(said, part); });
}

template <class Call>
auto translated(const char* what, const Call& call) {
  try {
    return call();
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& error) {
    complain(what, error.what_without_backtrace());
  } catch (const std::exception& error) {  // an f in Python turns LibTorch's errors into Python's
    if (is_complaint(error.what())) complain(what, error.what());
    throw;
  }
}

void check_point(const Tensors& at) {
  require(!at.empty(), "linearize: there are no inputs");
  for (size_t i = 0; i < at.size(); ++i) {
    check_floating(at[i], fmt::format("linearize: input {}", i));
    require(at[i].layout() == at::kStrided, "linearize: input {} is not a dense tensor", i);
  }
}

bool is_finite(const at::Tensor& t) {
  if (t.numel() == 0 || std::isfinite(t.sum().item<double>())) return true;  // one pass, unless the sum overflows
  return at::isfinite(t).all().item<bool>();
}

void check_finite_value(const Tensors& y) {
  for (size_t j = 0; j < y.size(); ++j) {
    if (is_finite(y[j])) continue;
    try {
      check_finite(y[j], fmt::format("linearize: output {} of f", j));
    } catch (const Error& error) {
      fail_computation("{}", error.what());
    }
  }
}

void check_outputs(const Tensors& y) {
  require(!y.empty(), "linearize: f gives no outputs");
  for (size_t j = 0; j < y.size(); ++j) check_floating(y[j], fmt::format("linearize: output {} of f", j));
}

// Whether the graph behind `from` has one of these leaves.
bool reaches(Node* from, const std::unordered_set<Node*>& leaves) {
  std::unordered_set<Node*> seen;
  std::vector<Node*> next{from};
  while (!next.empty()) {
    Node* const node = next.back();
    next.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    if (leaves.contains(node)) return true;
    for (const auto& edge : node->next_edges()) next.push_back(edge.function.get());
  }
  return false;
}

// Which outputs depend on the inputs x, leaves of the graph.
std::vector<size_t> dependent_outputs(const Tensors& x, const Tensors& y, bool allow_constant) {
  std::vector<decltype(torch::autograd::impl::grad_accumulator(x[0]))> accumulators;
  std::unordered_set<Node*> leaves;
  for (const at::Tensor& t : x) {
    accumulators.push_back(torch::autograd::impl::grad_accumulator(t));
    leaves.insert(accumulators.back().get());
  }
  std::vector<size_t> dependent;
  for (size_t j = 0; j < y.size(); ++j) {
    const bool is_input = std::ranges::any_of(x, [&](const at::Tensor& t) { return t.is_same(y[j]); });
    if (is_input || (y[j].requires_grad() && reaches(y[j].grad_fn().get(), leaves))) {
      dependent.push_back(j);
    } else {
      require(allow_constant,
              "linearize: output {} of f ({} {}) does not depend on any input: is it detached, computed without "
              "gradients or from numbers? (options.allow_constant takes its derivative for zero)",
              j, at::toString(y[j].scalar_type()), shape_string(y[j].sizes()));
    }
  }
  return dependent;
}

Tensors chosen(const Tensors& all, const std::vector<size_t>& indices) {
  Tensors some;
  for (const size_t i : indices) some.push_back(all[i]);
  return some;
}

// LibTorch's fused softmax attention has no second derivative; its plain form, the same numbers, has. The choice is a
// setting of the whole process: while a function is recorded, other threads get the plain form too.
class PlainAttention {
 public:
  PlainAttention() {
    const std::lock_guard lock(mutex_);
    auto& context = at::globalContext();
    if (users_++ == 0) {
      before_ = {context.userEnabledFlashSDP(), context.userEnabledMemEfficientSDP(), context.userEnabledCuDNNSDP()};
      set({false, false, false});
    }
  }
  PlainAttention(const PlainAttention&) = delete;
  PlainAttention& operator=(const PlainAttention&) = delete;
  ~PlainAttention() {
    const std::lock_guard lock(mutex_);
    if (--users_ == 0) set(before_);
  }

 private:
  static void set(const std::array<bool, 3>& fused) {
    auto& context = at::globalContext();
    context.setSDPUseFlash(fused[0]);
    context.setSDPUseMemEfficient(fused[1]);
    context.setSDPUseCuDNN(fused[2]);
  }
  static inline std::mutex mutex_;
  static inline int users_ = 0;
  static inline std::array<bool, 3> before_{};
};

class DualLevel {
 public:
  DualLevel() : index_(torch::autograd::forward_ad::enter_dual_level()) {}
  DualLevel(const DualLevel&) = delete;
  DualLevel& operator=(const DualLevel&) = delete;
  ~DualLevel() { torch::autograd::forward_ad::exit_dual_level(index_); }
  int64_t index() const { return static_cast<int64_t>(index_); }

 private:
  uint64_t index_;
};

struct JacobianKind : Kind {
  Function f;                     // of PushMode::Dual
  Tensors x, y;                   // the graph of f
  std::vector<size_t> dependent;  // which of y depend on x
  LinearizeOptions options;
  // Found out in use, the same by every thread.
  enum class AtOnce { Untried, Works, Fails };
  mutable std::optional<RecordedMap> map;
  mutable std::once_flag recorded, prepared;
  mutable std::atomic<bool> is_recorded{false}, pulled{false};
  mutable std::atomic<AtOnce> push_at_once{AtOnce::Untried}, pull_at_once{AtOnce::Untried};

  using Kind::Kind;

  Tensors push(const Tensors& v) const override {
    if (options.push == PushMode::None) fail_usage("push: this linearization was made with PushMode::None");
    if (options.push == PushMode::Dual) return dual_push(v);
    prepare_pushes();
    return translated("push", [&] { return recorded_push(v); });
  }

  Tensors pull(const Tensors& c) const override {
    if (!options.pull) fail_usage("pull: this linearization was made without pulls");
    // What pointwise operations multiply with costs as much as one pull: not for the first, which may be the only one.
    if (pulled.exchange(true)) record();
    return translated("pull", [&] { return recorded_pull(c); });
  }

  Tensors push_many(const Tensors& v) const override {
    if (options.push == PushMode::Recorded) {
      prepare_pushes();
      if (auto all = at_once(push_at_once, v, [this](const Tensors& one) { return recorded_push(one); })) return *all;
    }
    return Kind::push_many(v);
  }

  Tensors pull_many(const Tensors& c) const override {
    if (options.pull) {
      record();
      if (auto all = at_once(pull_at_once, c, [this](const Tensors& one) { return recorded_pull(one); })) return *all;
    }
    return Kind::pull_many(c);
  }

 private:
  void record() const {
    if (dependent.empty()) return;
    std::call_once(recorded, [&] {
      translated("linearize", [&] { map.emplace(x, chosen(y, dependent)); });
      is_recorded = true;
    });
  }

  void prepare_pushes() const {
    record();
    if (!map) return;
    std::call_once(prepared, [&] { translated("push", [&] { map->prepare_pushes(options.verify_push); }); });
  }

  Tensors recorded_push(const Tensors& v) const {
    Tensors result(codomain.leaves.size());
    if (map) {
      const Tensors some = map->push(v);
      for (size_t j = 0; j < dependent.size(); ++j) result[dependent[j]] = some[j];
    }
    return filled(std::move(result), codomain);
  }

  Tensors recorded_pull(const Tensors& c) const {
    if (dependent.empty()) return filled(Tensors(domain.leaves.size()), domain);
    const Tensors some = chosen(c, dependent);
    return filled(is_recorded && map->can_pull()
                      ? map->pull(some)
                      : grad(chosen(y, dependent), x, some, true, false, /*allow_unused=*/true),
                  domain);
  }

  // Many vectors through one call, if the operations of f allow it. Some do not say that they do not: the last vector
  // is compared with its own call once.
  template <class One>
  std::optional<Tensors> at_once(std::atomic<AtOnce>& state, const Tensors& many, const One& one) const {
    constexpr int64_t kLarge = 1 << 17;  // from here on one by one is as fast, and takes less memory
    if (state == AtOnce::Fails || many[0].size(0) == 0 || domain.dim() + codomain.dim() > kLarge) return std::nullopt;
    auto all = batched(one, many);
    if (!all) {
      state = AtOnce::Fails;
    } else if (state == AtOnce::Untried) {
      const int64_t last = many[0].size(0) - 1;
      const Tensors alone = one(select(many, last)), together = select(*all, last);
      Tensors difference;
      for (size_t i = 0; i < alone.size(); ++i) difference.push_back(alone[i] - together[i]);
      const double size = norm(alone), error = norm(difference);
      if (error > 1e-3 * size) {
        state = AtOnce::Fails;
      } else if (size > 0 && std::isfinite(size)) {
        state = AtOnce::Works;
      }
      if (state == AtOnce::Fails) return std::nullopt;
    }
    return all;
  }

  Tensors dual_push(const Tensors& v) const {
    return translated("push with PushMode::Dual", [&] {
      static std::recursive_mutex one_level;  // there is one for all threads
      const std::lock_guard lock(one_level);
      const at::NoGradGuard no_gradients;
      const PlainAttention plain;
      const DualLevel level;
      Tensors duals, result;
      for (size_t i = 0; i < x.size(); ++i)  // copies: f may work in place
        duals.push_back(at::_make_dual(x[i].detach().clone(), v[i].clone(), level.index()));
      for (const at::Tensor& value : f(duals)) result.push_back(value._fw_grad(level.index()));
      require(result.size() == codomain.leaves.size(), "push: f gave {} outputs before and gives {} now",
              codomain.leaves.size(), result.size());
      return filled(std::move(result), codomain);
    });
  }

  // Undefined derivatives are zero.
  static Tensors filled(Tensors derivatives, const Space& space) {
    for (size_t i = 0; i < derivatives.size(); ++i) {
      const Leaf& leaf = space.leaves[i];
      if (!derivatives[i].defined())
        derivatives[i] = at::zeros(leaf.shape, at::TensorOptions().dtype(leaf.dtype).device(leaf.device));
    }
    return derivatives;
  }
};

}  // namespace

Linearization linearize(const Function& f, const Tensors& at, const LinearizeOptions& options) {
  check_point(at);
  const c10::InferenceMode no_inference(false);
  const bool with_graph = options.pull || options.push == PushMode::Recorded;
  const at::AutoGradMode gradients(with_graph);
  Tensors x;
  for (const at::Tensor& t : at) x.push_back(t.detach().clone().requires_grad_(with_graph));
  Tensors given = x;
  if (!with_graph)
    for (auto& t : given) t = t.clone();  // f may work in place
  Tensors y = translated("linearize", [&] {
    std::optional<PlainAttention> plain;
    if (options.push == PushMode::Recorded) plain.emplace();
    return f(given);
  });
  check_outputs(y);
  if (!options.allow_nonfinite) check_finite_value(y);

  auto kind = std::make_shared<JacobianKind>(space_of(x), space_of(y));
  kind->options = options;
  Tensors value;
  for (const at::Tensor& t : y) value.push_back(t.detach().clone());
  if (with_graph) kind->dependent = dependent_outputs(x, y, options.allow_constant);
  if (options.push == PushMode::Dual) kind->f = f;
  kind->x = std::move(x);
  if (with_graph) kind->y = std::move(y);
  return {std::move(value), LinearMap(std::move(kind))};
}

namespace {

// Leaves of a graph: the tensors themselves where somebody outside differentiates.
Tensors graph_inputs(const Tensors& at) {
  Tensors x;
  for (const at::Tensor& t : at) x.push_back(t.requires_grad() ? t : t.detach().requires_grad_());
  return x;
}

std::vector<size_t> outputs_with_graph(const Tensors& y) {
  std::vector<size_t> some;
  for (size_t j = 0; j < y.size(); ++j) {
    if (y[j].requires_grad()) some.push_back(j);
  }
  return some;
}

Tensors or_zeros(Tensors derivatives, const Tensors& like) {
  for (size_t i = 0; i < derivatives.size(); ++i) {
    if (!derivatives[i].defined()) derivatives[i] = at::zeros_like(like[i].detach());
  }
  return derivatives;
}

// x -> J(x)^T cotangents(y).
template <class Cotangents>
Function pulled(Function f, Cotangents cotangents) {
  return [f = std::move(f), cotangents = std::move(cotangents)](const Tensors& at) {
    const bool again = at::GradMode::is_enabled();
    const at::AutoGradMode gradients(true);
    check_point(at);
    const Tensors x = graph_inputs(at);
    return translated("pull_of", [&] {
      std::optional<PlainAttention> plain;
      if (again) plain.emplace();
      const Tensors y = f(x);
      check_outputs(y);
      const Tensors c = cotangents(y);
      const auto dependent = outputs_with_graph(y);
      if (dependent.empty()) return or_zeros(Tensors(x.size()), x);
      return or_zeros(grad(chosen(y, dependent), x, chosen(c, dependent), again, again, /*allow_unused=*/true), x);
    });
  };
}

}  // namespace

Function pull_of(Function f, Tensors c) {
  return pulled(std::move(f), [c = std::move(c)](const Tensors& y) {
    check_vector(c, space_of(y), "pull_of: the cotangent");
    return c;
  });
}

Function push_of(Function f, Tensors v) {
  return [f = std::move(f), v = std::move(v)](const Tensors& at) {
    const bool again = at::GradMode::is_enabled();
    const at::AutoGradMode gradients(true);
    check_point(at);
    check_vector(v, space_of(at), "push_of: the tangent");
    const Tensors x = graph_inputs(at);
    return translated("push_of", [&] {
      const PlainAttention plain;
      const Tensors y = f(x);
      check_outputs(y);
      const auto dependent = outputs_with_graph(y);
      Tensors result(y.size()), u, live_g, live_v;
      for (const size_t j : dependent) u.push_back(at::zeros_like(y[j].detach()).requires_grad_());
      if (!dependent.empty()) {
        const Tensors g = grad(chosen(y, dependent), x, u, true, true, /*allow_unused=*/true);
        for (size_t i = 0; i < g.size(); ++i) {
          if (g[i].defined() && g[i].requires_grad()) live_g.push_back(g[i]), live_v.push_back(v[i]);
        }
      }
      if (!live_g.empty()) {
        const Tensors some = grad(live_g, u, live_v, again, again, /*allow_unused=*/true);
        for (size_t j = 0; j < dependent.size(); ++j) result[dependent[j]] = some[j];
      }
      return or_zeros(std::move(result), y);
    });
  };
}

Linearization hessian(const Function& f, const Tensors& at) {
  const Function gradient = pulled(f, [](const Tensors& y) {
    require(y.size() == 1 && y[0].numel() == 1, "hessian: f must give one number, not {}", to_string(space_of(y)));
    return Tensors{at::ones_like(y[0].detach())};
  });
  const LinearizeOptions pulls{.push = PushMode::None, .allow_constant = true};
  const Linearization l = linearize(gradient, at, pulls);
  const LinearMap j = l.jacobian;  // symmetric: its pull is its push, and needs no second recording
  const auto one = [j](const Tensors& v) { return j.kind().pull(v); };
  const auto many = [j](const Tensors& v) { return j.kind().pull_many(v); };
  return {l.value, function_map(j.domain(), j.domain(), one, one, {Property::Symmetric}, many, many)};
}

}  // namespace unbend
