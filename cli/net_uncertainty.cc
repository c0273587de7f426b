// `unbend net uncertainty`: what noise on the input does to a network's output.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "cli/device.h"
#include "cli/net.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/progress.h"
#include "unbend/nets/network_file.h"
#include "unbend/nets/torchscript.h"
#include "unbend/report/html.h"
#include "unbend/tangent/uncertainty.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

struct Arguments {
  std::string model, input, std, scale, covariance, factor, law, mode = "full", target, out, save, device = "cpu";
  std::optional<double> alpha;
  double coverage = .95;
  bool classes = false, variance_head = false, json = false, quiet = false;
  std::int64_t samples = 0;
  std::uint64_t seed = 0;
  int threads = 0, rows = 10;
};

/// A number, or the array of a file, in the input's dtype.
at::Tensor number_or_array(const std::string& text, const char* option) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) return at::scalar_tensor(number, at::kDouble);
  if (!text.ends_with(".npy")) fail_usage("{} {}: expected a number or a .npy file", option, text);
  return load_npy(text);
}

Noise noise_of(const Arguments& a) {
  const int given = !a.std.empty() + !a.scale.empty() + !a.covariance.empty() + !a.factor.empty();
  if (given != 1) fail_usage("give the input's noise by exactly one of --std, --scale, --covariance and --factor");
  const Law law = law_named(a.law.empty() ? (a.scale.empty() ? "gaussian" : "cauchy") : a.law, a.alpha.value_or(2));
  if (a.alpha && a.law != "stable") fail_usage("--alpha is of --law stable, not of {} noise", name_of(law));
  if (law.gaussian() != a.scale.empty() && a.factor.empty())
    fail_usage("{} noise is given by {}", name_of(law),
               law.gaussian() ? "--std or --covariance" : "--scale or --factor");
  if (!a.covariance.empty()) return gaussian_noise(load_npy(a.covariance));
  if (!a.factor.empty()) return factor_noise(law, load_npy(a.factor));
  return independent_noise(law, a.std.empty() ? number_or_array(a.scale, "--scale") : number_or_array(a.std, "--std"));
}

/// The network if its operations are known, else any module as a function.
struct Model {
  std::optional<Network> network;
  BatchFunction function;
};

Model open_model(const std::string& path, bool need_network, at::Device device) {
  try {
    const auto network = to(read_network(path), at::TensorOptions(device));
    return {network, network};
  } catch (const Error&) {
    if (need_network) throw;
    return {std::nullopt, [f = torchscript_function(path, device)](const at::Tensor& x) {
              const auto out = f({x});
              require(out.size() == 1, "the module gives {} outputs: it must give one", out.size());
              return out[0];
            }};
  }
}

double item(const at::Tensor& t) { return t.item<double>(); }

Json to_json(const at::Tensor& t) {
  if (t.dim() == 0) return std::isfinite(item(t)) ? Json(item(t)) : Json(nullptr);
  Json list = Json::array();
  for (int64_t i = 0; i < t.size(0); ++i) list.push_back(to_json(t[i]));
  return list;
}

// ---- What is reported

/// Sections of the result: figures for people, the same as JSON, and plots.
struct Findings {
  Json json;
  std::vector<std::string> lines;
  std::vector<Table> tables;
  std::vector<LinePlot> plots;
};

void show_samples(const Arguments& a, const Propagated& p, Findings& f) {
  const auto [low, high] = intervals(p, a.coverage);
  const auto size = scale(p);
  const auto count = p.location.size(0), k = p.location.size(1), shown = std::min<int64_t>(count, a.rows);
  const char* name = p.law.gaussian() ? "std" : "scale";
  f.json["location"] = to_json(p.location), f.json[name] = to_json(size);
  f.json["low"] = to_json(low), f.json["high"] = to_json(high);
  if (a.classes) {
    const auto labels = predicted_class(p), sure = confidence(p);
    const auto all = at::exp(log_above(p, labels));
    f.json["classes"] = {{"predicted", to_json(labels)}, {"confidence", to_json(sure)}, {"above", to_json(all)}};
    Table table{"Classes: P(predicted > other), for the closest other",
                {"sample", "class", "closest", "P", "sum of log P"},
                {}};
    for (int64_t i = 0; i < shown; ++i) {
      const auto label = labels[i].item<int64_t>();
      auto row = all[i].clone();
      row[label] = 2;
      const auto other = row.argmin().item<int64_t>();
      table.rows.push_back({std::to_string(i), std::to_string(label), std::to_string(other),
                            fmt::format("{:.4f}", item(row[other])), fmt::format("{:.4g}", item(sure[i]))});
    }
    f.tables.push_back(table);
    return;
  }
  constexpr int64_t kOutputs = 8;
  Table table{fmt::format("Outputs and their {:g} % intervals", 100 * a.coverage),
              {"sample", "output", "location", name, "low", "high"},
              {}};
  for (int64_t i = 0; i < shown; ++i)
    for (int64_t o = 0; o < std::min(k, kOutputs); ++o) {
      const auto cell = [&](const at::Tensor& t) { return fmt::format("{:.5g}", item(t[i][o])); };
      table.rows.push_back({std::to_string(i), std::to_string(o), cell(p.location), cell(size), cell(low), cell(high)});
    }
  f.tables.push_back(table);
  LinePlot plot{fmt::format("Output 0 and its {:g} % intervals", 100 * a.coverage),
                {"sample"},
                {"output 0"},
                {{"location", {}, {}, {}, {}}}};
  for (int64_t i = 0; i < std::min<int64_t>(count, 200); ++i) {
    auto& s = plot.series[0];
    s.x.push_back(static_cast<double>(i)), s.y.push_back(item(p.location[i][0]));
    s.low.push_back(item(low[i][0])), s.high.push_back(item(high[i][0]));
  }
  f.plots.push_back(plot);
}

