#include "unbend/nets/network_file.h"

#include <fmt/format.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/passes/remove_mutation.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "unbend/base/error.h"
#include "unbend/nets/torchscript.h"

namespace unbend {
namespace {

namespace jit = torch::jit;
using Ints = std::vector<int64_t>;

// What is known of a value of the graph while it is read.
struct Meaning {
  enum class Kind { Unknown, Constant, Value, Sizes, Size, List } kind = Kind::Unknown;
  jit::IValue constant = {};          // Constant
  int value = 0;                      // Value: of the network; Sizes, Size: of which value
  int64_t dimension = 0;              // Size: of which dimension
  std::vector<Meaning> entries = {};  // List
};
using Kind = Meaning::Kind;

// "net.conv1", from the modules that the operation was inlined from; else from the name of its weight.
std::string module_of(const jit::Node* node) {
  std::string name;
  if (const auto stack = node->callstack()) {
    for (const auto& entry : (*stack)->vec()) {
      const auto& module = std::get<2>(entry);
      if (!module || module->instance_name().empty() || module->instance_name() == "SELF") continue;
      if (!name.empty()) name += '.';
      name += module->instance_name();
    }
  }
  if (!name.empty()) return name;
  for (const auto* input : node->inputs()) {
    const auto text = input->debugName();
    if (text.starts_with("self.") && text.rfind('.') > 5) return text.substr(5, text.rfind('.') - 5);
  }
  return "";
}

std::string line_of(const jit::Node* node) {
  auto range = node->sourceRange();
  if (range.source()) range = range.source()->findSourceRangeThatGenerated(range).value_or(range);  // before saving
  const auto place = range.file_line_col();
  if (!place || std::get<0>(*place).empty()) return {};
  const auto& [file, line, column] = *place;
  return fmt::format("{}:{}", std::filesystem::path(file).filename().string(), line);
}

class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  Network read(const jit::Graph& graph) {
    const auto inputs = graph.inputs();
    size_t tensors = 0;
    for (const auto* input : inputs) {
      if (input->type()->kind() == c10::TypeKind::ClassType) continue;  // the module itself
      require(++tensors == 1, "{}: the module takes several inputs; a network has one", file_);
      known_[input] = value(0);
    }
    require(tensors == 1, "{}: the module takes no input", file_);
    block(*graph.block());
    require(graph.outputs().size() == 1, "{}: the module has {} outputs; a network has one", file_,
            graph.outputs().size());
    const auto out = meaning(graph.outputs()[0]);
    require(out.kind == Kind::Value, "{}: the module's output is not one tensor that depends on its input", file_);
    // The output is the last node's value.
    const int last = static_cast<int>(network_.nodes.size());
    require(last > 0, "{}: the module does nothing to its input", file_);
    if (out.value != last) append(network_, Elementwise{Activation::Identity}, "output", {out.value});
    return std::move(network_);
  }

 private:
  static Meaning value(int number) { return {Kind::Value, {}, number}; }
  static Meaning constant(jit::IValue v) { return {Kind::Constant, std::move(v)}; }

  Meaning meaning(const jit::Value* v) const {
    const auto found = known_.find(v);
    return found == known_.end() ? Meaning{} : found->second;
  }
  Meaning in(const jit::Node* node, size_t i) const { return meaning(node->inputs()[i]); }

  [[noreturn]] void refuse(const jit::Node* node, const std::string& why) const {
    const auto module = module_of(node), line = line_of(node);
    fail_input("{}: {}{}{}: {}", file_, node->kind().toQualString(),
               module.empty() ? "" : fmt::format(" in module '{}'", module), line.empty() ? "" : " at " + line, why);
  }
  void need(bool ok, const jit::Node* node, const std::string& why) const {
    if (!ok) refuse(node, why);
  }

  // ---- Arguments

