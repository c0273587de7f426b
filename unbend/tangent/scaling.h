// Networks of many sizes under one parameterization, and what tells whether it keeps its promise: sizes of activations
// over depth and width, learning rates that transfer, blocks that learn beyond their linearization
// (methods/completep.md, "Diagnostics"; Dey et al. 2025, arXiv 2505.01618, sections 3 to 5).
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/calculus/linearize.h"
#include "unbend/nets/residual_mlp.h"
#include "unbend/nets/transformer.h"

namespace unbend {

/// Inputs of a network and the classes that it should name: [B, features] and [B], or ids [B, T] and [B, T].
struct Examples {
  at::Tensor inputs, targets;
};
using ExampleSource = std::function<Examples(int64_t step)>;

/// A network with its rules, ready to train.
struct ScaledNetwork {
  ScaledRules rules;
  std::vector<Parameter> parameters;  ///< of what `logits` holds
  std::function<at::Tensor(const at::Tensor& inputs, Taps* taps)> logits;

  at::Tensor loss(const Examples& examples, Taps* taps = nullptr) const;  ///< mean cross-entropy
};

/// Root mean square of the entries of the loss's gradient in all tensors of one role: what eps of Adam stands beside.
double gradient_rms(const ScaledNetwork& net, const Examples& examples, Role role);

/// All sizes of one kind of network. The same seed draws the same numbers.
using Family = std::function<ScaledNetwork(const NetworkSize& size, const BaseSettings& settings,
                                           const Parameterization& parameterization, uint64_t seed)>;
/// Heads keep the head dimension of the base, which must be given; other settings are those of `like`.
Family transformer_family(const TransformerConfig& like, const NetworkSize& base, const RuleOptions& options = {});
Family residual_mlp_family(int64_t inputs, int64_t classes, const NetworkSize& base, const RuleOptions& options = {});
/// The same networks on a device, which take examples from any.
Family on_device(Family family, at::Device device);

// ---- Training

struct TrainingPlan {
  int64_t steps = 100;
  int64_t tail = 20;             ///< the loss of a training is the mean over so many last steps
  double warmup = 0, floor = 1;  ///< warmup_cosine of tensor/schedule.h; these are a constant rate
  double clip = std::numeric_limits<double>::infinity();  ///< of the gradients' norm
};

/// Trains with AdamW by the network's rules. NaN if it diverges. Calls `each_step` after every step. Stops early, with
/// NaN, after an interrupt (unbend/base/interrupt.h).
double train_scaled(const ScaledNetwork& net, const ExampleSource& source, const TrainingPlan& plan,
                    const std::function<void(double loss)>& each_step = {});

// ---- Coordinate check (Yang et al. 2022, arXiv 2203.03466, appendix D.1)

/// mean |entry| of activations in the first steps, on the first batch.
struct CoordinateCheck {
  std::vector<double> sizes;            ///< depth or width, whichever varies
  std::vector<std::string> quantities;  ///< "stream" (after the last block), "attention", "perceptron" (what the
                                        ///< branches give), "logits"
  at::Tensor size;                      ///< [quantity, size, seed, step 0 .. steps], float64
  at::Tensor change;                    ///< the same of the difference from step 0

  /// Exponents over `sizes` of the means over seeds.
  double size_slope(std::string_view quantity, int64_t step) const;
  double change_slope(std::string_view quantity, int64_t step) const;
};

/// Trains every size for `steps` steps at a constant rate, with seeds 1 .. seeds. `source(seed)` gives a training's
/// batches. Input error for fewer than two sizes, or sizes that differ in both width and depth.
CoordinateCheck coordinate_check(const Family& family, const std::vector<NetworkSize>& sizes,
                                 const BaseSettings& settings, const Parameterization& parameterization,
                                 const std::function<ExampleSource(uint64_t seed)>& source, int64_t steps, int seeds,
                                 bool quiet);

// ---- Transfer of the learning rate

struct TransferSweep {
  std::string parameterization;
  std::vector<NetworkSize> sizes;
  std::vector<double> rates;
  at::Tensor loss;  ///< [size, rate, seed], float64; NaN where training diverged

  std::vector<double> means(std::size_t size) const;  ///< over seeds, per rate; NaN where any diverged
  std::size_t best(std::size_t size) const;           ///< the rate of the least mean; Computation error if all diverged
  /// Loss at `size` with the best rate of `from`, over the least at `size`.
  double transferred(std::size_t size, std::size_t from) const;
};

/// One training per size, rate and seed; settings.lr is replaced. Finished trainings leave their loss in the folder
/// `keep`, unless it is empty, and the next call with the same folder, which must ask for the same, takes them from it.
TransferSweep transfer_sweep(const Family& family, const std::vector<NetworkSize>& sizes,
                             const std::vector<double>& rates, const BaseSettings& settings,
                             const Parameterization& parameterization,
                             const std::function<ExampleSource(uint64_t seed)>& source, const TrainingPlan& plan,
                             int seeds, bool quiet, const std::filesystem::path& keep = {});

// ---- Laziness

/// How far a function moves from its linearization when its arguments move: 2-norms over all outputs.
struct TangentDistance {
  double missed;  ///< |f(w + d) - f(w) - J d|
  double linear;  ///< |J d|
  double change;  ///< |f(w + d) - f(w)|
  double relative() const { return missed / linear; }
};
TangentDistance tangent_distance(const Function& f, const Tensors& at, const Tensors& step);

/// The same for the perceptron of one block: its two matrices and biases make their first Adam step on these examples,
/// and the function is what the branch gives. In float64; the network's tensors become float64.
TangentDistance block_laziness(ScaledNetwork& net, const Examples& examples, int64_t block = 0);

// ---- Text as examples

/// A text whose tokens are its own bytes, numbered by value.
struct CharacterText {
  at::Tensor ids;        ///< [bytes], uint8
  std::string alphabet;  ///< the byte of each id
};
CharacterText character_text(std::string_view text);  ///< Input error for fewer than two different bytes

/// `rows` windows of `length` characters at random places, and the character after each of them.
ExampleSource character_windows(const CharacterText& text, int64_t length, int64_t rows, uint64_t seed);

}  // namespace unbend