void calibrate(const Arguments& a, const Propagated& p, at::Tensor y, Findings& f) {
  if (y.dim() == 1) y = y.unsqueeze(1);
  const auto targets = y.to(p.location.scalar_type());
  const auto c = calibration(p, targets, a.coverage);
  f.json["calibration"] = {{"coverage", a.coverage},
                           {"inside", c.coverage},
                           {"width", c.width},
                           {"nll", std::isfinite(c.nll) ? Json(c.nll) : Json(nullptr)}};
  f.lines.push_back(fmt::format("{:.1f} % of the targets lie inside intervals of {:g} %, mean width {:.4g}{}",
                                100 * c.coverage, 100 * a.coverage, c.width,
                                std::isfinite(c.nll) ? fmt::format(", NLL {:.4g}", c.nll) : ""));
  LinePlot plot{
      "Calibration", {"nominal share"}, {"targets inside"}, {{"intervals", {}, {}}, {"ideal", {}, {}, {}, {}, true}}};
  for (int i = 1; i < 20; ++i) {
    const double share = i / 20.;
    for (auto& s : plot.series) s.x.push_back(share);
    plot.series[0].y.push_back(calibration(p, targets, share).coverage), plot.series[1].y.push_back(share);
  }
  f.plots.push_back(plot);
}

void abstain(const Arguments& a, const Propagated& p, const at::Tensor& y, Findings& f) {
  check_shape(y, {p.location.size(0)}, "the target classes");
  check_indices(y, p.location.size(1), "the target classes");
  const auto wrong = predicted_class(p) != y;
  const auto sure = confidence(p);
  Random random(a.seed);
  const auto curve = risk_coverage(sure, wrong, random);
  const double accuracy = 1 - wrong.to(at::kDouble).mean().item<double>();
  f.json["selective"] = {{"accuracy", accuracy}, {"risk_coverage_area", curve.area}};
  f.lines.push_back(
      fmt::format("{:.1f} % of the classes are right; area under risk-coverage {:.4g}", 100 * accuracy, curve.area));
  if (wrong.any().item<bool>() && !wrong.all().item<bool>()) {
    const double separates = auroc(sure.masked_select(~wrong), sure.masked_select(wrong));
    f.json["selective"]["auroc"] = separates;
    f.lines.push_back(fmt::format("the confidence tells right from wrong with an AUROC of {:.3f}", separates));
  }
  LinePlot plot{"Errors when the least confident samples are left out",
                {"coverage"},
                {"risk"},
                {{"", curve.coverage, curve.risk}}};
  plot.series[0].name = "risk";
  f.plots.push_back(plot);
}

