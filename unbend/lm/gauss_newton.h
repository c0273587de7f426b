// The Gauss-Newton matrix of a decoder's next-token cross-entropy in its low-rank factors, matrix-free: the curvature
// that the loss has as a function of its logits, seen from the weights (Schraudolph 2002). Of N predicted tokens,
//   G = (1 / N) sum_t J_t^T (diag(p_t) - p_t p_t^T) J_t,  J_t = d logits_t / d factors,
// which is also the Fisher matrix of the model's own distribution. Symmetric and positive semidefinite whatever the
// weights are; the Hessian itself is G plus a term that vanishes with the residual.
#pragma once

#include <string>
#include <vector>

#include "unbend/calculus/linear_map.h"
#include "unbend/lm/decoder.h"
#include "unbend/lm/distill.h"

namespace unbend::lm {

/// The factors that count as variables. A Lora is scale * B A: where B = 0, as training starts, the derivative in A is
/// zero and G is singular along all of A. So there one looks at B alone, or at a point where B is not zero.
enum class LoraFactors {
  B,     ///< [out, rank] of each Lora: what the first steps of training move
  Both,  ///< A and B: needs a point where B is not zero, else Input error
};

struct GaussNewton {
  LinearMap map;                   ///< G, psd, on the space of the factors in the order of `names`
  std::vector<std::string> names;  ///< "layers.0.q.lora_b", ..., one per leaf
  double loss;                     ///< mean cross-entropy in nats
  std::int64_t tokens;             ///< N
};

/// At the factors that the decoder has, over the positions of `batch` whose target is not -1. The decoder runs once;
/// each product then costs a push and a pull of it, and two products with its head. Memory: the recorded passes (see
/// linearize.h) and N x vocabulary probabilities. Input error for a decoder without Lora, in a narrower type than
/// float32, and for a batch without targets.
GaussNewton gauss_newton(const Decoder& decoder, const Batch& batch, LoraFactors factors = LoraFactors::B);

/// The decoder with fresh factors in every part of these names: A Kaiming-uniform, B normal with deviation `b_scale`
/// over sqrt(rank), 0 being the start of training. The given decoder's weights are shared, its own Lora replaced.
Decoder with_lora(const Decoder& decoder, const std::vector<std::string>& targets, std::int64_t rank, double alpha,
                  double b_scale, Random& random);

}  // namespace unbend::lm
