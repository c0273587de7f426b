#include "unbend/calculus/recorded_map.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>
#include <thread>
#include <unordered_map>

#include "unbend/base/error.h"
#include "unbend/calculus/push_rules.h"
#include "unbend/calculus/space.h"

namespace unbend {
namespace {

using torch::autograd::Edge;
using torch::autograd::InputMetadata;
using torch::autograd::Node;
using Tensors = std::vector<at::Tensor>;

constexpr int kNone = -1;

// What an operation gave (the backward's input), or a leaf.
Leaf leaf_of(const InputMetadata& m) {
  const auto shape = m.shape_as_dim_vector();
  Leaf leaf;
  leaf.shape.clear();
  for (const auto& size : shape) leaf.shape.push_back(size.guard_int(__FILE__, __LINE__));
  leaf.dtype = c10::typeMetaToScalarType(m.dtype()), leaf.device = m.device();
  return leaf;
}

// The backward of one operation alone: its cotangents of what it took.
Tensors pulled(Node& operation, const std::vector<uint32_t>& which, Tensors cotangents, bool with_graph) {
  Tensors all(operation.num_inputs());
  for (size_t i = 0; i < which.size(); ++i) all[which[i]] = std::move(cotangents[i]);
  const at::AutoGradMode gradients(with_graph);
  Tensors g = operation(std::move(all));
  const auto named = [&](const std::string& what) { return operation.name() + ": " + what; };
  torch::autograd::validate_outputs(operation.next_edges(), g, named);  // sums what was broadcast
  return g;
}

// Operations compute only what the backward pass that this thread is in asks for: work that asks for more needs a
// thread that is in none.
void outside_of_backward(const std::function<void()>& work) {
  if (torch::autograd::get_current_graph_task_exec_info() == nullptr) return work();
  std::exception_ptr failure;
  std::thread([&] {
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

// The transpose of an operation's backward.
struct Transposed {
  std::vector<uint32_t> gave;  // which of its results are in use
  std::vector<size_t> took;    // which of what it took are not constant
  Tensors u, g;                // cotangents of the former, and g = N u with its graph, of the latter

  // One per result in use.
  Tensors push(const Tensors& in) const {
    Tensors live, along;
    for (size_t i = 0; i < g.size(); ++i) {
      const auto& v = in[took[i]];
      if (v.defined() && g[i].defined() && g[i].requires_grad()) live.push_back(g[i]), along.push_back(v);
    }
    if (live.empty()) return Tensors(u.size());
    return torch::autograd::grad(live, u, along, true, false, /*allow_unused=*/true);
  }
};

// sqrt(sum (a_i b_i)^2): what <a, b> would be if its terms had random signs.
double random_walk(const Tensors& a, const Tensors& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] * b[i]).abs().square().sum().item<double>();
  return std::sqrt(sum);
}

// <u, J v> = <N u, v>. If somewhere a backward is not differentiable, its share is missing in J v only.
void verify(const Node& operation, const Transposed& map, Random& random) {
  Space taken, given = space_of(map.u);
  for (const size_t i : map.took) {
    const Edge& e = operation.next_edge(i);
    taken.leaves.push_back(leaf_of(e.function->input_metadata(e.input_nr)));
  }
  const Tensors v = random_normals(taken, random);
  Tensors in(operation.num_outputs());
  for (size_t i = 0; i < v.size(); ++i) in[map.took[i]] = v[i];
  const at::NoGradGuard no_grad;
  Tensors pushed, some_u, some_g, some_v;
  const auto all = map.push(in);
  for (size_t j = 0; j < all.size(); ++j) {
    if (all[j].defined()) pushed.push_back(all[j]), some_u.push_back(map.u[j].detach());
  }
  for (size_t i = 0; i < v.size(); ++i) {
    if (map.g[i].defined()) some_g.push_back(map.g[i].detach()), some_v.push_back(v[i]);
  }
  const double left = inner(some_u, pushed), right = inner(some_g, some_v);
  const double size = random_walk(some_u, pushed) + random_walk(some_g, some_v) + std::abs(left) + std::abs(right);
  if (size == 0 || !std::isfinite(size)) return;
  const auto narrower = [&](at::ScalarType type) {
    const auto narrow = [&](const Leaf& leaf) {
      return c10::elementSize(c10::toRealValueType(leaf.dtype)) < c10::elementSize(type);
    };
    return std::ranges::any_of(taken.leaves, narrow) || std::ranges::any_of(given.leaves, narrow);
  };
  const double tolerance = narrower(at::kFloat) ? .2 : narrower(at::kDouble) ? 2e-2 : 1e-6;
  if (std::abs(left - right) > tolerance * size)
    fail_computation(
        "push: <u, J v> = {:.6g} but <J^T u, v> = {:.6g}: an operation in f ({}) has a backward that is not "
        "differentiable in its cotangent (PushMode::Dual may do; options.verify_push turns this test off)",
        left, right, operation.name());
}

bool has_hooks(Node& operation) {
  return !operation.tensor_pre_hooks().empty() || !operation.pre_hooks().empty() || !operation.post_hooks().empty();
}

// A pull honours hooks, which may change gradients; a push knows nothing of them.
void refuse_hooks(Node& operation) {
  if (has_hooks(operation))
    fail_computation(
        "push: f puts a hook on a gradient ({}), so that pulls need not be the transpose of pushes "
        "(options.verify_push "
        "turns this test off)",
        operation.name());
}

struct Step {
  Node* operation;
  PushRule rule = nullptr;
  std::vector<int> in = {};     // slots of tangents; kNone for constants
  std::vector<bool> last = {};  // nobody needs it after
  std::vector<int> out = {};    // slots; kNone for results not in use
  std::vector<Leaf> gives = {};
  at::Tensor factor = {};      // of a pointwise operation, whose first input and output are its only ones
  Transposed transposed = {};  // with neither rule nor factor
};

// The derivative of a pointwise operation.
at::Tensor factor_of(const Step& step) {
  const Leaf& gives = step.gives[0];
  const auto ones = at::ones(gives.shape, at::TensorOptions(gives.dtype).device(gives.device));
  return pulled(*step.operation, {0}, {ones}, false)[0];
}

// Of complex numbers, pulls multiply by the conjugate, and may take the real part.
bool is_real(const Step& step) {
  const Edge& taken = step.operation->next_edge(0);
  return !at::isComplexType(step.gives[0].dtype) &&
         !at::isComplexType(leaf_of(taken.function->input_metadata(taken.input_nr)).dtype);
}

// What the push of a step without a rule needs.
Transposed transposed(const Step& step, bool check, Random& random) {
  Transposed map;
  Space gives;
  for (uint32_t j = 0; j < step.out.size(); ++j) {
    if (step.out[j] != kNone) map.gave.push_back(j), gives.leaves.push_back(step.gives[j]);
  }
  for (size_t i = 0; i < step.in.size(); ++i) {
    if (step.in[i] != kNone) map.took.push_back(i);
  }
  // Random, so that the push can be compared; linear maps do not care at which u they were recorded.
  for (auto& t : random_normals(gives, random)) map.u.push_back(t.requires_grad_());
  const Tensors all = pulled(*step.operation, map.gave, map.u, true);
  for (const size_t i : map.took) map.g.push_back(all[i]);
  if (check) verify(*step.operation, map, random);
  return map;
}

// slot += g, in place where nobody else sees it.
void add(at::Tensor& slot, at::Tensor g) {
  if (!slot.defined())
    slot = std::move(g);
  else if (is_own(slot) && slot.scalar_type() == g.scalar_type() && slot.sizes() == g.sizes())
    slot.add_(g);
  else
    slot = slot + g;
}

}  // namespace

struct RecordedMap::Plan {
  std::vector<Step> steps;
  std::vector<int> results;  // slots
  int slots = 0;
  bool can_pull = true;
  std::vector<decltype(torch::autograd::impl::grad_accumulator({}))> leaves;  // kept: a tensor lets go of them

