// How each tensor of a network of residual blocks starts and learns, so that settings tuned on a small network stay
// near their best on wider and deeper ones (methods/completep.md; Dey et al. 2025, arXiv 2505.01618, Table 1).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/tensor/adamw.h"
#include "unbend/tensor/parameter.h"

namespace unbend {

/// What a tensor does in the network; its rules follow from that.
enum class Role { Embedding, BlockNorm, BlockWeight, BlockBias, FinalNorm, Unembedding };
std::string_view to_string(Role role);  ///< "embedding", "block_norm" and so on
/// Usage error for another name.
Role find_role(std::string_view name);

/// The role of a tensor of so many dimensions by its name, of this project's networks and by the customs of others
/// (GPT-2, Llama, GGUF): a number among the parts of the name is that of a block. Nothing if the name says nothing;
/// mixtures of experts are not covered by the rules.
std::optional<Role> role_of(std::string_view name, int64_t dims);

/// The number of the block that a tensor of this name belongs to; nothing outside of blocks.
std::optional<std::string> block_of(std::string_view name);

/// The size that rules depend on. `depth` counts blocks (transformer layers, not their two branches).
struct NetworkSize {
  int64_t width, depth;
  int64_t head_dim = 0;  ///< 0: no attention, or unknown
};

/// Settings tuned at the base size.
struct BaseSettings {
  double lr = 0x1p-8, weight_decay = .1, eps = 1e-12, init_std = .02;
  double beta1 = .9, beta2 = .95;
  double input_multiplier = 1, logit_multiplier = 1;        ///< tunable factors of embeddings and logits
  std::optional<double> embedding_lr, unembedding_lr = {};  ///< otherwise lr
  bool warmup = true;  ///< whether the schedule has one: only a warning depends on it
};

struct Parameterization {
  std::string name;
  bool width = false;                ///< factors of width (muP)
  std::optional<double> alpha = {};  ///< factors of depth, with this exponent of the residual branches
};
/// "sp": neither. "mup": width (Yang et al. 2022, arXiv 2203.03466). "depth-mup": both, alpha = 1/2 (Bordelon et al.
/// 2023, arXiv 2309.16620). "completep": both, alpha = 1. Usage error for another name.
Parameterization find_parameterization(std::string_view name);
extern const std::vector<std::string> kParameterizations;  ///< these names, in this order

enum class WeightDecay {
  Coupled,      ///< p -= lr * decay * p, as AdamW here and in PyTorch
  Independent,  ///< p -= decay * p: no factor of width
};

/// Paper, or what EleutherAI's nanoGPT-mup (branch completep) does instead: the in-block eps for every tensor; plain
/// muP scales neither weight decay nor eps; logits in generation lack the factor of width.
enum class RuleSource { Paper, NanoGpt };

struct RuleOptions {
  RuleSource source = RuleSource::Paper;
  WeightDecay decay = WeightDecay::Coupled;
  bool tied = false;       ///< the embedding is the unembedding too
  bool post_norm = false;  ///< norms after the residual sums: refused, the rules are of pre-norm blocks
  bool force = false;      ///< allow alpha outside [1/2, 1], and block norms without a final one
  /// The roles of tensors whose name contains this part, before role_of is asked; none: the tensor is left out.
  std::vector<std::pair<std::string, std::optional<Role>>> roles = {};
};

/// Factors in the forward pass.
struct ForwardMultipliers {
  double input = 1;              ///< of the embeddings' sum
  double residual = 1;           ///< of each residual branch: (depth / base depth)^-alpha
  double logits = 1;             ///< after the unembedding: base width / width
  double generation_logits = 1;  ///< the same where text is generated; differs with RuleSource::NanoGpt only
};

struct NamedShape {
  std::string name;
  std::vector<int64_t> sizes;
};
std::vector<NamedShape> shapes(const std::vector<Parameter>& parameters);

struct TensorRule {
  std::string name;
  Role role;
  double init_std;  ///< of independent normal entries; 0: constant, norms' gains 1 and biases 0
  double lr, weight_decay, eps;
};

/// Everything that a parameterization says about a network.
struct ScaledRules {
  Parameterization parameterization;
  NetworkSize size, base;
  BaseSettings settings;
  ForwardMultipliers multipliers;
  std::vector<TensorRule> tensors;    ///< in the order of the network's
  std::vector<std::string> warnings;  ///< what is allowed and rarely meant
};

/// The rules of every tensor. Throws Error (Input) for a tensor without a role (all are named), an alpha outside
/// [1/2, 1], sizes that are not positive, head dimensions that differ (attention would change its meaning), networks
/// with norms after the residual sums, and tied embeddings with two learning rates.
ScaledRules parameterize(const std::vector<NamedShape>& tensors, const NetworkSize& size, const NetworkSize& base,
                         const BaseSettings& settings, const Parameterization& parameterization,
                         const RuleOptions& options = {});

/// Fills the tensors (of any floating type) by their rules, in their order: the same seed gives the same standard
/// normal numbers under every parameterization. `parameters` are those that the rules were made for, here and below.
void initialize(const ScaledRules& rules, const std::vector<Parameter>& parameters, Random& random);

/// Groups for AdamW: tensors with the same settings together, in order of first appearance. All are made to require
/// gradients. A schedule multiplies all groups alike (AdamW::step's lr_factor).
std::vector<ParameterGroup> parameter_groups(const ScaledRules& rules, const std::vector<Parameter>& parameters);

}  // namespace unbend
