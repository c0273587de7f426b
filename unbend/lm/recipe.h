// Recipes: published (and our own) ways from a softmax decoder to one whose layers mix in linear time, as data.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/lm/decoder.h"

namespace unbend::lm {

/// One stage of training a student, as plain values; see distill.h for what is done with them.
struct Stage {
  enum class Kind {
    Transfer,  ///< per layer: mean squared error of the mixer's heads (see `projections`) to the teacher's, on the
               ///< teacher's inputs; no head, no other layer
    EndToEnd,  ///< next-token cross-entropy and/or divergence from the teacher's next-token distribution
  };
  enum class Schedule { Cosine, Plateau };
  Kind kind = Kind::EndToEnd;
  std::string name;             ///< "transfer", "lora"
  std::int64_t tokens = 0;      ///< default budget
  std::int64_t steps = 0;       ///< if above 0: the budget in optimiser steps, whatever their size, instead of tokens
  double learning_rate = 1e-3;  ///< of Lora factors (and of all weights where they are trained)
  double mixer_learning_rate = 1e-2;
  double beta1 = .9, beta2 = .95;
  double weight_decay = 0;  ///< of tensors with two or more dimensions; norms, biases and scalars have none
  Schedule schedule = Schedule::Cosine;  ///< Plateau: a tenth after ten validations without gain, to 1e-5 at least
  double warmup = .1, floor = .1;        ///< fractions of the stage, of the peak rate
  double clip = 1;                       ///< global gradient norm; 0 = none
  double mse_scale = 1000;               ///< Transfer
  double kl = 0, cross_entropy = 1;      ///< EndToEnd: weights of KL(teacher || student) and of the next-token loss
  std::int64_t top_k = 64;               ///< teacher probabilities kept per token; the rest is one bucket
  /// EndToEnd: the decoder's own weights that train too, by the endings of their names in weights() ("" for all).
  /// If its head is among them, kl must be 0.
  std::vector<std::string> also;
  /// Transfer: parts of the layer's projections ("q", "k", "v", "o") that train too, at learning_rate. The student then
  /// projects the teacher's inputs itself, and the loss is on what the output projection makes of the heads.
  std::vector<std::string> projections;
  double z_loss = 0;  ///< weight of (log of the sum of exp(logit))^2, where the head trains
};

/// A recipe: mixers for the converted layers, and how to train them. Options are JSON with a default for each.
struct Recipe {
  std::string name, title, source;
  Json defaults;
  /// Mixer of `layer`. Checks the values of `options` against the model; Input error that names the option.
  std::function<std::unique_ptr<Mixer>(const DecoderConfig& config, const Json& options, std::int64_t layer,
                                       Random& random)>
      mixer;
  /// If there is one: changes weights of a layer that is converted; they are then the student's own.
  std::function<void(Layer& layer, const Json& options, Random& random)> weights;
  std::function<std::vector<Stage>(const Json& options)> stages;
  std::map<std::string, Json> presets;  ///< other defaults under each value of an option `preset`
};

const std::vector<Recipe>& recipes();

/// Usage error that lists the recipes if there is none of that name.
const Recipe& find_recipe(std::string_view name);

/// The defaults (those of the preset that `changes` name) overridden by `changes`; Usage error for an unknown option or
/// preset, or a value of another type.
Json recipe_options(const Recipe& recipe, const Json& changes);

/// Options that every recipe has: window w, sinks, LoRA rank, alpha and targets, and which layers stay softmax, as in
/// the papers' layer-wise hybrids: `keep_every` (n > 0: every n-th one) or `softmax_layers` (their numbers, from 0).
Json common_options(std::int64_t window, std::int64_t sinks);

/// Which of `layers` layers those options leave softmax. Input error for numbers that are no layer's, for both options
/// at once, and for a list of all layers.
std::vector<bool> softmax_layers(const Json& options, std::int64_t layers);

/// A model that came out of a recipe, with what is needed to store it as a delta.
struct Student {
  Decoder decoder;
  std::string recipe;
  Json options;
  std::vector<std::string> own;  ///< weights of the decoder (names of weights()) that are no longer the teacher's
};

/// Swaps the mixers of the converted layers and adds Lora factors (zero at the start). The teacher's weights are
/// shared, its mixers untouched.
Student convert(const Decoder& teacher, const Recipe& recipe, const Json& options, std::uint64_t seed);

/// The same weights under other options of the mixers (say, with one branch switched off). Input error if these options
/// give a mixer other parameters.
Student with_options(const Student& student, const Json& changes);

}  // namespace unbend::lm