  Plan(const Tensors& x, const Tensors& y) {
    // Slots of what an operation, or a leaf, gives; empty: constant.
    std::unordered_map<Node*, std::vector<int>> places;
    const auto slot = [&](const Edge& e) {
      const auto found = e.is_valid() ? places.find(e.function.get()) : places.end();
      if (found == places.end() || found->second.empty()) return kNone;
      int& place = found->second[e.input_nr];
      return place == kNone ? place = slots++ : place;
    };
    for (const auto& t : x) {
      leaves.push_back(torch::autograd::impl::grad_accumulator(t));
      places[leaves.back().get()] = {slots++};
    }

    struct Visit {
      Node* node;
      size_t next;
    };
    std::vector<Visit> path;
    const auto visit = [&](const Edge& e) {
      if (e.is_valid() && places.try_emplace(e.function.get()).second) path.push_back({e.function.get(), 0});
    };
    for (const auto& t : y) {
      visit(torch::autograd::impl::gradient_edge(t));
      while (!path.empty()) {
        auto& [node, next] = path.back();
        if (next < node->num_outputs()) {
          visit(node->next_edge(next++));
          continue;
        }
        Node* const done = node;
        path.pop_back();
        Step step{.operation = done, .rule = push_rule(*done)};
        for (const Edge& e : done->next_edges()) step.in.push_back(slot(e));
        const bool depends = std::ranges::any_of(step.in, [](int s) { return s != kNone; });
        if (!depends) continue;
        for (const Edge& e : done->next_edges()) can_pull = can_pull && (!e.is_valid() || slot(e) != kNone);
        can_pull = can_pull && !has_hooks(*done);
        places[done].assign(done->num_inputs(), kNone);
        steps.push_back(std::move(step));
      }
    }
    for (const auto& t : y) results.push_back(slot(torch::autograd::impl::gradient_edge(t)));
    for (auto& step : steps) step.out = places[step.operation];

    std::vector<bool> needed(slots);
    for (const int s : results) needed[s] = true;
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      step->last.resize(step->in.size());
      for (size_t i = step->in.size(); i-- > 0;) {
        if (step->in[i] == kNone) continue;
        step->last[i] = !needed[step->in[i]];
        needed[step->in[i]] = true;
      }
      for (uint32_t j = 0; j < step->out.size(); ++j)
        step->gives.push_back(step->out[j] == kNone ? Leaf{} : leaf_of(step->operation->input_metadata(j)));
    }
  }
};

RecordedMap::RecordedMap(const Tensors& x, const Tensors& y) : plan_(std::make_unique<Plan>(x, y)) {
  for (const auto& leaf : plan_->leaves) plan_->can_pull = plan_->can_pull && !has_hooks(*leaf);
  for (const auto& t : x) plan_->can_pull = plan_->can_pull && t.device().is_cpu();
  outside_of_backward([&] {
    const c10::InferenceMode no_inference(false);
    for (auto& step : plan_->steps) {
      if (is_pointwise(*step.operation) && is_real(step)) step.factor = factor_of(step);
    }
  });
}
RecordedMap::RecordedMap(RecordedMap&&) noexcept = default;
RecordedMap& RecordedMap::operator=(RecordedMap&&) noexcept = default;
RecordedMap::~RecordedMap() = default;

void RecordedMap::prepare_pushes(bool check) {
  outside_of_backward([&] {
    const c10::InferenceMode no_inference(false);
    Random random(0x5eed);
    for (const auto& leaf : plan_->leaves) {
      if (check) refuse_hooks(*leaf);
    }
    for (auto& step : plan_->steps) {
      if (check) refuse_hooks(*step.operation);
      if (!step.rule && !step.factor.defined()) step.transposed = transposed(step, check, random);
    }
  });
}

Tensors RecordedMap::push(const Tensors& v) const {
  const at::NoGradGuard no_grad;
  Tensors slots(plan_->slots);
  std::ranges::copy(v, slots.begin());
  Tangents t;
  for (const auto& step : plan_->steps) {
    t.in.assign(step.in.size(), {}), t.out.assign(step.out.size(), {});
    bool any = false;
    for (size_t i = 0; i < step.in.size(); ++i) {
      if (step.in[i] == kNone) continue;
      t.in[i] = step.last[i] ? std::move(slots[step.in[i]]) : slots[step.in[i]];
      any = any || t.in[i].defined();
    }
    if (!any) continue;
    if (step.rule) {
      t.shape = step.gives[0].shape;
      step.rule(*step.operation, t);
    } else if (step.factor.defined()) {
      t.out[0] = times(std::move(t.in[0]), step.factor);
    } else {
      const auto pushed = step.transposed.push(t.in);
      for (size_t j = 0; j < pushed.size(); ++j) t.out[step.transposed.gave[j]] = pushed[j];
    }
    for (size_t j = 0; j < step.out.size(); ++j) {
      auto& out = t.out[j];
      if (step.out[j] == kNone || !out.defined()) continue;
      if (out.sizes() != step.gives[j].shape) out = out.expand(step.gives[j].shape);
      if (out.scalar_type() != step.gives[j].dtype) out = out.to(step.gives[j].dtype);
      slots[step.out[j]] = std::move(out);
    }
  }
  Tensors results;
  for (const int s : plan_->results) {
    const auto& y = slots[s];
    results.push_back(y.defined() && !y.is_non_overlapping_and_dense() ? y.contiguous() : y);
  }
  return results;
}

bool RecordedMap::can_pull() const {
  return plan_->can_pull && torch::autograd::get_current_graph_task_exec_info() == nullptr;
}

Tensors RecordedMap::pull(const Tensors& c) const {
  const at::NoGradGuard no_grad;
  Tensors slots(plan_->slots);
  for (size_t j = 0; j < c.size(); ++j) add(slots[plan_->results[j]], c[j]);
  for (auto step = plan_->steps.rbegin(); step != plan_->steps.rend(); ++step) {
    std::vector<uint32_t> which;
    Tensors cotangents;
    for (uint32_t j = 0; j < step->out.size(); ++j) {
      const int s = step->out[j];
      if (s != kNone && slots[s].defined()) which.push_back(j), cotangents.push_back(std::move(slots[s]));
    }
    if (which.empty()) continue;
    if (step->factor.defined()) {
      add(slots[step->in[0]], times(std::move(cotangents[0]), step->factor));
      continue;
    }
    Tensors g = pulled(*step->operation, which, std::move(cotangents), false);
    for (size_t i = 0; i < step->in.size(); ++i) {
      if (step->in[i] != kNone && g[i].defined()) add(slots[step->in[i]], std::move(g[i]));
    }
  }
  slots.resize(plan_->leaves.size());  // theirs come first
  return slots;
}

}  // namespace unbend
