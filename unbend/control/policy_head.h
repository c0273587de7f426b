// Distributions over actions, given by the outputs of a network: what mirror descent needs of them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "unbend/base/random.h"
#include "unbend/control/policy_matrix.h"

namespace unbend::control {

/// Categorical: outputs are logits. Gaussian: outputs are means, with standard deviations of their own. Squashed: the
/// tanh of a Gaussian, so that actions lie in [-1, 1].
enum class PolicyKind { Categorical, Gaussian, Squashed };

/// log_q x with q = 2 - kappa: (x^(kappa - 1) - 1) / (kappa - 1); the natural logarithm at kappa = 1.
double tsallis_log(double x, double kappa);

// ---- On-policy: the surrogate Psi

/// A batch of distributions with state-independent logarithms of standard deviations (Gaussian kinds only).
template <class T>
struct Head {
  PolicyKind kind;
  const Matrix<T>* outputs;  ///< [n, choices] logits or [n, dimensions] means
  const T* log_std;          ///< [dimensions]; null for Categorical
};

/// Mdpo: the ratio's term minus KL(new || old) / step_size. NoKl: without it. Ppo: the clipped ratio instead.
enum class Objective { Mdpo, NoKl, Ppo };

struct SurrogateOptions {
  Objective objective = Objective::Mdpo;
  double step_size = 1;  ///< t_k > 0
  double clip = .2;      ///< of PPO's ratio
  double entropy = 0;    ///< weight of an entropy bonus >= 0
  double kappa = 1;      ///< in [1, 2]; above 1 the divergence is that of Tsallis' entropy in place of KL
};

struct SurrogateValue {
  double value = 0, divergence = 0, entropy = 0;
  std::int64_t clamped = 0;  ///< ratios whose logarithm was cut to [-20, 20]
};

/// Psi(theta) = mean of ratio * advantage - divergence / step_size (equation of the policy update in Tomar et al.),
/// with the divergence in closed form over all states, and the gradient of -Psi with respect to outputs [n, ...] and
/// log_std. `actions` [n, dimensions]; for Categorical [n, 1], the index. With kappa > 1 the divergence is the Bregman
/// divergence of sum x log_q x, per dimension for densities; kappa -> 1 gives KL. For Squashed, actions are those
/// before the tanh, which changes neither ratios nor divergences.
template <class T>
SurrogateValue surrogate(const Head<T>& now, const Head<T>& old, const Matrix<T>& actions, const T* advantages,
                         const SurrogateOptions& options, Matrix<T>& gradient,
                         std::type_identity_t<T>* log_std_gradient);

/// Draws an action: the index, or [dimensions] numbers before any squashing.
template <class T>
void sample(PolicyKind kind, const T* outputs, const T* log_std, std::int64_t columns, Random& random, T* action);
template <class T>
void most_likely(PolicyKind kind, const T* outputs, std::int64_t columns, T* action);

// ---- Off-policy: reparameterised actions of a squashed Gaussian, exact sums over choices

struct OffPolicyWeights {
  double c = 1;           ///< 1/t_k, weight of the divergence to the old policy
  double lambda = .2;     ///< weight of the entropy
  double kappa = 1;       ///< as above
  double penalty = 1e-3;  ///< on the mean squares of means and of log standard deviations
};

/// Logarithms of standard deviations that a network gives are cut to [-20, 2].
inline constexpr double kLeastLogStd = -20, kMostLogStd = 2;
template <class T>
T cut_log_std(T log_std) {
  return std::clamp(log_std, T(kLeastLogStd), T(kMostLogStd));
}

/// Actions a = tanh(u), u = mean + exp(log_std) noise, from outputs [n, 2 d] = means, log_std (cut).
template <class T>
struct SquashedSample {
  Matrix<T> u, action;  ///< [n, d]
  Numbers<T> log_prob;  ///< [n] log density of a, or the sum of its log_q over dimensions
  Matrix<T> log_each;   ///< [n, d] log density per dimension
};
template <class T>
void squash(const Matrix<T>& outputs, const Matrix<T>& noise, double kappa, SquashedSample<T>& sample);

/// Mean over n of KL(new || old) of the Gaussians before the tanh; the tanh does not change it. Both [n, 2 d].
double squashed_divergence(const Matrix<float>& now, const Matrix<float>& old);

/// mean over n of c log pi(a) + (lambda - c) log pi_old(a) - Q(a) + penalties, and its gradient with respect to
/// `outputs`. pi_old is evaluated at the same u. `old` null leaves its term out (SAC: c is lambda then). `q` [n] and
/// `q_slope` [n, d] are the critic at the actions and its gradient there.
template <class T>
double squashed_loss(const Matrix<T>& outputs, const Matrix<T>& noise, const SquashedSample<T>& sample,
                     const Matrix<T>* old, const T* q, const Matrix<T>& q_slope, const OffPolicyWeights& weights,
                     Matrix<T>& gradient);

/// The same for a categorical policy: the sum over actions of pi (c log pi + (lambda - c) log pi_old - Q), exactly.
/// `q` [n, choices].
template <class T>
double categorical_loss(const Matrix<T>& logits, const Matrix<T>* old, const Matrix<T>& q,
                        const OffPolicyWeights& weights, Matrix<T>& gradient);

/// Of a row of logits: probabilities and their logarithms.
template <class T>
void log_softmax(const T* logits, std::int64_t choices, T* log_p, T* p);

}  // namespace unbend::control
