// net parameterize, net coordcheck, net transfer: settings that transfer over width and depth (CompleteP), and checks
// that they do.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <set>

#include "cli/device.h"
#include "cli/net.h"
#include "cli/verbs.h"
#include "studies/bytes.h"
#include "studies/parameterization.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/safetensors_header.h"
#include "unbend/engine/gguf.h"
#include "unbend/lm/text.h"

namespace unbend {
namespace {

// ---- parameterize

struct RuleArguments {
  std::string file, name = "completep", decay = "coupled", compat, out;
  std::optional<double> alpha;
  NetworkSize size{0, 0}, base{256, 2};
  BaseSettings settings;
  RuleOptions options;
  std::vector<std::string> roles, skip;
  bool no_warmup = false, tensors = false, json = false;
};

/// Names and shapes of a network's file, GGUF or safetensors.
std::vector<NamedShape> tensors_of(const std::filesystem::path& file) {
  std::vector<NamedShape> all;
  if (file.extension() == ".gguf") {
    const auto gguf = engine::Gguf::open(file);
    for (const auto& t : gguf.tensors()) all.push_back({t.name, t.shape});
    return all;
  }
  const MappedFile map(file);
  for (const auto& t : parse_safetensors_header(map.bytes(), file.string()).tensors) all.push_back({t.name, t.shape});
  return all;
}

/// Tensors of this project's transformer; rules depend on names and dimensions only, so its width does not matter here.
std::vector<NamedShape> own_tensors(int64_t depth, bool tied) {
  auto net = make_transformer({.vocabulary = 1, .context = 1, .width = 1, .depth = depth, .heads = 1, .tied = tied});
  return shapes(parameters(net));
}

/// What a file says of its size: the final norm's length, and as many blocks as the names number.
NetworkSize size_of(const std::vector<NamedShape>& tensors) {
  NetworkSize size{0, 0};
  std::set<std::string> blocks;
  for (const auto& t : tensors) {
    const auto role = role_of(t.name, std::ssize(t.sizes));
    if (role == Role::FinalNorm) size.width = t.sizes[0];
    if (const auto block = block_of(t.name)) blocks.insert(*block);
  }
  size.depth = std::ssize(blocks);
  return size;
}

// Of this project's transformer, where the user's words for roles mean nothing.
LinePlot over_depth(const RuleArguments& a, const Parameterization& chosen, const std::string& title,
                    const std::string& value, const std::function<double(const ScaledRules&)>& of) {
  auto options = a.options;
  options.roles.clear();
  LinePlot plot{title, {"depth", Scale::Log2}, {value, Scale::Log10}, {}};
  for (const auto& name : kParameterizations) {
    Series series{name, {}, {}};
    for (int64_t depth = a.base.depth; depth <= 64 * a.base.depth; depth *= 2) {
      const auto rules = parameterize(own_tensors(1, false), {a.size.width, depth}, a.base, a.settings,
                                      name == chosen.name ? chosen : find_parameterization(name), options);
      series.x.push_back(static_cast<double>(depth)), series.y.push_back(of(rules));
    }
    plot.series.push_back(series);
  }
  return plot;
}

void write_rules_report(const RuleArguments& a, const ScaledRules& rules, const std::string& title) {
  HtmlReport report("Parameterization: " + rules.parameterization.name, title);
  auto roles = role_table(rules), tensors = tensor_table(rules);
  report.heading("Roles").table(roles).heading("Over depth");
  const auto& p = rules.parameterization;
  report.plot(over_depth(
      a, p, fmt::format("Learning rate of hidden weights at width {}", a.size.width), "learning rate",
      [](const ScaledRules& r) { return std::ranges::find(r.tensors, Role::BlockWeight, &TensorRule::role)->lr; }));
  report.plot(over_depth(a, p, "Multiplier of each residual branch", "multiplier",
                         [](const ScaledRules& r) { return r.multipliers.residual; }));
  report.heading("Tensors").table(tensors);
  if (!rules.warnings.empty()) report.heading("Warnings").list(rules.warnings);
  report.write(a.out);
}

void print_rules(RuleArguments a) {
  check_output(a.out);
  auto p = find_parameterization(a.name);
  if (a.alpha) {
    if (!p.alpha) fail_usage("--alpha is the exponent of depth, which {} does not have", a.name);
    p.alpha = a.alpha;
  }
  a.options.decay = a.decay == "independent" ? WeightDecay::Independent : WeightDecay::Coupled;
  a.options.source = a.compat == "nanogpt" ? RuleSource::NanoGpt : RuleSource::Paper;
  a.settings.warmup = !a.no_warmup;
  for (const auto& pair : a.roles) {
    const auto equals = pair.find('=');
    if (equals == pair.npos) fail_usage("--role {}: expected PART=ROLE", pair);
    a.options.roles.emplace_back(pair.substr(0, equals), find_role(pair.substr(equals + 1)));
  }
  for (const auto& part : a.skip) a.options.roles.emplace_back(part, std::nullopt);
  const auto from_file = a.file.empty() ? std::vector<NamedShape>() : tensors_of(a.file);
  const auto found = size_of(from_file);
  if (a.size.width == 0) a.size.width = found.width > 0 ? found.width : a.base.width;
  if (a.size.depth == 0) a.size.depth = found.depth > 0 ? found.depth : a.base.depth;
  if (a.size.depth > 100'000) fail_usage("--depth {}: at most 100000", a.size.depth);
  const auto rules = parameterize(a.file.empty() ? own_tensors(a.size.depth, a.options.tied) : from_file, a.size,
                                  a.base, a.settings, p, a.options);
  const auto title =
      fmt::format("width {} and depth {} from {} and {}", a.size.width, a.size.depth, a.base.width, a.base.depth);
  if (!a.out.empty()) write_rules_report(a, rules, title);
  if (a.json) return print_json(rules_json(rules));
  const auto& m = rules.multipliers;
  fmt::print("{}: {}\n\n{}\n", p.name, title, to_text(a.tensors ? tensor_table(rules) : role_table(rules)));
  fmt::print(
      "in the forward pass: residual branches times {:.4g}, logits times {:.4g}{}, scores of attention over "
      "d_head, not its root\n",
      m.residual, m.logits,
      m.generation_logits == m.logits ? "" : fmt::format(" ({:.4g} in generation)", m.generation_logits));
  for (const auto& w : rules.warnings) fmt::print("warning: {}\n", w);
}

void add_parameterize(CLI::App& net) {
  auto* verb = net.add_subcommand("parameterize", "what each tensor of a wider or deeper network needs");
  auto a = std::make_shared<RuleArguments>();
  verb->add_option("file", a->file,
                   "your network (.safetensors, .gguf): its tensors; otherwise this project's transformer");
  verb->add_option("--parameterization", a->name, "completep, depth-mup, mup, or sp")
      ->check(CLI::IsMember(kParameterizations))
      ->capture_default_str();
  verb->add_option("--alpha", a->alpha, "exponent of depth instead of the named one's, 0.5 to 1");
  verb->add_option("--width", a->size.width, "of the residual stream (default: the file's)");
  verb->add_option("--depth", a->size.depth, "blocks, not branches (default: the file's)");
  verb->add_option("--head-dim", a->size.head_dim, "of the network; 0: not checked")->capture_default_str();
  verb->add_option("--base-width", a->base.width, "where the settings were tuned")->capture_default_str();
  verb->add_option("--base-depth", a->base.depth)->capture_default_str();
  verb->add_option("--base-head-dim", a->base.head_dim)->capture_default_str();
  verb->add_option("--learning-rate", a->settings.lr, "tuned at the base, like the next three")->capture_default_str();
  verb->add_option("--weight-decay", a->settings.weight_decay)->capture_default_str();
  verb->add_option("--eps", a->settings.eps, "of AdamW")->capture_default_str();
  verb->add_option("--init-std", a->settings.init_std, "deviation of weights at the start")->capture_default_str();
  verb->add_option("--embedding-learning-rate", a->settings.embedding_lr, "if tuned apart");
  verb->add_option("--unembedding-learning-rate", a->settings.unembedding_lr, "if tuned apart");
  verb->add_option("--decay", a->decay, "coupled: the optimiser multiplies decay by the rate (AdamW); or independent")
      ->check(CLI::IsMember({"coupled", "independent"}))
      ->capture_default_str();
  verb->add_option("--compat", a->compat, "nanogpt: as EleutherAI's nanoGPT-mup does, where it differs from the paper")
      ->check(CLI::IsMember({"nanogpt"}));
  verb->add_option("--role", a->roles,
                   "PART=ROLE for tensors whose name contains PART; roles: embedding, block_norm, "
                   "block_weight, block_bias, final_norm, unembedding")
      ->delimiter(',');
  verb->add_option("--skip", a->skip, "leave out tensors whose name contains this")->delimiter(',');
  verb->add_flag("--tied", a->options.tied, "the embedding is the unembedding");
  verb->add_flag("--post-norm", a->options.post_norm, "norms come after the residual sums (refused)");
  verb->add_flag("--no-warmup", a->no_warmup, "the schedule starts at the full rate");
  verb->add_flag("--force", a->options.force, "allow any alpha, and no final norm");
  verb->add_flag("--tensors", a->tensors, "a row per tensor");
  verb->add_option("--report", a->out, "HTML report to write");
  verb->add_flag("--json", a->json, "print JSON: a training script can read its groups from it");
  verb->footer(
      "Examples:\n  unbend net parameterize --width 1024 --depth 32\n"
      "  unbend net parameterize model.safetensors --base-width 256 --base-depth 4 --learning-rate 0.01 --json\n"
      "  unbend net parameterize model.gguf --parameterization mup --tensors --report rules.html");
  verb->callback([a] { print_rules(*a); });
}

// ---- What coordcheck and transfer share: small transformers on text

struct TextNetArguments {
  std::vector<std::filesystem::path> text;
  std::vector<std::string> names;
  std::string axis = "depth", out, device = "cpu";
  std::vector<int64_t> sizes;
  NetworkSize base{64, 2, 32};
  int64_t context = 64, rows = 8, steps = 10;
  int seeds = 1, threads = 0;
  BaseSettings settings;
  bool tied = false, quiet = false, json = false;

  void add_to(CLI::App& verb) {
    verb.add_option("text", text,
                    "texts and folders to train on (default: the King James Bible of Debian's bible-kjv)");
    verb.add_option("--parameterization", names, "one or more of sp, mup, depth-mup, completep")
        ->delimiter(',')
        ->check(CLI::IsMember(kParameterizations))
        ->capture_default_str();
    verb.add_option("--axis", axis, "what varies: depth or width")
        ->check(CLI::IsMember({"depth", "width"}))
        ->capture_default_str();
    verb.add_option("--sizes", sizes, "depths, or widths, from small to large")
        ->delimiter(',')
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    verb.add_option("--base-width", base.width,
                    "a multiple of the head's width; that of all networks with --axis depth")
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    verb.add_option("--base-depth", base.depth, "that of all networks with --axis width")
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    verb.add_option("--head-dim", base.head_dim)->check(CLI::Range(1, 65536))->capture_default_str();
    verb.add_option("--context", context, "characters of a sequence")
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    verb.add_option("--rows", rows, "sequences per step")->check(CLI::Range(1, 65536))->capture_default_str();
    verb.add_option("--steps", steps)->check(CLI::Range(1, 10'000'000))->capture_default_str();
    verb.add_option("--seeds", seeds, "runs of each, with seeds 1, 2, ...")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    verb.add_option("--weight-decay", settings.weight_decay)->capture_default_str();
    verb.add_option("--eps", settings.eps, "of AdamW")->capture_default_str();
    verb.add_option("--init-std", settings.init_std, "deviation of weights at the start")->capture_default_str();
    verb.add_flag("--tied", tied, "the embedding is the unembedding");
    verb.add_option("--threads", threads, "0 = one per core")->capture_default_str();
    cli::add_device_option(verb, device);
    verb.add_option("--report", out, "HTML report to write");
    verb.add_flag("--quiet", quiet, "show no progress");
    verb.add_flag("--json", json, "print JSON");
  }

  CharacterText characters() const {
    if (text.empty()) {
      const auto bytes = king_james_bytes().training;
      return character_text(
          {reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()), static_cast<std::size_t>(bytes.numel())});
    }
    std::string all;
    for (const auto& document : lm::read_texts(text)) all += document.text + "\n";
    return character_text(all);
  }

  Family family(const CharacterText& characters) const {
    const auto family = transformer_family({.vocabulary = std::ssize(characters.alphabet),
                                            .context = context,
                                            .width = base.width,
                                            .depth = base.depth,
                                            .heads = 1,
                                            .tied = tied},
                                           base);
    return on_device(family, cli::device_named(device));
  }

  std::vector<NetworkSize> network_sizes() const {
    std::vector<NetworkSize> all;
    for (const auto size : sizes) {
      if (!all.empty() && size <= sizes[all.size() - 1])
        fail_usage("--sizes: {} does not come after a smaller size", size);
      all.push_back({axis == "width" ? size : base.width, axis == "width" ? base.depth : size, base.head_dim});
    }
    return all;
  }

  void start() const {
    check_output(out);
    if (threads < 0) fail_usage("--threads must be at least 0, not {}", threads);
    if (threads > 0) at::set_num_threads(threads);
    cli::device_named(device);  // before anything is read
    catch_interrupts();
  }

  std::string title(const CharacterText& characters) const {
    return fmt::format("transformers of base width {} and base depth {} on {} characters of text, {} different",
                       base.width, base.depth, characters.ids.size(0), characters.alphabet.size());
  }
};

// ---- coordcheck

struct LazyCurve {
  std::string name;
  std::vector<double> relative;  // one per size, first block
};

void coordcheck(const TextNetArguments& a) {
  a.start();
  const auto text = a.characters();
  const auto sizes = a.network_sizes();
  const auto family = a.family(text);
  const auto batches = [&](uint64_t seed) { return character_windows(text, a.context, a.rows, seed); };
  std::vector<NamedCheck> checks;
  LinePlot lazy{"What the tangent of the first perceptron misses in one step",
                {a.axis, Scale::Log2},
                {"relative distance", Scale::Log10},
                {}};
  for (const auto& name : a.names) {
    const auto p = find_parameterization(name);
    checks.push_back({name, coordinate_check(family, sizes, a.settings, p, batches, a.steps, a.seeds, a.quiet)});
    Series series{name, checks.back().check.sizes, {}};
    for (const auto& size : sizes) {
      auto net = family(size, a.settings, p, 1);
      series.y.push_back(block_laziness(net, batches(1)(0)).relative());
    }
    lazy.series.push_back(series);
  }
  Table table{fmt::format("Exponents over {}: 0 is what a parameterization promises", a.axis), {"activation"}, {}};
  Json json{{"axis", a.axis},
            {"sizes", a.sizes},
            {"steps", a.steps},
            {"seeds", a.seeds},
            {"parameterizations", Json::array()}};
  for (const auto& name : a.names) table.columns.push_back(name);
  for (const auto& quantity : checks[0].check.quantities)
    for (const auto& [step, change] :
         std::vector<std::pair<int64_t, bool>>{{0, false}, {1, false}, {a.steps, false}, {a.steps, true}}) {
      table.rows.push_back({change ? fmt::format("{}: change in {} steps", quantity, step)
                                   : fmt::format("{}: size after step {}", quantity, step)});
      for (const auto& c : checks)
        table.rows.back().push_back(
            fmt::format("{:.3f}", change ? c.check.change_slope(quantity, step) : c.check.size_slope(quantity, step)));
    }
  for (std::size_t i = 0; i < checks.size(); ++i) {
    const auto& check = checks[i].check;
    Json one{{"name", a.names[i]}, {"laziness", lazy.series[i].y}, {"quantities", Json::array()}};
    for (std::size_t q = 0; q < check.quantities.size(); ++q) {
      const auto numbers = [&](const at::Tensor& t) {
        const auto flat = t[static_cast<int64_t>(q)].mean(1).contiguous();  // [size, step]
        Json all = Json::array();
        for (int64_t s = 0; s < flat.size(0); ++s)
          all.push_back(
              std::vector<double>(flat[s].const_data_ptr<double>(), flat[s].const_data_ptr<double>() + flat.size(1)));
        return all;
      };
      one["quantities"].push_back({{"name", check.quantities[q]},
                                   {"size", numbers(check.size)},
                                   {"change", numbers(check.change)},
                                   {"size_exponent", check.size_slope(check.quantities[q], a.steps)},
                                   {"change_exponent", check.change_slope(check.quantities[q], a.steps)}});
    }
    json["parameterizations"].push_back(one);
  }
  if (a.json) {
    print_json(json);
  } else {
    fmt::print("{}\n", to_text(table));
    for (const auto& series : lazy.series) {
      std::string values;
      for (const double y : series.y) values += fmt::format(" {:.3g}", y);
      fmt::print("what the tangent of the first perceptron misses, {}:{}\n", series.name, values);
    }
  }
  if (a.out.empty()) return;
  HtmlReport report("Coordinate check", a.title(text));
  report.heading("Exponents").table(table).heading("Activations");
  for (const auto& quantity : checks[0].check.quantities)
    for (const bool change : {false, true}) report.plot(coordinate_plot(checks, quantity, a.steps, change, a.axis));
  lazy.caption = "One Adam step of its two matrices, exact tangent, float64. Where it falls, blocks become linear.";
  report.heading("Laziness").plot(lazy).write(a.out);
}

// ---- transfer

struct TransferArguments : TextNetArguments {
  std::vector<std::string> rates{"2^-5", "2^-6", "2^-7", "2^-8", "2^-9", "2^-10", "2^-11"};
  TrainingPlan plan{.steps = 100, .tail = 20, .warmup = .1, .floor = .1, .clip = 1};
};

double parse_rate(const std::string& word) {
  const bool power = word.starts_with("2^");
  const std::string number = power ? word.substr(2) : word;
  std::size_t read = 0;
  double value = NAN;
  try {
    value = std::stod(number, &read);
  } catch (const std::exception&) {
  }
  const double rate = power ? std::exp2(value) : value;
  if (number.empty() || read != number.size() || !(rate > 0) || !std::isfinite(rate))
    fail_usage("--rates {}: expected numbers above 0, like 0.01 or 2^-7", word);
  return rate;
}

void transfer(TransferArguments a) {
  std::vector<double> rates;
  for (const auto& word : a.rates) rates.push_back(parse_rate(word));
  if (std::set<double>(rates.begin(), rates.end()).size() < rates.size()) fail_usage("--rates: one comes twice");
  a.start();
  const auto text = a.characters();
  const auto sizes = a.network_sizes();
  const auto family = a.family(text);
  a.plan.steps = a.steps, a.plan.tail = std::min<int64_t>(20, std::max<int64_t>(1, a.steps / 5));
  Table best{"The best rate of each size, and what that of the first size costs there",
             {"parameterization", "size", "best rate", "loss there", "loss with the first size's rate", "excess (%)"},
             {}};
  Json json{{"axis", a.axis},   {"sizes", a.sizes}, {"rates", rates},
            {"steps", a.steps}, {"seeds", a.seeds}, {"parameterizations", Json::array()}};
  std::vector<Table> tables;
  std::vector<LinePlot> plots;
  for (const auto& name : a.names) {
    const auto sweep = transfer_sweep(
        family, sizes, rates, a.settings, find_parameterization(name),
        [&](uint64_t seed) { return character_windows(text, a.context, a.rows, seed); }, a.plan, a.seeds, a.quiet);
    tables.push_back(transfer_table(sweep, "Training loss (nats per character), " + name));
    plots.push_back(transfer_plot(sweep, "Loss over learning rates, " + name));
    Json one{{"name", name}, {"sizes", Json::array()}};
    for (std::size_t s = 0; s < sizes.size(); ++s) {
      const auto means = sweep.means(s);
      const double excess = 100 * (sweep.transferred(s, 0) - 1);
      best.rows.push_back({name, std::to_string(a.sizes[s]), rate_name(rates[sweep.best(s)]),
                           fmt::format("{:.4f}", means[sweep.best(s)]), fmt::format("{:.4f}", means[sweep.best(0)]),
                           fmt::format("{:.2f}", excess)});
      one["sizes"].push_back({{"size", a.sizes[s]},
                              {"loss", means},
                              {"best_rate", rates[sweep.best(s)]},
                              {"excess_percent", std::isfinite(excess) ? Json(excess) : Json(nullptr)}});
    }
    json["parameterizations"].push_back(one);
  }
  if (a.json) {
    print_json(json);
  } else {
    for (const auto& table : tables) fmt::print("{}\n", to_text(table));
    fmt::print("{}", to_text(best));
  }
  if (a.out.empty()) return;
  HtmlReport report("Transfer of the learning rate", a.title(text));
  report.heading("Best rates").table(best).heading("Losses");
  for (std::size_t i = 0; i < plots.size(); ++i) report.plot(plots[i]).table(tables[i]);
  report.write(a.out);
}

void add_coordcheck(CLI::App& net) {
  auto* verb = net.add_subcommand("coordcheck", "sizes of activations over depth or width, and laziness of blocks");
  auto a = std::make_shared<TextNetArguments>();
  a->names = kParameterizations, a->sizes = {2, 4, 8, 16}, a->settings.lr = 0x1p-10;
  a->add_to(*verb);
  verb->add_option("--learning-rate", a->settings.lr, "at the base size")->capture_default_str();
  verb->footer(
      "Examples:\n  unbend net coordcheck --sizes 2,4,8,16,32 --report check.html\n"
      "  unbend net coordcheck my-texts/ --axis width --sizes 64,128,256 --parameterization sp,completep --seeds 3");
  verb->callback([a] { coordcheck(*a); });
}

void add_transfer(CLI::App& net) {
  auto* verb = net.add_subcommand("transfer", "losses over learning rates at several depths or widths");
  auto a = std::make_shared<TransferArguments>();
  a->names = {"mup", "completep"}, a->sizes = {2, 8}, a->steps = 100;
  a->add_to(*verb);
  verb->add_option("--rates", a->rates, "learning rates at the base size, as numbers or like 2^-7")
      ->delimiter(',')
      ->capture_default_str();
  verb->footer(
      "Examples:\n  unbend net transfer --report transfer.html\n"
      "  unbend net transfer my-texts/ --sizes 2,8,32 --steps 300 --rates 2^-6,2^-7,2^-8,2^-9 --seeds 2 --report "
      "transfer.html\n"
      "  unbend net transfer --axis width --sizes 64,128,256 --parameterization sp,completep");
  verb->callback([a] { transfer(*a); });
}

}  // namespace

void add_net_parameterize_verbs(CLI::App& net) {
  add_parameterize(net);
  add_coordcheck(net);
  add_transfer(net);
}

}  // namespace unbend