  int tensor(const jit::Node* node, size_t i) const {
    const auto m = in(node, i);
    need(m.kind == Kind::Value, node, fmt::format("argument {} is not a value that depends on the input", i));
    return m.value;
  }
  const jit::IValue* literal(const jit::Node* node, size_t i) const {
    const auto found = known_.find(node->inputs()[i]);
    return found != known_.end() && found->second.kind == Kind::Constant ? &found->second.constant : nullptr;
  }
  jit::IValue fixed(const jit::Node* node, size_t i) const {
    const auto* v = literal(node, i);
    need(v != nullptr, node, fmt::format("argument {} depends on the input", i));
    return *v;
  }
  at::Tensor weight(const jit::Node* node, size_t i) const {  // undefined for None
    const auto v = fixed(node, i);
    if (v.isNone()) return {};
    need(v.isTensor(), node, fmt::format("argument {} is not a tensor", i));
    return v.toTensor().detach();
  }
  double number(const jit::Node* node, size_t i) const {
    const auto v = fixed(node, i);
    if (v.isTensor()) return v.toTensor().item<double>();
    need(v.isScalar(), node, fmt::format("argument {} is not a number", i));
    return v.toScalar().toDouble();
  }
  bool flag(const jit::Node* node, size_t i) const { return fixed(node, i).toBool(); }
  // One number stands for all `count` of them.
  Ints ints(const jit::Node* node, size_t i, size_t count) const {
    const auto v = fixed(node, i);
    Ints all = v.isInt() ? Ints{v.toInt()} : v.toIntVector();
    if (all.size() == 1) all.resize(count, all[0]);
    need(all.size() == count || all.empty(), node, fmt::format("argument {} has {} numbers", i, all.size()));
    return all;
  }

  // ---- Graph

  void block(const jit::Block& block) {
    for (const auto* node : block.nodes()) this->node(node);
  }

  void node(const jit::Node* node) {
    const auto kind = node->kind();
    if (kind == c10::prim::If) return branch(node);
    if (kind == c10::prim::RaiseException) refuse(node, "the module raises an exception");
    if (kind == c10::prim::GetAttr) refuse(node, "an attribute that the module changes while it runs");
    if (kind == c10::prim::Constant) {
      const auto v = jit::toIValue(node->output());
      if (v) known_[node->output()] = constant(*v);
      return;
    }
    if (symbolic(node)) return;
    if (std::ranges::all_of(node->inputs(), [&](const auto* v) { return meaning(v).kind == Kind::Constant; }))
      return evaluate(node);
    const bool reads_values = std::ranges::any_of(node->inputs(), [&](const auto* v) {
      const auto m = meaning(v);
      return m.kind == Kind::Value || m.kind == Kind::List;
    });
    const bool gives_tensor = std::ranges::any_of(
        node->outputs(), [](const auto* v) { return v->type()->kind() == c10::TypeKind::TensorType; });
    if (!reads_values || !gives_tensor) return;  // arithmetic on sizes: unknown, and refused where it is used
    need(!node->hasAttribute(c10::attr::Subgraph) && node->kind().is_aten(), node, kUnsupported);
    operation(node);
  }

  // Sizes and lists. Whether the node was one of those.
  bool symbolic(const jit::Node* node) {
    const std::string_view kind = node->kind().toQualString();
    auto& out = node->outputs().empty() ? unused_ : known_[node->outputs()[0]];
    if (kind == "prim::ListConstruct" || kind == "prim::TupleConstruct") {
      if (std::ranges::all_of(node->inputs(), [&](const auto* v) { return meaning(v).kind == Kind::Constant; }))
        return false;
      out = {Kind::List};
      for (const auto* v : node->inputs()) out.entries.push_back(meaning(v));
      return true;
    }
    if (node->inputs().empty()) return false;
    const auto first = in(node, 0);
    if (kind == "aten::size" && first.kind == Kind::Value) {
      if (node->inputs().size() == 1)
        out = {Kind::Sizes, {}, first.value};
      else if (const auto* d = literal(node, 1))
        out = {Kind::Size, {}, first.value, d->toInt()};
      return true;
    }
    if (kind == "aten::__getitem__" && (first.kind == Kind::Sizes || first.kind == Kind::List)) {
      const auto* i = literal(node, 1);
      if (i && first.kind == Kind::Sizes) out = {Kind::Size, {}, first.value, i->toInt()};
      if (i && first.kind == Kind::List && i->toInt() >= 0 && i->toInt() < std::ssize(first.entries))
        out = first.entries[static_cast<size_t>(i->toInt())];
      return true;
    }
    if ((kind == "prim::NumToTensor" || kind == "aten::Int") && first.kind == Kind::Size) return out = first, true;
    if (kind == "prim::TupleUnpack" && first.kind == Kind::List) {
      for (size_t i = 0; i < first.entries.size(); ++i) known_[node->outputs()[i]] = first.entries[i];
      return true;
    }
    return false;
  }

