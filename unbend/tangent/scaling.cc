#include "unbend/tangent/scaling.h"

#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "unbend/base/error.h"
#include "unbend/base/fit.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/json.h"
#include "unbend/base/progress.h"
#include "unbend/tensor/schedule.h"

namespace unbend {
namespace {

constexpr double kDiverged = std::numeric_limits<double>::quiet_NaN();

template <class Net>
ScaledNetwork scaled(Net made, const NetworkSize& base, const BaseSettings& settings,
                     const Parameterization& parameterization, const RuleOptions& options, uint64_t seed) {
  const auto net = std::make_shared<Net>(std::move(made));
  const auto all = parameters(*net);
  const auto rules = parameterize(shapes(all), net->config.size(), base, settings, parameterization, options);
  net->multipliers = rules.multipliers;
  Random random(seed);
  initialize(rules, all, random);
  return {rules, all, [net](const at::Tensor& inputs, Taps* taps) { return net->logits(inputs, taps); }};
}

std::vector<double> numbers(const at::Tensor& t) {
  const auto flat = t.to(at::kCPU, at::kDouble).contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

std::string size_name(const NetworkSize& size) { return fmt::format("width {}, depth {}", size.width, size.depth); }

/// What a coordinate check looks at, in the order of kQuantities.
std::vector<at::Tensor> activations(const ScaledNetwork& net, const Examples& examples) {
  const at::NoGradGuard no_grad;
  Taps taps;
  const auto logits = net.logits(examples.inputs, &taps);
  return {taps.stream, taps.attention.empty() ? at::Tensor() : at::stack(taps.attention), at::stack(taps.perceptron),
          logits};
}
constexpr std::array<const char*, 4> kQuantities{"stream", "attention", "perceptron", "logits"};

double slope(const CoordinateCheck& check, const at::Tensor& values, std::string_view quantity, int64_t step) {
  const auto found = std::ranges::find(check.quantities, quantity);
  require(found != check.quantities.end(), "coordinate check: no '{}' in this network, only {}", quantity,
          fmt::join(check.quantities, ", "));
  return log_log_slope(check.sizes, numbers(values[found - check.quantities.begin()].select(2, step).mean(1)));
}

}  // namespace

at::Tensor ScaledNetwork::loss(const Examples& examples, Taps* taps) const {
  const auto out = logits(examples.inputs, taps);
  return at::cross_entropy_loss(out.reshape({-1, out.size(-1)}), examples.targets.reshape({-1}).to(out.device()));
}

double gradient_rms(const ScaledNetwork& net, const Examples& examples, Role role) {
  std::vector<at::Tensor> leaves;
  for (std::size_t i = 0; i < net.parameters.size(); ++i)
    if (net.rules.tensors[i].role == role) leaves.push_back(net.parameters[i].tensor->requires_grad_());
  double square = 0, count = 0;
  for (const auto& g : torch::autograd::grad({net.loss(examples)}, leaves))
    square += g.square().sum().item<double>(), count += static_cast<double>(g.numel());
  return std::sqrt(square / count);
}

Family transformer_family(const TransformerConfig& like, const NetworkSize& base, const RuleOptions& options) {
  require(base.head_dim > 0, "transformer family: the base says no head dimension");
  return [=](const NetworkSize& size, const BaseSettings& settings, const Parameterization& p, uint64_t seed) {
    auto config = like;
    require(size.width % base.head_dim == 0, "transformer family: heads of {} do not divide a width of {}",
            base.head_dim, size.width);
    config.width = size.width, config.depth = size.depth, config.heads = size.width / base.head_dim;
    auto rules = options;
    rules.tied = config.tied;
    return scaled(make_transformer(config), base, settings, p, rules, seed);
  };
}

Family residual_mlp_family(int64_t inputs, int64_t classes, const NetworkSize& base, const RuleOptions& options) {
  return [=](const NetworkSize& size, const BaseSettings& settings, const Parameterization& p, uint64_t seed) {
    return scaled(make_residual_mlp({inputs, classes, size.width, size.depth}), base, settings, p, options, seed);
  };
}

Family on_device(Family family, at::Device device) {
  return [family = std::move(family), device](const NetworkSize& size, const BaseSettings& settings,
                                              const Parameterization& p, uint64_t seed) {
    auto net = family(size, settings, p, seed);
    for (const auto& parameter : net.parameters) *parameter.tensor = parameter.tensor->to(device);
    net.logits = [logits = std::move(net.logits), device](const at::Tensor& inputs, Taps* taps) {
      return logits(inputs.to(device), taps);
    };
    return net;
  };
}

double train_scaled(const ScaledNetwork& net, const ExampleSource& source, const TrainingPlan& plan,
                    const std::function<void(double loss)>& each_step) {
  require(plan.steps >= 1 && plan.tail >= 1, "training: {} steps, the loss over the last {}", plan.steps, plan.tail);
  AdamW optimizer(parameter_groups(net.rules, net.parameters));
  double sum = 0;
  const int64_t tail = std::min(plan.tail, plan.steps);
  for (int64_t step = 0; step < plan.steps; ++step) {
    if (interrupted()) return kDiverged;
    const auto loss = net.loss(source(step));
    optimizer.zero_grad();
    loss.backward();
    const double value = loss.item<double>();
    const bool finite = optimizer.step(warmup_cosine(step, plan.steps, plan.warmup, plan.floor), plan.clip);
    if (each_step) each_step(value);
    if (!finite || !std::isfinite(value)) return kDiverged;
    if (step >= plan.steps - tail) sum += value;
  }
  return sum / static_cast<double>(tail);
}

double CoordinateCheck::size_slope(std::string_view quantity, int64_t step) const {
  return slope(*this, size, quantity, step);
}
double CoordinateCheck::change_slope(std::string_view quantity, int64_t step) const {
  return slope(*this, change, quantity, step);
}

CoordinateCheck coordinate_check(const Family& family, const std::vector<NetworkSize>& sizes,
                                 const BaseSettings& settings, const Parameterization& parameterization,
                                 const std::function<ExampleSource(uint64_t seed)>& source, int64_t steps, int seeds,
                                 bool quiet) {
  require(sizes.size() >= 2 && steps >= 1 && seeds >= 1,
          "coordinate check: {} sizes, {} steps, {} seeds: at least 2, 1 and 1 are needed", sizes.size(), steps, seeds);
  const auto differ = [&](auto member) {
    return std::ranges::any_of(sizes, [&](const NetworkSize& s) { return s.*member != sizes[0].*member; });
  };
  const bool widths = differ(&NetworkSize::width);
  require(widths != differ(&NetworkSize::depth), "coordinate check: sizes must differ in width or in depth");
  const auto count = static_cast<int64_t>(sizes.size());
  CoordinateCheck check{{}, {}, at::zeros({std::ssize(kQuantities), count, seeds, steps + 1}, at::kDouble), {}};
  check.change = at::zeros_like(check.size);
  std::vector<bool> present(kQuantities.size());
  Progress progress("coordinate check, " + parameterization.name, count * seeds * (steps + 1), "steps", quiet);
  int64_t done = 0;
  for (int64_t i = 0; i < count; ++i) {
    check.sizes.push_back(static_cast<double>(widths ? sizes[i].width : sizes[i].depth));
    for (int seed = 1; seed <= seeds; ++seed) {
      const auto net = family(sizes[i], settings, parameterization, static_cast<uint64_t>(seed));
      const auto batches = source(static_cast<uint64_t>(seed));
      AdamW optimizer(parameter_groups(net.rules, net.parameters));
      auto batch = batches(0);
      const auto first = batch;
      std::vector<at::Tensor> start;
      for (int64_t step = 0; step <= steps; ++step) {
        if (interrupted()) fail_computation("coordinate check: interrupted");
        const auto now = activations(net, first);
        if (step == 0) start = now;
        for (std::size_t q = 0; q < now.size(); ++q) {
          if (!now[q].defined()) continue;
          present[q] = true;
          const auto row = static_cast<int64_t>(q);
          check.size[row][i][seed - 1][step] = now[q].abs().mean(at::kDouble);
          check.change[row][i][seed - 1][step] = (now[q] - start[q]).abs().mean(at::kDouble);
        }
        progress.update(++done, size_name(sizes[i]));
        if (step == steps) break;
        const auto loss = net.loss(batch);
        optimizer.zero_grad();
        loss.backward();
        optimizer.step();
        batch = batches(step + 1);
      }
    }
  }
  progress.finish();
  std::vector<int64_t> kept;
  for (std::size_t q = 0; q < present.size(); ++q) {
    if (!present[q]) continue;
    kept.push_back(static_cast<int64_t>(q));
    check.quantities.emplace_back(kQuantities[q]);
  }
  const auto rows = at::tensor(kept, at::kLong);
  check.size = check.size.index_select(0, rows), check.change = check.change.index_select(0, rows);
  return check;
}

std::vector<double> TransferSweep::means(std::size_t size) const {
  return numbers(loss[static_cast<int64_t>(size)].mean(1));
}

std::size_t TransferSweep::best(std::size_t size) const {
  const auto all = means(size);
  std::size_t best = all.size();
  for (std::size_t i = 0; i < all.size(); ++i)
    if (std::isfinite(all[i]) && (best == all.size() || all[i] < all[best])) best = i;
  if (best == all.size()) fail_computation("{}: training diverged at every rate", size_name(sizes[size]));
  return best;
}

double TransferSweep::transferred(std::size_t size, std::size_t from) const {
  const auto all = means(size);
  return all[best(from)] / all[best(size)];
}

TransferSweep transfer_sweep(const Family& family, const std::vector<NetworkSize>& sizes,
                             const std::vector<double>& rates, const BaseSettings& settings,
                             const Parameterization& parameterization,
                             const std::function<ExampleSource(uint64_t seed)>& source, const TrainingPlan& plan,
                             int seeds, bool quiet, const std::filesystem::path& keep) {
  require(!sizes.empty() && !rates.empty() && seeds >= 1, "transfer: {} sizes, {} learning rates, {} seeds",
          sizes.size(), rates.size(), seeds);
  const auto count = std::ssize(sizes), rate_count = std::ssize(rates);
  TransferSweep sweep{parameterization.name, sizes, rates, at::zeros({count, rate_count, seeds}, at::kDouble)};
  Progress progress("transfer, " + parameterization.name, count * rate_count * seeds * plan.steps, "steps", quiet);
  if (!keep.empty()) std::filesystem::create_directories(keep);
  int64_t trainings = 0;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t r = 0; r < rate_count; ++r)
      for (int seed = 1; seed <= seeds; ++seed, ++trainings) {
        const auto kept = keep.empty() ? keep : keep / fmt::format("{}-{}-{}.json", i, r, seed);
        if (!kept.empty() && std::filesystem::exists(kept)) {
          const auto loss = read_json(kept);
          sweep.loss[i][r][seed - 1] = loss.is_null() ? kDiverged : loss.get<double>();
          continue;
        }
        auto here = settings;
        here.lr = rates[r];
        const auto net = family(sizes[i], here, parameterization, static_cast<uint64_t>(seed));
        int64_t step = 0;
        sweep.loss[i][r][seed - 1] = train_scaled(net, source(static_cast<uint64_t>(seed)), plan, [&](double value) {
          progress.update(trainings * plan.steps + ++step,
                          fmt::format("{}, rate {:.3g}: {:.3f}", size_name(sizes[i]), rates[r], value));
        });
        if (interrupted()) fail_computation("transfer: interrupted");
        if (!kept.empty()) write_json(kept, sweep.loss[i][r][seed - 1].item<double>());
      }
  progress.finish();
  return sweep;
}

TangentDistance tangent_distance(const Function& f, const Tensors& at, const Tensors& step) {
  const auto here = linearize(f, at);
  const auto linear = here.jacobian.push(step);
  Tensors moved;
  for (std::size_t i = 0; i < at.size(); ++i) moved.push_back((at[i] + step[i]).detach());
  const at::NoGradGuard no_grad;
  const auto there = f(moved);
  double missed = 0, pushed = 0, change = 0;
  const auto square = [](const at::Tensor& t) { return t.square().sum().item<double>(); };
  for (std::size_t i = 0; i < there.size(); ++i) {
    const auto difference = there[i] - here.value[i];
    missed += square(difference - linear[i]), pushed += square(linear[i]), change += square(difference);
  }
  return {std::sqrt(missed), std::sqrt(pushed), std::sqrt(change)};
}

TangentDistance block_laziness(ScaledNetwork& net, const Examples& examples, int64_t block) {
  const auto prefix = fmt::format("blocks.{}.", block);
  Examples wide = examples;
  if (at::isFloatingType(wide.inputs.scalar_type())) wide.inputs = wide.inputs.to(at::kDouble);
  Tensors at, step;
  std::vector<at::Tensor*> slots;
  std::vector<const TensorRule*> rules;
  for (std::size_t i = 0; i < net.parameters.size(); ++i) {
    const auto& p = net.parameters[i];
    *p.tensor = p.tensor->detach().to(at::kDouble);
    if (!p.name.starts_with(prefix + "up.") && !p.name.starts_with(prefix + "down.")) continue;
    slots.push_back(p.tensor), rules.push_back(&net.rules.tensors[i]);
    at.push_back(p.tensor->clone());
    p.tensor->requires_grad_();
  }
  require(!at.empty(), "laziness: the network has no block {}", block);
  std::vector<at::Tensor> leaves;
  for (auto* slot : slots) leaves.push_back(*slot);
  const auto gradients = torch::autograd::grad({net.loss(wide)}, leaves);
  for (std::size_t i = 0; i < at.size(); ++i)
    step.push_back(-rules[i]->lr * gradients[i] / (gradients[i].abs() + rules[i]->eps));
  const auto assign_all = [&](const Tensors& w) {
    for (std::size_t i = 0; i < slots.size(); ++i) *slots[i] = w[i];
  };
  const auto distance = tangent_distance(
      [&](const Tensors& w) -> Tensors {
        assign_all(w);
        Taps taps;
        net.logits(wide.inputs, &taps);
        return {taps.perceptron.at(static_cast<std::size_t>(block))};
      },
      at, step);
  assign_all(at);
  return distance;
}

CharacterText character_text(std::string_view text) {
  std::array<int, 256> id{};
  for (const char c : text) id[static_cast<unsigned char>(c)] = 1;
  CharacterText result{at::empty({std::ssize(text)}, at::kByte), {}};
  for (std::size_t c = 0; c < id.size(); ++c) {
    if (id[c] == 0) continue;
    id[c] = static_cast<int>(result.alphabet.size());
    result.alphabet += static_cast<char>(c);
  }
  require(result.alphabet.size() >= 2, "text: {} different characters in {} bytes: nothing to predict",
          result.alphabet.size(), text.size());
  auto* ids = result.ids.mutable_data_ptr<uint8_t>();
  for (std::size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<uint8_t>(id[static_cast<unsigned char>(text[i])]);
  return result;
}

ExampleSource character_windows(const CharacterText& text, int64_t length, int64_t rows, uint64_t seed) {
  const int64_t places = text.ids.size(0) - length;
  require(length >= 1 && rows >= 1 && places >= 1, "text: {} characters give no windows of {} and the next one",
          text.ids.size(0), length);
  return [=, ids = text.ids, random = Random(seed)](int64_t) mutable -> Examples {
    std::vector<at::Tensor> all;
    for (int64_t i = 0; i < rows; ++i)
      all.push_back(ids.narrow(0, static_cast<int64_t>(random.below(static_cast<uint64_t>(places))), length + 1));
    const auto window = at::stack(all).to(at::kLong);
    return {window.slice(1, 0, length).contiguous(), window.slice(1, 1).contiguous()};
  };
}

}  // namespace unbend
