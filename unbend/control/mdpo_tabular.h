// Mirror descent on policies where everything is exact: a finite Markov decision process (Tomar et al., equation for
// the closed form of the update).
#pragma once

#include <cstdint>
#include <vector>

namespace unbend::control {

struct FiniteProcess {
  std::int64_t states = 0, choices = 0;
  double discount = .9;
  std::vector<double> transitions;  ///< [states, choices, states], rows of probabilities
  std::vector<double> rewards;      ///< [states, choices]
};

/// Values of a policy [states, choices] by a direct solve, with entropy weight lambda >= 0:
/// V = sum pi (Q - lambda log pi), Q = r + discount P V. Input error for tables that do not fit, rows that are not
/// probabilities, and a discount outside [0, 1).
struct PolicyValues {
  std::vector<double> v, q;  ///< [states], [states, choices]
};
PolicyValues policy_values(const FiniteProcess& process, const std::vector<double>& policy, double lambda = 0);

/// pi_new ~ pi^(1 - lambda t) exp(t Q): the maximiser of <pi', Q - lambda log pi> - KL(pi' || pi) / t in every state.
/// Input error unless t > 0.
std::vector<double> mirror_descent_step(const FiniteProcess& process, const std::vector<double>& policy, double t,
                                        double lambda = 0);

}  // namespace unbend::control