  void evaluate(const jit::Node* node) {
    need(!node->isNondeterministic(), node, "it draws random numbers");
    need(node->maybeOperator() != nullptr, node, kUnsupported);
    jit::Stack stack;
    for (const auto* v : node->inputs()) stack.push_back(meaning(v).constant);
    try {
      node->getOperation()(stack);
    } catch (const std::exception& error) {
      refuse(node, first_line(error.what()));
    }
    for (size_t i = 0; i < node->outputs().size(); ++i) known_[node->outputs()[i]] = constant(stack.at(i));
  }

  // Whether nothing inside can be seen outside.
  static bool silent(const jit::Node* branch) {
    return std::ranges::all_of(branch->blocks(), [](const jit::Block* b) {
      return std::ranges::all_of(b->nodes(), [](const jit::Node* n) {
        const std::string_view name = n->kind().toUnqualString();
        return !name.ends_with('_') && n->kind() != c10::prim::RaiseException && silent(n);
      });
    });
  }

  // A condition that is unknown is a check of the input if one side does nothing but complain.
  void branch(const jit::Node* node) {
    const auto raises = [](const jit::Block* b) {
      return std::ranges::any_of(b->nodes(), [](const auto* n) { return n->kind() == c10::prim::RaiseException; });
    };
    if (node->outputs().empty() && silent(node)) return;  // warnings
    const auto* condition = literal(node, 0);
    size_t taken = 2;
    if (condition && condition->isBool())
      taken = condition->toBool() ? 0 : 1;
    else if (raises(node->blocks()[0]))
      taken = 1;
    else if (raises(node->blocks()[1]))
      taken = 0;
    need(taken < 2, node, "a branch that depends on the input");
    const auto* chosen = node->blocks()[taken];
    block(*chosen);
    for (size_t i = 0; i < node->outputs().size(); ++i) known_[node->outputs()[i]] = meaning(chosen->outputs()[i]);
  }

  // ---- Operations

  int add(const jit::Node* node, Operation operation, std::vector<int> inputs) {
    auto name = module_of(node);
    const std::string kind = node->kind().toUnqualString();
    if (name.empty()) name = kind;
    if (const int seen = names_[name]++; seen > 0) name += fmt::format(".{}{}", kind, seen);
    return append(network_, std::move(operation), std::move(name), std::move(inputs));
  }
  void give(const jit::Node* node, int number) { known_[node->outputs()[0]] = value(number); }
  void apply(const jit::Node* node, Operation operation) {
    const int x = tensor(node, 0);
    give(node, add(node, std::move(operation), {x}));
  }

