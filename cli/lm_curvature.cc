// `unbend lm curvature`.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/progress.h"
#include "unbend/calculus/estimates.h"
#include "unbend/calculus/spectra.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/gauss_newton.h"
#include "unbend/report/html.h"

namespace unbend::cli {
namespace {

struct CurvatureArguments {
  ModelOptions model;
  TextOptions text;
  std::int64_t length = 64, windows = 1, rank = 8, samples = 8, top = 5, restarts = 3, density_samples = 2,
               density_steps = 20;
  double alpha = 8, b_scale = -1;
  std::vector<std::string> targets{"q", "k", "v"};
  std::string factors = "b", report;
  std::uint64_t seed = 1;
  bool json = false;
};

/// A point of the spectrum for pictures: how many eigenvalues per decade are around x, and what share of the trace is
/// in those above it.
struct Density {
  std::vector<double> x, per_decade, above;
  double negligible = 0;  ///< share of the dimension below `floor`
  double floor = 0;
};

Density density_of(const SpectralQuadrature& q, double dimension, double largest, double epsilon) {
  Density d;
  d.floor = 100 * epsilon * largest;  // smaller nodes are rounding
  if (!(d.floor > 0)) {               // no curvature, and zero has no place on a logarithmic axis
    d.negligible = 1;
    return d;
  }
  constexpr double kWidth = .12;  // of the bell that stands for a node, in decades
  const double low = std::log10(d.floor) - .3, high = std::log10(largest) + .5;
  const auto samples = static_cast<double>(q.nodes.size());
  double trace = 0;
  for (std::size_t s = 0; s < q.nodes.size(); ++s)
    for (std::size_t i = 0; i < q.nodes[s].size(); ++i) {
      if (q.nodes[s][i] < d.floor)
        d.negligible += q.weights[s][i] / dimension / samples;
      else
        trace += q.weights[s][i] * q.nodes[s][i];
    }
  for (double x = low; x <= high; x += .05) {
    double sum = 0, above = 0;
    for (std::size_t s = 0; s < q.nodes.size(); ++s) {
      for (std::size_t i = 0; i < q.nodes[s].size(); ++i) {
        if (q.nodes[s][i] < d.floor) continue;
        const double z = (std::log10(q.nodes[s][i]) - x) / kWidth;
        sum += q.weights[s][i] / samples * std::exp(-z * z / 2) / (kWidth * std::sqrt(2 * M_PI));
        if (z >= 0) above += q.weights[s][i] * q.nodes[s][i] / trace;
      }
    }
    d.x.push_back(std::pow(10, x));
    d.per_decade.push_back(sum > 1e-3 ? sum : NAN);
    d.above.push_back(above);
  }
  return d;
}

/// "layers.3.q.lora_b" -> {"layer 3", "q"}.
std::pair<std::int64_t, std::string> place_of(const std::string& name) {
  const auto first = name.find('.'), second = name.find('.', first + 1), third = name.find('.', second + 1);
  return {std::stoll(name.substr(first + 1)), name.substr(second + 1, third - second - 1)};
}

void curvature(CurvatureArguments a) {
  if (a.model.type == "bf16") fail_usage("--type bf16 is too coarse for derivatives of derivatives: take f32 or f64");
  if (a.length < 2) fail_usage("--length {}: a window has at least 2 tokens", a.length);
  for (const auto& inputs : {a.model.files(), a.text.files()}) check_output(a.report, inputs);
  const auto model = open_model(a.model);
  const auto factors = a.factors == "b" ? lm::LoraFactors::B : lm::LoraFactors::Both;
  if (a.b_scale < 0) a.b_scale = factors == lm::LoraFactors::B ? 0 : .05;
  Random random(a.seed);
  const auto decoder = model.student ? model.student->decoder
                                     : lm::with_lora(model.teacher, a.targets, a.rank, a.alpha, a.b_scale, random);
  const auto text = a.text.open(model.file, model.tokenizer, a.json);
  const auto ids = lm::behind_bos(lm::spread_windows(*text, a.length, a.windows), model.tokenizer).to(decoder.device());
  Progress progress("curvature", 4, "parts", a.json);
  const auto g = lm::gauss_newton(decoder, {ids.slice(1, 0, -1), ids.slice(1, 1)}, factors);
  const auto dimension = static_cast<double>(g.map.domain().dim());
  progress.update(1, "linearized");
  const TraceByLeaf trace = estimate_trace_by_leaf(g.map, a.samples, random);
  progress.update(2, "trace");
  const Eigenpairs top = lanczos(g.map, a.top, Which::Largest, {.restarts = a.restarts, .seed = a.seed});
  progress.update(3, "largest eigenvalues");
  const SpectralQuadrature quadrature =
      spectral_quadrature(g.map, {.samples = a.density_samples, .steps = a.density_steps, .seed = a.seed});
  progress.update(4, "density");
  progress.finish();
  for (const auto outcome : {trace.whole.outcome, quadrature.outcome})
    if (outcome != Outcome::Converged) fail_computation("curvature: {}", name(outcome));
  if (top.values.numel() == 0) fail_computation("{}", top.message);

  std::map<std::int64_t, double> layers;
  std::map<std::string, double> parts;
  for (std::size_t i = 0; i < g.names.size(); ++i) {
    const auto [layer, part] = place_of(g.names[i]);
    layers[layer] += trace.leaves[i].value;
    parts[part] += trace.leaves[i].value;
  }
  std::vector<double> values, errors;
  for (std::int64_t i = 0; i < top.values.numel(); ++i) {
    values.push_back(top.values[i].item<double>());
    errors.push_back(top.errors[i].item<double>());
  }
  const double epsilon = decoder.type() == at::kDouble ? 2e-16 : 1e-7;
  const Density density = density_of(quadrature, dimension, values[0], epsilon);
  const bool flat = density.x.empty();
  const char* const flat_note = "The curvature is zero: to first order these factors do not change the predictions.";
  const double rank_bound = std::min(dimension, static_cast<double>(g.tokens * decoder.config.hidden));

  if (!a.report.empty()) {
    HtmlReport report("Curvature of the next-token loss",
                      fmt::format("Gauss-Newton matrix in {} of {} of {} parameters; {} tokens, loss {:.4f} nats",
                                  a.factors == "b" ? "the factor B" : "both factors", a.model.model,
                                  format_count(dimension), g.tokens, g.loss));
    report.heading("Figures").key_figures(
        {{fmt::format("{:.4g}", trace.whole.value), "trace", fmt::format("± {:.2g}", trace.whole.standard_error)},
         {fmt::format("{:.4g}", values[0]), "largest eigenvalue", name(top.outcome)},
         {flat ? "-" : fmt::format("{:.1f}", trace.whole.value / values[0]), "trace over largest eigenvalue",
          "effective rank"}});
    LinePlot spectrum{"Spectral density (stochastic Lanczos quadrature)",
                      {"eigenvalue", Scale::Log10},
                      {"eigenvalues per decade", Scale::Log10},
                      {{"density", density.x, density.per_decade}}};
    spectrum.caption = fmt::format(
        "{:.1f} % of {} dimensions are below {:.1g}, which is rounding. The rank is at most {}: tokens times width.",
        100 * density.negligible, format_count(dimension), density.floor, format_count(rank_bound));
    LinePlot share{"Share of the trace in eigenvalues above",
                   {"eigenvalue", Scale::Log10},
                   {"share"},
                   {{"share", density.x, density.above}}};
    BarPlot by_layer{"Trace by layer", "share (%)", {}, {{"share", {}}}},
        by_part{"Trace by projection", "share (%)", {}, {{"share", {}}}};
    for (const auto& [layer, value] : layers) {
      by_layer.categories.push_back(std::to_string(layer));
      by_layer.series[0].values.push_back(100 * value / trace.whole.value);
    }
    for (const auto& [part, value] : parts) {
      by_part.categories.push_back(part);
      by_part.series[0].values.push_back(100 * value / trace.whole.value);
    }
    if (flat)
      report.paragraph(flat_note);
    else
      report.heading("Spectrum").plot(spectrum).plot(share).heading("Where it is").plot(by_layer).plot(by_part);
    report.write(a.report);
  }
  if (a.json) {
    Json json{
        {"tokens", g.tokens},
        {"loss", g.loss},
        {"factors", a.factors},
        {"dimension", g.map.domain().dim()},
        {"rank_at_most", rank_bound},
        {"trace", trace.whole.value},
        {"trace_error", trace.whole.standard_error},
        {"eigenvalues", values},
        {"eigenvalue_errors", errors},
        {"outcome", name(top.outcome)},
        {"products", top.products},
        {"negligible_share", density.negligible},
        {"density", {{"eigenvalue", density.x}, {"per_decade", density.per_decade}, {"trace_above", density.above}}},
        {"layers", Json::object()},
        {"projections", Json::object()}};
    for (const auto& [layer, value] : layers) json["layers"][std::to_string(layer)] = value;
    for (const auto& [part, value] : parts) json["projections"][part] = value;
    return print_json(json);
  }
  fmt::print("{} of {} LoRA parameters, {} tokens, loss {:.4f} nats\n", a.factors == "b" ? "B" : "A and B",
             format_count(dimension), g.tokens, g.loss);
  if (flat) return fmt::print("{}\n", flat_note);
  fmt::print("trace {:.5g} ± {:.2g}, largest eigenvalues {:.5g} ({}, {} products), effective rank {:.1f}\n",
             trace.whole.value, trace.whole.standard_error, fmt::join(values, ", "), name(top.outcome), top.products,
             trace.whole.value / values[0]);
  fmt::print("{:.1f} % of the dimensions are below {:.1g}\n", 100 * density.negligible, density.floor);
  Table table{"Share of the trace", {"layer", "share (%)"}, {}};
  for (const auto& [layer, value] : layers)
    table.rows.push_back({std::to_string(layer), fmt::format("{:.2f}", 100 * value / trace.whole.value)});
  fmt::print("{}", to_text(table));
  for (const auto& [part, value] : parts) fmt::print("{}: {:.1f} %\n", part, 100 * value / trace.whole.value);
}

}  // namespace

void add_lm_curvature_verb(CLI::App& lm) {
  auto* verb = lm.add_subcommand("curvature", "spectrum of the loss's Gauss-Newton matrix in LoRA factors");
  auto a = std::make_shared<CurvatureArguments>();
  a->model.type = "f32";
  a->model.add_to(*verb);
  a->text.add_to(*verb);
  verb->add_option("--length", a->length, "tokens of a window")->check(CLI::Range(2, 1 << 20))->capture_default_str();
  verb->add_option("--windows", a->windows, "windows, spread over the text")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--rank", a->rank, "of the LoRA factors (without --adapter)")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--alpha", a->alpha, "scale of the correction: alpha / rank")->capture_default_str();
  verb->add_option("--targets", a->targets, "projections with factors: q, k, v, o, gate, up, down")
      ->capture_default_str();
  verb->add_option(
          "--factors", a->factors,
          "b: B alone, where training starts (B = 0, at which the derivative in A is zero); both: A and B at a "
          "random B, or the adapter's")
      ->check(CLI::IsMember({"b", "both"}))
      ->capture_default_str();
  verb->add_option("--b-scale", a->b_scale, "deviation of a random B, times sqrt(rank); 0 with b, 0.05 with both");
  verb->add_option("--samples", a->samples, "random vectors for the trace")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  verb->add_option("--top", a->top, "largest eigenvalues wanted")->check(CLI::Range(1, 1000))->capture_default_str();
  verb->add_option("--restarts", a->restarts, "of Lanczos, at most")->check(CLI::Range(0, 1000))->capture_default_str();
  verb->add_option("--density-samples", a->density_samples, "random vectors for the density")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  verb->add_option("--density-steps", a->density_steps, "Lanczos steps for each")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  verb->add_option("--seed", a->seed, "of the factors and the random vectors")->capture_default_str();
  verb->add_option("--report", a->report, "HTML report to write");
  verb->add_flag("--json", a->json, "print JSON");
  verb->footer(
      "Examples:\n  unbend lm curvature model.gguf --text book.txt\n"
      "  unbend lm curvature model.gguf --text book.txt --targets q v down --length 128 --report curvature.html\n"
      "  unbend lm curvature model.gguf --adapter student.safetensors --text book.txt --factors both --json");
  verb->callback([a] { curvature(*a); });
}

}  // namespace unbend::cli