// The first samples, drawn; with the network's own noise where it predicts that.
void check_by_draws(const Arguments& a, const BatchFunction& model, const at::Tensor& x, const Noise& noise,
                    const Propagated& p, Findings& f) {
  const at::NoGradGuard no_gradients;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(a.seed);
  const int64_t count = std::min<int64_t>(x.size(0), a.rows), k = p.location.size(1);
  const auto [low, high] = intervals(p, a.coverage);
  auto inside = at::zeros({count, k}, at::kDouble), sum = inside.clone(), squares = inside.clone();
  Noise part = noise;  // of the first samples
  for (auto* t : {&part.scale, &part.factor})
    if (t->defined() && t->dim() == (t == &part.factor ? 3 : x.dim())) *t = t->narrow(0, 0, count);
  const auto head = x.narrow(0, 0, count);
  std::vector<double> first;  // draws of output 0 of sample 0
  Progress progress("draw", a.samples, "samples", a.quiet || a.json);
  for (int64_t i = 0; i < a.samples; ++i) {
    auto y = model(draw(head, part, generator)).flatten(1).to(at::kCPU);
    if (a.variance_head)
      y = draw(y.narrow(1, 0, k), independent_noise(p.law, at::exp(y.narrow(1, k, k) / 2)), generator);
    inside += at::logical_and(y >= low.narrow(0, 0, count), y <= high.narrow(0, 0, count)).to(at::kDouble);
    const auto d = (y - p.location.narrow(0, 0, count)).to(at::kDouble);
    sum += d, squares += d.square();
    first.push_back(item(y[0][0]));
    progress.update(i + 1);
  }
  progress.finish();
  const auto n = static_cast<double>(a.samples);
  const double share = item(inside.mean()) / n;
  Json draws{{"samples", a.samples}, {"rows", count}, {"inside", share}};
  std::string line = fmt::format("{} draws of {} samples: {:.1f} % inside the intervals of {:g} %", a.samples, count,
                                 100 * share, 100 * a.coverage);
  if (p.law.gaussian()) {
    const auto shift = sum / n, spread = at::sqrt((squares / n - shift.square()).clamp_min(0));
    const auto ours = scale(p).narrow(0, 0, count).to(at::kDouble);
    const double ratio = item((spread / ours.clamp_min(1e-30)).log().median().exp());
    const double bias = item((shift.abs() / spread.clamp_min(1e-30)).median());
    draws["std_ratio"] = ratio, draws["shift_in_std"] = bias;
    line +=
        fmt::format(", their std is {:.3f} times ours (median), their mean is off by {:.3f} std (median)", ratio, bias);
  }
  f.json["draws"] = draws;
  f.lines.push_back(line);

  // Their density beside the law's, between its 0.5 % and 99.5 % points.
  const auto [from, to] = intervals(outputs(p, 0, 1), .99);
  const double left = item(from[0][0]), right = item(to[0][0]), middle = item(p.location[0][0]),
               size = item(scale(p)[0][0]);
  if (!(right > left)) return;
  constexpr int kBins = 60;
  LinePlot plot{"Output 0 of sample 0", {"output"}, {"density"}, {{"draws", {}, {}}, {"propagated", {}, {}}}};
  std::vector<double> counts(kBins);
  for (const double v : first)
    if (v > left && v < right) ++counts[std::min(kBins - 1, static_cast<int>((v - left) / (right - left) * kBins))];
  const double width = (right - left) / kBins;
  for (int b = 0; b < kBins; ++b) {
    const double low_edge = left + b * width;
    for (auto& s : plot.series) s.x.push_back(low_edge + width / 2);
    plot.series[0].y.push_back(counts[b] / n / width);
    plot.series[1].y.push_back(
        (cdf(p.law, (low_edge + width - middle) / size) - cdf(p.law, (low_edge - middle) / size)) / width);
  }
  f.plots.push_back(plot);
}

void uncertainty(const Arguments& a) {
  if (a.threads < 0) fail_usage("--threads must be at least 0, not {}", a.threads);
  if (a.threads > 0) at::set_num_threads(a.threads);
  if (!(a.coverage > 0 && a.coverage < 1)) fail_usage("--coverage {}: expected a share between 0 and 1", a.coverage);
  if (a.classes && a.variance_head) fail_usage("--classes and --variance-head exclude each other");
  check_output(a.out);
  const auto device = cli::device_named(a.device);
  const auto noise = to(noise_of(a), device);
  const bool marginal = a.mode == "marginal";
  const auto model = open_model(a.model, marginal, device);
  const auto x = load_npy(a.input).to(device);
  if (!a.save.empty()) {
    std::error_code ignored;  // the check says what is wrong
    std::filesystem::create_directories(a.save, ignored);
    check_output(std::filesystem::path(a.save) / "location.npy");
  }
  auto p = to(marginal        ? propagate_marginal(*model.network, x, noise)
              : model.network ? propagate(*model.network, x, noise)
                              : propagate(model.function, x, noise),
              at::kCPU);
  if (a.variance_head) {  // the second half of the outputs is the logarithm of the first half's own variance
    const auto k = p.location.size(1) / 2;
    require(p.location.size(1) == 2 * k, "--variance-head: {} outputs are not means and variances", 2 * k + 1);
    auto own = at::exp(p.location.narrow(1, k, k));
    p = with_own_noise(outputs(p, 0, k), noise.law.gaussian() ? own : at::sqrt(own));
  }
  Findings f;
  f.json = {{"law", std::string(name_of(p.law))},   {"alpha", p.law.alpha},          {"mode", a.mode},
            {"network", model.network.has_value()}, {"samples", p.location.size(0)}, {"outputs", p.location.size(1)}};
  f.lines.push_back(fmt::format("{}: {} samples, {} outputs, {} noise, {} form{}", a.model, p.location.size(0),
                                p.location.size(1), name_of(p.law), a.mode,
                                model.network ? "" : " (a module beyond the known operations: by autograd)"));
  show_samples(a, p, f);
  if (!a.target.empty()) {
    const auto y = load_npy(a.target);
    a.classes ? abstain(a, p, y, f) : calibrate(a, p, y, f);
  }
  if (a.samples > 0) check_by_draws(a, model.function, x, noise, p, f);
  if (!a.save.empty()) {
    const std::filesystem::path folder = a.save;
    save_npy(folder / "location.npy", p.location);
    save_npy(folder / "scale.npy", scale(p));
    if (p.covariance.defined()) save_npy(folder / "covariance.npy", p.covariance.contiguous());
    if (p.factor.defined()) save_npy(folder / "factor.npy", p.factor.contiguous());
  }
  if (!a.out.empty()) {
    HtmlReport report("Uncertainty from input noise", a.model);
    report.list(f.lines);
    for (const auto& plot : f.plots) report.plot(plot);
    for (const auto& table : f.tables) report.table(table);
    report.paragraph(
        "Local linearization at the input: what the noise does to the output, not what the network does not know.");
    report.write(a.out);
  }
  if (a.json) return print_json(f.json);
  for (const auto& table : f.tables) fmt::print("{}\n", to_text(table));
  for (const auto& line : f.lines) fmt::print("{}\n", line);
}

}  // namespace