  void operation(const jit::Node* node) {
    const std::string_view kind = node->kind().toUnqualString();
    const auto ends = [&](std::string_view with) { return kind.ends_with(with); };
    if (kind.ends_with('_') && !kind.ends_with("__"))
      refuse(node, "it changes a tensor in place that is used elsewhere: use the form that does not");
    if (kind == "linear") return apply(node, Linear{weight(node, 1), weight(node, 2)});
    if (kind == "matmul" || kind == "mm") {
      need(in(node, 0).kind == Kind::Value && literal(node, 1), node, "only value @ constant matrix is linear");
      const auto w = weight(node, 1);
      need(w.dim() == 2, node, fmt::format("the matrix has {} dimensions", w.dim()));
      return apply(node, Linear{w.t().contiguous(), {}});
    }
    if (kind == "addmm") {
      need(number(node, 3) == 1 && number(node, 4) == 1, node, "beta and alpha must be 1");
      const auto b = weight(node, 0), w = weight(node, 2);
      return give(node, add(node, Linear{w.t().contiguous(), b.expand({w.size(1)}).contiguous()}, {tensor(node, 1)}));
    }
    if (kind.find("conv") != std::string_view::npos) return convolution(node, kind);
    if (kind == "batch_norm") return batch_norm(node);
    if (kind == "layer_norm") return layer_norm(node);
    if (ends("dropout")) {
      need(!flag(node, 2), node, "dropout is active in evaluation (F.dropout needs training=self.training)");
      return give(node, tensor(node, 0));
    }
    if (kind == "contiguous" || kind == "clone" || kind == "alias") return give(node, tensor(node, 0));
    if (kind == "relu" || kind == "sigmoid" || kind == "tanh" || kind == "silu")
      return apply(node, Elementwise{activation_named(kind)});
    if (kind == "leaky_relu") return apply(node, Elementwise{Activation::LeakyRelu, number(node, 1)});
    if (kind == "gelu") {
      const auto form = node->inputs().size() > 1 ? fixed(node, 1).toStringRef() : "none";
      return apply(node, Elementwise{form == "tanh" ? Activation::GeluTanh : Activation::Gelu});
    }
    if (kind == "softplus") {
      need(number(node, 1) == 1 && number(node, 2) == 20, node, "beta must be 1 and threshold 20");
      return apply(node, Elementwise{Activation::Softplus});
    }
    if (kind == "softmax" || kind == "log_softmax")
      refuse(node, "leave the softmax out, and save the module that gives the logits");
    if (kind.find("_pool") != std::string_view::npos) return pool(node, kind);
    if (kind == "mean") return mean(node);
    if (kind == "flatten" || kind == "view" || kind == "reshape") return reshape(node, kind);
    if (kind == "cat") return concatenate(node);
    if (kind == "add" || kind == "sub" || kind == "rsub") return sum(node, kind);
    if (kind == "mul" || kind == "div") return product(node, kind == "div");
    if (kind == "neg") return give(node, affine(node, tensor(node, 0), at::scalar_tensor(-1., at::kDouble), zero()));
    refuse(node, kUnsupported);
  }

  static at::Tensor zero() { return at::scalar_tensor(0., at::kDouble); }

  void convolution(const jit::Node* node, std::string_view kind) {
    Convolution c;
    c.weight = weight(node, 1), c.bias = weight(node, 2);
    need(c.weight.defined() && c.weight.dim() >= 3 && c.weight.dim() <= 5, node, "the kernel has no 1 to 3 dimensions");
    const auto d = static_cast<size_t>(c.weight.dim() - 2);
    c.stride = ints(node, 3, d);
    c.output_padding.assign(d, 0);
    const auto padding = [&] {
      const auto v = fixed(node, 4);
      if (!v.isString()) return ints(node, 4, d);
      Ints sides(d, 0);
      if (v.toStringRef() == "valid") return sides;
      for (size_t i = 0; i < d; ++i) {
        const auto both = c.dilation[i] * (c.weight.size(static_cast<int64_t>(i) + 2) - 1);
        need(both % 2 == 0, node, "padding 'same' of an even kernel is not symmetric");
        sides[i] = both / 2;
      }
      return sides;
    };
    if (kind.starts_with("conv_transpose")) {
      c.transposed = true, c.groups = fixed(node, 6).toInt();
      c.output_padding = ints(node, 5, d), c.dilation = ints(node, 7, d);
    } else {
      c.dilation = ints(node, 5, d);
      const bool general = kind == "_convolution" || kind == "convolution";
      if (general) c.transposed = flag(node, 6), c.output_padding = ints(node, 7, d);
      c.groups = fixed(node, general ? 8 : 6).toInt();
    }
    c.padding = padding();
    apply(node, std::move(c));
  }

  void batch_norm(const jit::Node* node) {
    need(!flag(node, 5), node, "batch statistics are active in evaluation: samples would depend on each other");
    const auto mean = weight(node, 3), variance = weight(node, 4);
    need(mean.defined() && variance.defined(), node, "it has no running statistics");
    auto scale = at::rsqrt(variance + number(node, 7));
    if (const auto w = weight(node, 1); w.defined()) scale = scale * w;
    auto shift = -mean * scale;
    if (const auto b = weight(node, 2); b.defined()) shift = shift + b;
    apply(node, ChannelAffine{scale, shift});
  }

