#include "unbend/nets/parameterization.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <limits>
#include <set>

#include "unbend/base/error.h"
#include "unbend/nets/layers.h"

namespace unbend {
namespace {

constexpr std::array<std::string_view, 6> kRoleNames{"embedding",  "block_norm", "block_weight",
                                                     "block_bias", "final_norm", "unembedding"};

std::vector<std::string> parts(std::string_view name) {
  std::vector<std::string> all(1);
  for (const char c : name) {
    if (c == '.' || c == '/') {
      all.emplace_back();
    } else {
      all.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return all;
}

bool is_number(const std::string& part) {
  return !part.empty() && std::ranges::all_of(part, [](unsigned char c) { return std::isdigit(c); });
}

bool contains_any(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::ranges::any_of(words, [&](std::string_view w) { return text.find(w) != text.npos; });
}

/// layer_norm, RMSNorm's "norm", "ln_1", "ln1", "ln_f".
bool is_norm(const std::string& part) {
  return contains_any(part, {"norm"}) || part == "ln" || (part.starts_with("ln") && part.size() <= 4);
}

/// Where the number of the block stands, after "blocks", "layers", "blk" or "h"; the end if there is none.
std::vector<std::string>::const_iterator block_part(const std::vector<std::string>& all) {
  for (auto part = all.begin() + 1; part != all.end(); ++part) {
    const auto& before = *(part - 1);
    if (is_number(*part) && (contains_any(before, {"block", "blk", "layer"}) || before == "h")) return part;
  }
  return all.end();
}

/// The names of BERT and DistilBERT, whose norms come after the residual sums.
bool is_post_norm(const std::vector<std::string>& all) {
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    if (all[i] == "output" && all[i + 1] == "layernorm") return true;
    if (all[i] == "sa_layer_norm" || all[i] == "output_layer_norm") return true;
  }
  return false;
}

std::optional<Role> role_in(const NamedShape& tensor, const RuleOptions& options, bool& skip) {
  for (const auto& [part, role] : options.roles) {
    if (tensor.name.find(part) == std::string::npos) continue;
    skip = !role.has_value();
    return role;
  }
  return role_of(tensor.name, static_cast<int64_t>(tensor.sizes.size()));
}

/// The factors of Table 1.
struct Factors {
  double width, depth;      ///< m_N and m_L, or 1 where the parameterization does not know them
  double block_lr = 1;      ///< m_L^(alpha - 1)
  double block_eps = 1;     ///< m_N^-1 m_L^-alpha
  double outer_eps = 1;     ///< m_N^-1
  double hidden_decay = 1;  ///< m_N
  double residual = 1, logits = 1;
};

Factors factors(const NetworkSize& size, const NetworkSize& base, const Parameterization& p, const RuleOptions& o) {
  const auto ratio = [](int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(b); };
  Factors f{p.width ? ratio(size.width, base.width) : 1, p.alpha ? ratio(size.depth, base.depth) : 1};
  if (p.alpha) f.residual = std::pow(f.depth, -*p.alpha), f.block_lr = std::pow(f.depth, *p.alpha - 1);
  f.logits = 1 / f.width;
  f.hidden_decay = o.decay == WeightDecay::Coupled ? f.width : 1;
  f.outer_eps = 1 / f.width, f.block_eps = f.residual / f.width;
  if (o.source == RuleSource::NanoGpt) {
    if (!p.alpha) f.hidden_decay = 1, f.block_eps = 1;
    f.outer_eps = f.block_eps;
  }
  return f;
}

TensorRule rule(const NamedShape& tensor, Role role, const BaseSettings& s, const Factors& f) {
  const bool matrix = tensor.sizes.size() >= 2;
  const double std = matrix ? s.init_std : 0, decay = matrix ? s.weight_decay : 0;
  const double inner = s.eps * f.block_eps, outer = s.eps * f.outer_eps;
  switch (role) {
    case Role::Embedding: return {tensor.name, role, std, s.embedding_lr.value_or(s.lr), decay, outer};
    case Role::Unembedding: return {tensor.name, role, std, s.unembedding_lr.value_or(s.lr), decay, outer};
    case Role::FinalNorm: return {tensor.name, role, 0, s.lr, 0, outer};
    case Role::BlockNorm:
    case Role::BlockBias: return {tensor.name, role, 0, s.lr * f.block_lr, 0, inner};
    case Role::BlockWeight: break;
  }
  return {
      tensor.name, role, s.init_std / std::sqrt(f.width), s.lr / f.width * f.block_lr, s.weight_decay * f.hidden_decay,
      inner};
}

void check_sizes(const NetworkSize& size, const NetworkSize& base) {
  require(size.width > 0 && size.depth > 0 && base.width > 0 && base.depth > 0,
          "parameterize: a network of width {} and depth {} from a base of width {} and depth {}: all must be above 0",
          size.width, size.depth, base.width, base.depth);
  for (const auto& s : {size, base})
    require(s.head_dim == 0 || (s.head_dim > 0 && s.width % s.head_dim == 0),
            "parameterize: heads of {} do not divide a width of {}", s.head_dim, s.width);
  require(
      size.head_dim == base.head_dim || size.head_dim == 0 || base.head_dim == 0,
      "parameterize: heads of {} where the base has {}: the scale of attention would change its meaning; more width "
      "is more heads of the same size",
      size.head_dim, base.head_dim);
}

void check_settings(const BaseSettings& s, const Parameterization& p, const RuleOptions& o) {
  const auto good = [](double x) { return std::isfinite(x) && x > 0; };
  require(good(s.lr) && good(s.init_std) && std::isfinite(s.eps) && s.eps >= 0 && std::isfinite(s.weight_decay) &&
              s.weight_decay >= 0 && good(s.embedding_lr.value_or(s.lr)) && good(s.unembedding_lr.value_or(s.lr)),
          "parameterize: learning rates ({}) and the deviation at the start ({}) must be above 0, eps ({}) and weight "
          "decay ({}) not below",
          s.lr, s.init_std, s.eps, s.weight_decay);
  if (p.alpha)
    require(
        std::isfinite(*p.alpha) && (o.force || (*p.alpha >= .5 && *p.alpha <= 1)),
        "parameterize: alpha {} is outside of [1/2, 1]: below, the residual stream grows with depth; above, blocks do "
        "not learn enough (it can be forced)",
        *p.alpha);
  require(!o.tied || s.embedding_lr.value_or(s.lr) == s.unembedding_lr.value_or(s.lr),
          "parameterize: one tensor is embedding and unembedding, it cannot have the two learning rates {} and {}",
          s.embedding_lr.value_or(s.lr), s.unembedding_lr.value_or(s.lr));
}

std::vector<std::string> warnings(const ScaledRules& r, int64_t blocks) {
  std::vector<std::string> all;
  double least = std::numeric_limits<double>::infinity();
  for (const auto& t : r.tensors) least = std::min(least, t.eps);
  if (least > 0 && least < 1e-30)
    all.push_back(fmt::format("eps becomes {:.3g}: below 1e-30 squares of such gradients vanish in float32", least));
  if (blocks > 0 && r.size.depth == 2 * blocks) {
    all.push_back(
        fmt::format("depth {} is twice the {} blocks found: count blocks, not their branches", r.size.depth, blocks));
  } else if (blocks > 0 && r.size.depth != blocks) {
    all.push_back(fmt::format("depth {} where the names have {} blocks", r.size.depth, blocks));
  }
  if (r.settings.lr > 0x1p-6 && !r.settings.warmup)
    all.push_back(fmt::format("a learning rate of {:.3g} without warm-up", r.settings.lr));
  if (r.parameterization.alpha && r.size.depth < r.base.depth)
    all.push_back(fmt::format("depth {} is below the base's {}", r.size.depth, r.base.depth));
  return all;
}

void check_same(const ScaledRules& rules, const std::vector<Parameter>& parameters) {
  std::size_t i = 0;
  for (const auto& p : parameters) {
    if (i < rules.tensors.size() && rules.tensors[i].name == p.name) ++i;
  }
  require(i == rules.tensors.size(), "parameterization: the rule of tensor {} finds no such tensor in its place",
          i < rules.tensors.size() ? rules.tensors[i].name : "");
}

/// Calls work(rule, parameter) for the parameters that have a rule.
template <class Work>
void for_each_rule(const ScaledRules& rules, const std::vector<Parameter>& parameters, const Work& work) {
  check_same(rules, parameters);
  std::size_t i = 0;
  for (const auto& p : parameters) {
    if (i < rules.tensors.size() && rules.tensors[i].name == p.name) work(rules.tensors[i++], p);
  }
}

}  // namespace

const std::vector<std::string> kParameterizations{"sp", "mup", "depth-mup", "completep"};

std::string_view to_string(Role role) { return kRoleNames[static_cast<std::size_t>(role)]; }

Role find_role(std::string_view name) {
  const auto found = std::ranges::find(kRoleNames, name);
  if (found == kRoleNames.end()) fail_usage("no role '{}': use {}", name, fmt::join(kRoleNames, ", "));
  return static_cast<Role>(found - kRoleNames.begin());
}

Parameterization find_parameterization(std::string_view name) {
  if (name == "sp") return {"sp"};
  if (name == "mup") return {"mup", true};
  if (name == "depth-mup") return {"depth-mup", true, .5};
  if (name == "completep") return {"completep", true, 1};
  fail_usage("no parameterization '{}': use {}", name, fmt::join(kParameterizations, ", "));
}

std::optional<Role> role_of(std::string_view name, int64_t dims) {
  const auto all = parts(name);
  const auto block = block_part(all);
  const bool norm = std::any_of(block == all.end() ? all.begin() : block, all.end(), is_norm);
  if (block != all.end()) {
    if (contains_any(name, {"experts"})) return std::nullopt;
    if (norm) return dims == 1 ? std::optional(Role::BlockNorm) : std::nullopt;
    if (all.back().ends_with("bias")) return dims == 1 ? std::optional(Role::BlockBias) : std::nullopt;
    return dims == 2 ? std::optional(Role::BlockWeight) : std::nullopt;
  }
  std::string lower;
  for (const auto& part : all) lower += (lower.empty() ? "" : ".") + part;
  const bool embeds = contains_any(lower, {"embed", "embd", "_emb", "wte", "wpe", "position", "readin"});
  if (norm) return dims == 1 && !embeds ? std::optional(Role::FinalNorm) : std::nullopt;
  if (dims != 1 && dims != 2) return std::nullopt;
  if (contains_any(lower, {"unembed", "lm_head", "embed_out", "readout"}) || all.front() == "output" ||
      std::ranges::count(all, "head") > 0)
    return Role::Unembedding;
  return embeds ? std::optional(Role::Embedding) : std::nullopt;
}

std::optional<std::string> block_of(std::string_view name) {
  const auto all = parts(name);
  const auto block = block_part(all);
  return block == all.end() ? std::nullopt : std::optional(*block);
}

std::vector<NamedShape> shapes(const std::vector<Parameter>& parameters) {
  std::vector<NamedShape> all;
  for (const auto& p : parameters) all.push_back({p.name, p.tensor->sizes().vec()});
  return all;
}

ScaledRules parameterize(const std::vector<NamedShape>& tensors, const NetworkSize& size, const NetworkSize& base,
                         const BaseSettings& settings, const Parameterization& parameterization,
                         const RuleOptions& options) {
  require(!tensors.empty(), "parameterize: a network without tensors");
  check_sizes(size, base);
  const Factors f = factors(size, base, parameterization, options);
  ScaledRules rules{parameterization, size, base, settings, {}, {}, {}};
  std::vector<std::string> unknown;
  std::set<std::string> blocks;
  std::set<Role> roles;
  bool post_norm = options.post_norm;
  for (const auto& tensor : tensors) {
    bool skip = false;
    const auto role = role_in(tensor, options, skip);
    if (const auto block = block_of(tensor.name); block && !skip) blocks.insert(*block);
    post_norm = post_norm || is_post_norm(parts(tensor.name));
    if (role) {
      rules.tensors.push_back(rule(tensor, *role, settings, f));
      roles.insert(*role);
    } else if (!skip) {
      unknown.push_back(tensor.name);
    }
  }
  check_settings(settings, parameterization, options);
  require(!post_norm, "parameterize: norms after the residual sums: the rules are of networks with norms before them");
  require(options.force || !roles.contains(Role::BlockNorm) || roles.contains(Role::FinalNorm),
          "parameterize: norms in the blocks and none after the last one: where norms come before the branches, a last "
          "one follows the stream (it can be forced)");
  const auto named = static_cast<std::ptrdiff_t>(std::min<std::size_t>(unknown.size(), 5));
  require(unknown.empty(), "parameterize: {} tensors have no role: {}{}", unknown.size(),
          fmt::join(unknown.begin(), unknown.begin() + named, ", "), unknown.size() > 5 ? ", ..." : "");
  rules.multipliers = {settings.input_multiplier, f.residual, settings.logit_multiplier * f.logits,
                       settings.logit_multiplier * (options.source == RuleSource::NanoGpt ? 1 : f.logits)};
  rules.warnings = warnings(rules, std::ssize(blocks));
  return rules;
}

void initialize(const ScaledRules& rules, const std::vector<Parameter>& parameters, Random& random) {
  const at::NoGradGuard no_grad;
  for_each_rule(rules, parameters, [&](const TensorRule& rule, const Parameter& p) {
    const bool norm = rule.role == Role::BlockNorm || rule.role == Role::FinalNorm;
    if (rule.init_std > 0) {
      p.tensor->copy_(normal_tensor(p.tensor->sizes(), rule.init_std, random));
    } else {
      p.tensor->fill_(norm && !p.name.ends_with("bias") ? 1 : 0);
    }
  });
}

std::vector<ParameterGroup> parameter_groups(const ScaledRules& rules, const std::vector<Parameter>& parameters) {
  std::vector<ParameterGroup> groups;
  for_each_rule(rules, parameters, [&](const TensorRule& rule, const Parameter& p) {
    auto group = std::ranges::find_if(groups, [&](const ParameterGroup& g) {
      return g.lr == rule.lr && g.weight_decay == rule.weight_decay && g.eps == rule.eps;
    });
    if (group == groups.end())
      group =
          groups.insert(group, {{}, rule.lr, rule.weight_decay, rules.settings.beta1, rules.settings.beta2, rule.eps});
    group->parameters.push_back(p.tensor->requires_grad_());
  });
  return groups;
}

}  // namespace unbend
