// The scalar b of an update theta <- theta - b a of generalised implicit FTRL (Chen and Orabona 2023, arXiv
// 2306.00201). For a loss phi(<a, x>) every z with a finite conjugate is b a, so that one number per row decides.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/optimize/loss.h"
#include "unbend/optimize/regularizer.h"

namespace unbend::optimize {

enum class Update {
  Linear,    ///< b = c, the slope at the prediction: FTRL on tangents
  Proximal,  ///< the least H: the whole loss is kept
  AProx,     ///< the least H of max(tangent, lower bound of the loss)
  TwoStep,   ///< the slope at the point that the linear step leads to (Mirror-Prox); linear where H does not fall
  User       ///< any b; linear where H does not fall
};

std::vector<std::string> update_names();  ///< linear, proximal, aprox, two-step
Update update_named(std::string_view name);

/// What a user's update knows: the prediction s and loss there, slope c, the ray, whose margin(b) is the prediction
/// after b, the label and the importance weight (which multiplies loss and slope).
struct Situation {
  double s, value, slope, label, weight;
  const Ray& ray;
};
using UserUpdate = std::function<double(const Situation&)>;

struct Step {
  double b;
  double conjugate;        ///< l*(b a), or an upper bound of it
  double gain;             ///< delta = H(c a) - H(b a) >= 0: what the regret bound gains over linear FTRL
  bool fell_back = false;  ///< H would not have fallen: the step is linear
};

/// One step. `situation.value` and `slope` belong to the loss times the weight.
Step implicit_step(const Loss& loss, Update update, const UserUpdate& user, const Situation& situation);

}  // namespace unbend::optimize