  void layer_norm(const jit::Node* node) {
    const auto width = fixed(node, 1).toIntVector();
    need(width.size() == 1, node, "only over the last dimension");
    const auto w = weight(node, 2), b = weight(node, 3);
    apply(node, LayerNorm{w.defined() ? w : at::ones(width), b.defined() ? b : at::zeros(width), number(node, 4)});
  }

  void pool(const jit::Node* node, std::string_view kind) {
    const auto digit = kind.find_first_of("123");
    need(digit != std::string_view::npos, node, kUnsupported);
    const auto d = static_cast<size_t>(kind[digit] - '0');
    const bool maximum = kind.find("max") != std::string_view::npos;
    if (kind.starts_with("adaptive")) {
      need(ints(node, 1, d) == Ints(d, 1), node, "adaptive pools are only known to size 1");
      need(node->outputs().size() == 1 || node->outputs()[1]->uses().empty(), node, "the pool's indices are used");
      if (maximum) return apply(node, Pooling{true, Ints(d, 0), Ints(d, 1), Ints(d, 0), Ints(d, 1)});
      MeanOver mean{{}, true};
      for (size_t i = d; i > 0; --i) mean.dimensions.push_back(-static_cast<int64_t>(i));
      return apply(node, mean);
    }
    Pooling p{maximum, ints(node, 1, d), ints(node, 2, d), ints(node, 3, d), Ints(d, 1)};
    if (p.stride.empty()) p.stride = p.kernel;
    if (maximum) p.dilation = ints(node, 4, d);
    p.ceil = flag(node, maximum ? 5 : 4);
    if (!maximum) {
      need(flag(node, 5) || p.padding == Ints(d, 0), node, "an average that leaves its padding out");
      need(!p.ceil, node, "an average with ceil_mode");
      need(node->inputs().size() < 7 || fixed(node, 6).isNone(), node, "an average with a divisor of its own");
    }
    apply(node, std::move(p));
  }

  void mean(const jit::Node* node) {
    need(node->inputs().size() >= 4 && !fixed(node, 1).isNone(), node, "a mean over everything couples the samples");
    MeanOver m{fixed(node, 1).toIntVector(), flag(node, 2)};
    need(!m.dimensions.empty() && std::ranges::find(m.dimensions, 0) == m.dimensions.end(), node,
         "a mean over dimension 0 couples the samples");
    apply(node, std::move(m));
  }

  void reshape(const jit::Node* node, std::string_view kind) {
    if (kind == "flatten") {
      need(number(node, 1) == 1 && number(node, 2) == -1, node, "only from dimension 1 to the last");
      return apply(node, Reshape{{-1}});
    }
    auto shape = in(node, 1);
    if (shape.kind == Kind::Constant) {
      const auto all = shape.constant.toIntVector();
      shape = {Kind::List};
      for (const auto v : all) shape.entries.push_back(constant(v));
    }
    need(shape.kind == Kind::List && shape.entries.size() >= 2, node, "the new shape depends on the input");
    const auto& batch = shape.entries[0];
    const bool keeps_batch = (batch.kind == Kind::Size && batch.dimension == 0) ||
                             (batch.kind == Kind::Constant && batch.constant.toInt() == -1);
    need(keeps_batch, node, "the first entry of the new shape must be the number of samples, or -1");
    Reshape r;
    for (size_t i = 1; i < shape.entries.size(); ++i) {
      const auto& entry = shape.entries[i];
      need(entry.kind == Kind::Constant || entry.kind == Kind::Size, node, "the new shape depends on the input");
      r.shape.push_back(entry.kind == Kind::Constant ? entry.constant.toInt() : -1);  // the one that is not known
    }
    need(std::ranges::count(r.shape, -1) <= 1, node, "more than one entry of the new shape is open");
    apply(node, std::move(r));
  }

