// What a Fn is made of. A new primitive is one struct: how it is evaluated, pushed and pulled.
#pragma once

#include <functional>
#include <unordered_map>

#include "unbend/calculus/fn.h"
#include "unbend/calculus/jet.h"

namespace unbend::functional {

using Key = std::vector<std::uint64_t>;
using Tangent = std::optional<Fn>;  ///< nothing is a symbolic zero
using Tangents = std::vector<Tangent>;

using Series = Jet<at::Tensor>;
using SeriesOf = std::function<Series(const Fn&, const Series&)>;  ///< Taylor series of a function at a series

inline std::uint64_t key_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

struct KeyHash {
  std::size_t operator()(const Key& key) const;
};

/// Evaluates expressions with a memo: (node, identity of the point's tensors) -> values.
///
/// A point is a flat list of tensors [*batch, *shape]. Batches may have any number of axes and broadcast against each
/// other, so that a function of x alone is evaluated on the x and not on all pairs (x, y): an integral adds its nodes
/// as one more axis, at the front.
class Evaluator {
 public:
  using Observer = std::function<void(const Node&, const Tensors& point, const Tensors& values)>;
  explicit Evaluator(bool differentiates, Observer observer = {})
      : differentiates_(differentiates), observer_(std::move(observer)) {}

  /// `pending`: somebody will differentiate the values, so they need their whole graph.
  Tensors operator()(const Fn& f, const Tensors& point, bool pending);

  /// [n, 1 (depth times), *shape of the argument]
  at::Tensor nodes(const Grid& grid, const Spec& spec, std::int64_t depth);

  /// The point with the tensors `wanted` replaced by copies of the full batch that require gradients and depend on
  /// nothing else in the point: derivatives with respect to them are partial derivatives. Repeated calls and
  /// derivatives of derivatives get the same copies, and so share evaluations.
  Tensors separate(const std::vector<Spec>& specs, const Tensors& point, const std::vector<std::size_t>& wanted,
                   at::IntArrayRef batch);

 private:
  struct Entry {
    Tensors point, values;  // the point keeps its tensors' addresses taken
    bool complete;          // with the graph of all derivatives in it
  };
  std::unordered_map<Key, Entry, KeyHash> memo_;
  std::unordered_map<Key, std::pair<Tensors, Tensors>, KeyHash> separated_;
  std::unordered_map<Key, at::Tensor, KeyHash> nodes_;
  bool differentiates_;
  Observer observer_;
};

struct Node {
  FnType type;
  std::vector<Grid> grids;  ///< one per argument
  std::vector<Fn> in;

  // Set by `intern`.
  std::vector<Spec> points, results;  ///< leaves of arguments and result
  std::vector<std::size_t> offsets;   ///< where the leaves of each argument begin; and their number
  bool differentiates = false;        ///< evaluation needs gradients
  bool parametric = false;            ///< a leaf below has parameters
  bool stopped = false;               ///< a gradient is stopped below

  Node(FnType t, std::vector<Grid> g, std::vector<Fn> i);
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual ~Node();

  virtual std::string name() const = 0;
  virtual bool own_derivative() const { return false; }  ///< its evaluation calls autograd
  virtual bool own_parameters() const { return false; }
  virtual bool own_stop() const { return false; }
  /// Whether nodes of this kind with equal inputs and keys are one; `key` appends what tells them apart.
  virtual bool shared() const { return true; }
  virtual void key(Key&) const {}

  virtual Tensors eval(Evaluator& evaluate, const Tensors& point, bool pending) const = 0;
  /// The Jacobian with respect to an argument, where it is known without autograd.
  virtual Tangent jacobian(int arg) const { return {}; }
  /// Of a function of one number at the series x; `of` gives those of inputs. Input error where there is none.
  virtual Series series(const SeriesOf& of, const Series& x) const;
  /// Tangent of this for tangents `d` of its inputs, not all of them zero.
  virtual Tangent push(const Tangents& d) const = 0;
  /// Cotangents of the inputs that are wanted.
  virtual Tangents pull(const Fn& c, const std::vector<bool>& wanted) const = 0;

  /// The leaves of argument `index` in a point.
  Tensors slice(const Tensors& point, int index) const;
};

/// The Fn of a new node, or of the one like it that exists.
Fn intern(std::shared_ptr<Node> node);

template <class N, class... Args>
Fn make(Args&&... args) {
  return intern(std::make_shared<N>(std::forward<Args>(args)...));
}

/// A constant with its value, if it is a number that fills a tensor.
std::optional<double> uniform_value(const Fn& f);
bool is_zero(const Fn& f);
bool is_identity(const Fn& f);
/// A constant tensor of one number.
Fn filled(double number, const Spec& spec, std::vector<SpecTree> args, std::vector<Grid> grids = {});

/// Sum of those that are not zero.
Tangent sum_of(const Tangents& terms);

// ---- Batches

std::int64_t batch_dims(const at::Tensor& t, const Spec& spec);
std::vector<std::int64_t> batch_of(const Tensors& point, const std::vector<Spec>& specs);  ///< broadcast of all
at::Tensor expand_batch(const at::Tensor& t, const Spec& spec, at::IntArrayRef batch);
/// sum_k weights_k values[k] over the axis that stands before `depth` batch axes; the values may lack it.
at::Tensor weighted_sum(const at::Tensor& values, const Spec& spec, const at::Tensor& weights, std::int64_t depth);
/// First of each argument's grids that there is. The functions have the same arguments.
std::vector<Grid> merged_grids(const std::vector<Fn>& functions);
void check_args(const std::vector<int>& args, const Fn& f, const char* what);  ///< distinct, in range
const Spec& result_spec(const Fn& f, const char* what);                        ///< Input error for tuples

}  // namespace unbend::functional