void add_net_uncertainty_verb(CLI::App& net) {
  auto* verb = net.add_subcommand("uncertainty", "the output's distribution for a noisy input, in one pass");
  auto a = std::make_shared<Arguments>();
  verb->add_option("--model", a->model, "TorchScript file (torch.jit.save)")->required();
  verb->add_option("--input", a->input, "inputs, .npy, [B, ..] of the model's dtype")->required();
  verb->add_option("--std", a->std, "Gaussian noise: a number, or .npy of one sample's shape or the input's");
  verb->add_option("--scale", a->scale, "Cauchy (or --law stable) noise: a number, or .npy as for --std");
  verb->add_option("--covariance", a->covariance, "correlated Gaussian noise: .npy [n, n] or [B, n, n]");
  verb->add_option("--factor", a->factor, "low-rank noise x + L s: .npy [n, r] or [B, n, r]");
  verb->add_option("--law", a->law, "gaussian, cauchy or stable; otherwise by the option that gives the noise")
      ->check(CLI::IsMember({"gaussian", "cauchy", "stable"}));
  verb->add_option("--alpha", a->alpha, "of --law stable, above 0 and up to 2 (default: 2)");
  verb->add_option("--mode", a->mode, "full, or marginal: about two forward passes, correlations are lost")
      ->check(CLI::IsMember({"full", "marginal"}))
      ->capture_default_str();
  verb->add_option("--coverage", a->coverage, "share that intervals hold")->capture_default_str();
  verb->add_flag("--classes", a->classes, "outputs are logits: pairwise probabilities and confidence");
  verb->add_flag("--variance-head", a->variance_head,
                 "the second half of the outputs is log variance: added to the first half's");
  verb->add_option("--target", a->target, "true outputs (calibration), or classes with --classes (abstention), .npy");
  verb->add_option("--samples", a->samples, "Monte Carlo draws to compare with, of the first --rows samples")
      ->check(CLI::Range(0, 100000000))
      ->capture_default_str();
  verb->add_option("--rows", a->rows, "samples to show")->check(CLI::Range(1, 1000000))->capture_default_str();
  verb->add_option("--save", a->save, "folder for location.npy, scale.npy, and covariance.npy or factor.npy");
  verb->add_option("--report", a->out, "HTML report to write");
  verb->add_option("--seed", a->seed, "of the draws, and of the order of ties")->capture_default_str();
  verb->add_option("--threads", a->threads, "0 = one per core")->capture_default_str();
  cli::add_device_option(*verb, a->device);
  verb->add_flag("--quiet", a->quiet, "show no progress");
  verb->add_flag("--json", a->json, "print JSON");
  verb->footer(
      "Examples:\n  unbend net uncertainty --model net.pt --input x.npy --std 0.1\n"
      "  unbend net uncertainty --model net.pt --input x.npy --scale 0.05 --classes --target labels.npy\n"
      "  unbend net uncertainty --model pnn.pt --input x.npy --covariance s.npy --variance-head --target y.npy "
      "--report report.html\n"
      "  unbend net uncertainty --model net.pt --input x.npy --std 0.1 --mode marginal --samples 10000 --json");
  verb->callback([a] { uncertainty(*a); });
}

}  // namespace unbend