  void concatenate(const jit::Node* node) {
    const auto list = in(node, 0);
    std::vector<int> inputs;
    for (const auto& entry : list.entries) {
      need(entry.kind == Kind::Value, node, "one of the parts is a constant");
      inputs.push_back(entry.value);
    }
    const auto dimension = fixed(node, 1).toInt();
    need(dimension != 0 && !inputs.empty(), node, "along dimension 0, the samples");
    give(node, add(node, Concatenation{dimension}, inputs));
  }

  // x * scale + shift
  int affine(const jit::Node* node, int x, at::Tensor scale, at::Tensor shift) {
    int64_t dimension = 1;
    for (auto* t : {&scale, &shift}) {
      if (!t->is_floating_point()) *t = t->to(at::kFloat);
      if (t->numel() == 1) {
        *t = t->reshape({});
        continue;
      }
      for (int64_t d = 1; d <= t->dim(); ++d) {
        if (t->size(-d) == 1) continue;
        need(t->size(-d) == t->numel(), node, "a constant that is neither one number nor one per channel");
        dimension = -d;
      }
      *t = t->reshape({-1});
    }
    return add(node, ChannelAffine{scale, shift, dimension}, {x});
  }

  at::Tensor constant_tensor(const jit::Node* node, size_t i) const {
    const auto v = fixed(node, i);
    return v.isTensor() ? v.toTensor().detach() : at::scalar_tensor(v.toScalar(), at::kDouble);
  }

  void sum(const jit::Node* node, std::string_view kind) {
    const double alpha = node->inputs().size() > 2 ? number(node, 2) : 1;
    const double second = kind == "sub" ? -alpha : alpha, first = 1;
    const auto one = [](double v) { return at::scalar_tensor(v, at::kDouble); };
    const bool reversed = kind == "rsub";  // second - alpha * first
    const std::pair<double, double> factors = reversed ? std::pair{-alpha, 1.} : std::pair{first, second};
    const bool values[] = {in(node, 0).kind == Kind::Value, in(node, 1).kind == Kind::Value};
    if (values[0] && values[1]) {
      std::vector<int> inputs = {tensor(node, 0), tensor(node, 1)};
      if (factors.first != 1) inputs[0] = affine(node, inputs[0], one(factors.first), zero());
      if (factors.second != 1) inputs[1] = affine(node, inputs[1], one(factors.second), zero());
      return give(node, add(node, Addition{}, inputs));
    }
    const size_t x = values[0] ? 0 : 1;
    const double of_x = x == 0 ? factors.first : factors.second, of_c = x == 0 ? factors.second : factors.first;
    auto c = constant_tensor(node, 1 - x);
    give(node, affine(node, tensor(node, x), one(of_x), of_c == 1 ? c : c * of_c));
  }

  void product(const jit::Node* node, bool divide) {
    const bool values[] = {in(node, 0).kind == Kind::Value, in(node, 1).kind == Kind::Value};
    need(!(values[0] && values[1]), node, "a product of two values is not linear, and no activation that is known");
    need(!divide || values[0], node, "a constant divided by a value");
    need(node->inputs().size() == 2, node, "a division that rounds");
    const size_t x = values[0] ? 0 : 1;
    const auto c = constant_tensor(node, 1 - x);
    give(node, affine(node, tensor(node, x), divide ? at::reciprocal(c) : c, zero()));
  }

  static constexpr const char* kUnsupported =
      "a network of known operations has no such (the Jacobian form takes any differentiable module)";
  std::string file_;
  Network network_;
  std::unordered_map<const jit::Value*, Meaning> known_;
  std::map<std::string, int> names_;
  Meaning unused_;
};

}  // namespace

Network read_network(const std::filesystem::path& path) {
  const auto module = load_torchscript(path);
  std::shared_ptr<jit::Graph> graph;
  try {
    graph = jit::freeze_module(module).get_method("forward").graph()->copy();
    jit::RemoveTensorMutation(graph);
  } catch (const std::exception& error) {
    fail_input("{}: its operations cannot be read: {}", path.string(), first_line(error.what()));
  }
  return Reader(path.string()).read(*graph);
}

}  // namespace unbend
