// Multilayer perceptrons of the size that control needs, with hand-written fused passes: no graph, no allocation after
// the first call. T is float for work and double for checks of gradients.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/control/policy_matrix.h"

namespace unbend::control {

enum class Nonlinearity { Tanh, Relu };

/// How weights start: orthogonal with gain sqrt(2) and `last_gain` in the last layer, biases 0 (the code-level trick of
/// PPO); or uniform within 1/sqrt(inputs), biases too (the default of PyTorch).
enum class Start { Orthogonal, Uniform };

/// Layers of x W + b, the hidden ones followed by the nonlinearity. The network itself is only the shape: parameters
/// lie in one array of parameters() numbers, which holds the weights in the order in which the kernels read them,
/// padded by zeros. Gradients have the same order, so that an optimiser sees flat arrays.
template <class T>
class Mlp {
 public:
  /// What a forward pass leaves for the backward pass, and scratch. Of one network at a time.
  struct Work {
    std::vector<Matrix<T>> outputs;  ///< of every layer
    Matrix<T> upstream, next;
    Numbers<T> turned;
    const Matrix<T>& result() const { return outputs.back(); }
  };

  Mlp() = default;
  /// {inputs, hidden..., outputs}. Input error unless there are at least two and all are positive.
  Mlp(std::vector<std::int64_t> widths, Nonlinearity hidden);

  std::int64_t inputs() const { return widths_.front(); }
  std::int64_t outputs() const { return widths_.back(); }
  std::int64_t parameters() const { return parameters_; }
  const std::vector<std::int64_t>& widths() const { return widths_; }
  Nonlinearity nonlinearity() const { return hidden_; }

  void initialise(T* parameters, Start start, double last_gain, Random& random) const;

  /// x [n, inputs] to work.result() [n, outputs].
  void forward(const T* parameters, const Matrix<T>& x, Work& work) const;

  /// After forward() with the same parameters and x. `upstream` [n, outputs] is the loss's gradient with respect to the
  /// result. Overwrites `gradient` [parameters()] and `of_input` [n, inputs]; either may be null.
  void backward(const T* parameters, const Matrix<T>& x, const Matrix<T>& upstream, Work& work, T* gradient,
                Matrix<T>* of_input = nullptr) const;

  /// Weights and biases in the order of PyTorch, as a file keeps them: per layer weight [outputs, inputs], bias
  /// [outputs].
  struct Layer {
    std::vector<T> weight, bias;
  };
  std::vector<Layer> layers(const T* parameters) const;
  void set_layers(const std::vector<Layer>& layers, T* parameters) const;

 private:
  struct Place {
    std::int64_t inputs, outputs;
    std::int64_t width, strips;  ///< outputs are computed in `strips` strips of `width`
    std::int64_t weights,
        bias;  ///< offsets into the parameters: weights [strips, inputs, width], bias [strips * width]
  };
  std::vector<std::int64_t> widths_;
  Nonlinearity hidden_ = Nonlinearity::Tanh;
  std::vector<Place> places_;
  std::int64_t parameters_ = 0;
};

}  // namespace unbend::control
