// Study of ReGLA (Lu et al. 2025, arXiv 2502.01578): small language models from scratch with its layer, with each of
// its parts replaced and with what it is compared to; what its gate does in saturation; recall; a converted model; and
// the cost of decoding.
#include <fmt/format.h>
#include <torch/types.h>

#include <chrono>
#include <cmath>
#include <optional>

#include "studies/bytes.h"
#include "studies/curves.h"
#include "studies/recall.h"
#include "studies/smollm2.h"
#include "studies/study.h"
#include "studies/training.h"
#include "unbend/base/error.h"
#include "unbend/lm/evaluate.h"
#include "unbend/lm/regla.h"

namespace unbend {
namespace {

const Json kLinearAttention{{"feature", "relu"}, {"gate", "none"}, {"norm", "none"}, {"denominator", true}};
const Json kFastDecay{{"feature", "none"}, {"gate", "fast_decay"}};

at::Tensor* parameter(lm::Mixer& mixer, const std::string& name) {
  for (const auto& p : mixer.parameters())
    if (p.name == name) return p.tensor;
  return nullptr;
}

// ---- Characters

constexpr std::int64_t kLength = 128;

/// 2 layers, 96 wide, 3 heads of 32, from random weights.
lm::Decoder character_start(const Json& options, bool softmax, std::uint64_t seed) {
  lm::DecoderConfig config;
  config.layers = 2, config.hidden = 96, config.heads = config.kv_heads = 3, config.head_dim = 32, config.ffn = 256;
  config.vocab = 256, config.context = 512;
  Random random(seed);
  const auto decoder = lm::random_decoder(config, .05, .5, random);
  if (softmax) return decoder;
  const auto& recipe = lm::find_recipe("regla");
  return lm::convert(decoder, recipe, lm::recipe_options(recipe, options), seed).decoder;
}

void train_characters(lm::Decoder& decoder, const ByteText& text, std::int64_t steps, std::uint64_t seed,
                      const StudyOptions& study) {
  lm::Stage stage;
  stage.name = "characters";
  stage.steps = steps;
  stage.learning_rate = stage.mixer_learning_rate = 2e-3;
  stage.weight_decay = .01;
  stage.warmup = 100. / static_cast<double>(steps);
  stage.floor = .05;
  const auto source = byte_source(text.training, kLength, 8, seed + 200);
  train_in_study(decoder, decoder, stage, *source, {""}, study);
}

/// 320 windows of held-out bytes.
at::Tensor held_out_windows(const ByteText& text) {
  return text.held_out.unfold(0, kLength + 1, kLength).slice(0, 0, 320).to(at::kLong).contiguous();
}

/// All gates f of the validation's first windows in one row.
at::Tensor gate_values(const lm::Decoder& decoder, const at::Tensor& windows, bool refined) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> all;
  decoder.hidden(windows.slice(0, 0, 32).slice(1, 0, kLength), Form::Chunked,
                 [&](std::int64_t layer, const lm::MixerInput& in, const at::Tensor&) {
                   auto& mixer = *decoder.layers[static_cast<std::size_t>(layer)].mixer;
                   const auto z = at::linear(in.x, *parameter(mixer, "gate_weight"), *parameter(mixer, "gate_bias"));
                   const auto parts = z.chunk(refined ? 2 : 1, -1);
                   all.push_back((refined ? lm::refined_log_gate(parts[0], parts[1]).exp() : z.sigmoid()).flatten());
                 });
  return at::cat(all);
}

void characters(const ByteText& text, const StudyOptions& options, StudyResult& result) {
  const auto windows = held_out_windows(text);
  const auto claim = [&](const std::string& what, double measured, Bar bar, const char* published = "-",
                         const char* unit = "nats") {
    record(result, "characters: " + what, published, measured, unit, bar);
  };
  Table gates{"Gates that start in saturation, after 500 steps (last seed)",
              {"gate", "start of its bias", "nats", "mean |f - f at the start|", "deviation of f"},
              {}};
  for (int s = 1; s <= options.seeds; ++s) {
    const auto seed = static_cast<std::uint64_t>(s);
    // Nats after training; 10 if it diverged.
    const auto trained = [&](const Json& changes, bool softmax = false) {
      auto decoder = character_start(changes, softmax, seed);
      try {
        train_characters(decoder, text, 500, seed, options);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::Computation) throw;
        return 10.;
      }
      const double nats = lm::mean_nats(decoder, windows);
      return std::isfinite(nats) ? nats : 10.;
    };
    const double regla = trained(Json::object());
    claim("ReGLA after 500 steps (512K bytes)", regla, Bar::none());
    claim("ReGLA minus ReLU linear attention", regla - trained(kLinearAttention), Bar::at_most(-.3),
          "perplexity 19.0 against 28.5 (WikiText-103, 160M)");
    if (!options.full) continue;
    claim("ReGLA minus fast decay", regla - trained(kFastDecay), Bar::at_most(-.04), "perplexity 19.0 against 20.8");
    claim("ReGLA minus softmax at 500 steps", regla - trained({}, true), Bar::none());
    claim("neither norm nor denominator, minus ReGLA", trained({{"norm", "none"}}) - regla, Bar::at_least(.1));
    claim("without s, minus ReGLA", trained({{"scale_s", false}}) - regla, Bar::within(0, .03));
    claim("ReGLA minus plain gate (r = 1/2)", regla - trained({{"gate", "sigmoid"}}), Bar::at_most(.01));
    for (const auto& [name, changes] :
         {std::pair<const char*, Json>{"denominator instead of norm", {{"norm", "none"}, {"denominator", true}}},
          {"ReLU features", {{"feature", "relu"}}},
          {"elu + 1 features", {{"feature", "elu1"}}},
          {"key axis", {{"gate_axis", "key"}}},
          {"layer norm", {{"norm", "layer"}}},
          {"Hedgehog features", {{"feature", "hedgehog"}}},
          {"scalar gate", {{"gate", "scalar"}}},
          {"delta rule", {{"gate", "delta"}}},
          {"no gate", {{"gate", "none"}}},
          {"no rotation", {{"rope", false}}}})
      claim(fmt::format("{}, minus ReGLA", name), trained(changes) - regla, Bar::none());

    double best = 0, worst = INFINITY;
    for (const double bias : {6., -6.}) {
      double deviation[2], nats[2];
      for (const bool refined : {true, false}) {
        auto decoder = character_start({{"gate", refined ? "refined" : "sigmoid"}, {"gate_bias", bias}}, false, seed);
        const auto before = gate_values(decoder, windows, refined);
        train_characters(decoder, text, 500, seed, options);
        const auto after = gate_values(decoder, windows, refined);
        deviation[refined] = after.std().item<double>();
        nats[refined] = lm::mean_nats(decoder, windows);
        if (s == options.seeds)
          gates.rows.push_back({refined ? "refined" : "plain", fmt::format("{:+.0f}", bias),
                                fmt::format("{:.3f}", nats[refined]),
                                fmt::format("{:.4f}", (after - before).abs().mean().item<double>()),
                                fmt::format("{:.4f}", deviation[refined])});
      }
      const double ratio = deviation[true] / deviation[false];
      best = std::max(best, ratio), worst = std::min(worst, ratio);
      claim(fmt::format("bias {:+.0f}: refined minus plain gate", bias), nats[true] - nats[false], Bar::at_most(.01));
    }
    claim("deviation of refined over plain gates, better start", best, Bar::at_least(1.3), "gates leave saturation",
          "");
    claim("the same, worse start", worst, Bar::at_least(.9), "-", "");
  }
  if (!options.full) return;
  result.tables.push_back(gates);

  // Softmax needs thousands of steps before it looks back at all.
  const auto longer = [&](const Json& changes, bool softmax) {
    auto decoder = character_start(changes, softmax, 1);
    train_characters(decoder, text, 5000, 1, options);
    return lm::mean_nats(decoder, windows);
  };
  const double softmax = longer({}, true);
  claim("ReGLA minus softmax after 5000 steps (seed 1)", longer(Json::object(), false) - softmax, Bar::none(),
        "perplexity 19.0 against 18.5");
  claim("ReGLA in one of two layers minus softmax after 5000 steps (seed 1)",
        longer({{"keep_every", 2}}, false) - softmax, Bar::none(), "perplexity 17.8 (half of the layers) against 18.5");
}

// ---- Recall

void recall(const StudyOptions& options, StudyResult& result) {
  constexpr std::int64_t kFar = 256 - 32;  // fillers that make 256 tokens
  Curves curves{"Recall, 8 pairs, 32 fillers",
                "query",
                "right answers (%)",
                {1, 2, 3, 4, 5, 6, 7, 8},
                {"1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th"}};
  const auto claim = [&](const std::string& what, double measured, Bar bar, const char* unit = "%") {
    record(result, "recall: " + what, "-", measured, unit, bar.for_each_seed());
  };
  for (int seed = 1; seed <= options.seeds; ++seed) {
    const auto teacher = recall_teacher(seed, options);
    const auto measure = [&](const std::string& name, const lm::Decoder& decoder) {
      const auto accuracy = recall_accuracy(decoder);
      curves.add(name, accuracy.at_query);
      return accuracy.mean();
    };
    const auto student = [&](const Json& changes) {
      return recall_student(teacher, "regla", changes, RecallTraining::Full, seed, options).decoder;
    };
    claim("teacher", measure("teacher", teacher), Bar::at_least(99));
    const auto regla = student(Json::object()), linear = student(kLinearAttention);
    claim("ReGLA", measure("ReGLA", regla), Bar::none());
    claim("ReLU linear attention", measure("ReLU linear attention", linear), Bar::none());
    claim("ReGLA minus ReLU linear attention at 256 tokens (trained on 64)",
          recall_accuracy(regla, kFar).mean() - recall_accuracy(linear, kFar).mean(), Bar::at_least(10), "points");
    claim("teacher minus ReGLA at 256 tokens",
          recall_accuracy(teacher, kFar).mean() - recall_accuracy(regla, kFar).mean(), Bar::none(), "points");
    auto forgetful = regla.fork();
    for (auto& layer : forgetful.layers) parameter(*layer.mixer, "gate_bias")->fill_(-1e3);  // f = 0
    claim("ReGLA, state forgotten at every token", measure("ReGLA, state forgotten", forgetful), Bar::at_most(5));
    claim("ReGLA: logits chunked, recurrent and streamed differ by", streaming_error(regla), Bar::at_most(1e-4), "");
    claim("ReGLA without rotation", measure("ReGLA, no rotation", student({{"rope", false}})), Bar::none());
  }
  result.tables.push_back(curves.table(1));
  result.plots.push_back(curves.plot());
}

// ---- Conversion

void conversion(const ByteText& text, const StudyOptions& options, StudyResult& result) {
  const auto claim = [&](const std::string& what, double measured, Bar bar, const char* unit = "nats") {
    record(result, "conversion: " + what, "-", measured, unit, bar.for_each_seed());
  };
  for (int s = 1; s <= options.seeds; ++s) {
    const auto seed = static_cast<std::uint64_t>(s);
    const auto teacher = byte_teacher(text, seed, options);
    const auto nats = [&](const lm::Decoder& decoder) { return byte_nats(decoder, text).mean().item<double>(); };
    claim("teacher", nats(teacher), Bar::none());
    double after[2];
    for (const bool half : {false, true}) {
      const char* name = half ? "every second layer" : "all layers";
      const auto& recipe = lm::find_recipe("regla");
      auto student = lm::convert(teacher, recipe, lm::recipe_options(recipe, {{"keep_every", half ? 2 : 0}}), seed);
      const double before = nats(student.decoder);
      auto stages = recipe.stages(student.options);
      stages[0].steps = 25, stages[1].steps = 150;  // of 8 x 256 bytes
      stages[1].learning_rate = stages[1].mixer_learning_rate = 1e-3;
      const auto source = byte_source(text.training, 256, 8, seed + 100);
      for (const auto& stage : stages) {
        train_in_study(teacher, student.decoder, stage, *source, {}, options);
        claim(fmt::format("{}, after {}", name, stage.name), after[half] = nats(student.decoder), Bar::none());
      }
      claim(fmt::format("{}: perplexity before over after", name), std::exp(before - after[half]), Bar::at_least(5),
            "");
    }
    claim("every second layer minus all layers", after[true] - after[false], Bar::at_most(0));
  }
}

// ---- Cost of decoding

/// Seconds for 2^6, 2^7, ... 2^13 tokens one by one, and the bytes of the state after each; and the time of the last
/// 256 tokens over that of those from 128 on.
struct Decoding {
  std::vector<double> seconds, bytes;
  double drift = NAN;
};
Decoding decoding(const lm::Decoder& decoder) {
  Decoding result;
  auto state = decoder.start();
  constexpr std::int64_t kLast = 8192, kSpan = 256, kEarly = 128;
  std::vector<double> after{0};  // seconds, by tokens
  const auto begin = std::chrono::steady_clock::now();
  for (std::int64_t t = 1; t <= kLast; ++t) {
    decoder.extend(at::full({1, 1}, t % 256, at::kLong), state);
    after.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (t >= 64 && (t & (t - 1)) == 0) {
      result.seconds.push_back(after.back());
      result.bytes.push_back(static_cast<double>(state.bytes()));
    }
  }
  result.drift = (after[kLast] - after[kLast - kSpan]) / (after[kEarly + kSpan] - after[kEarly]);
  return result;
}

void cost(StudyResult& result) {
  lm::DecoderConfig config;
  config.layers = 6, config.hidden = 256, config.heads = config.kv_heads = 4, config.head_dim = 64, config.ffn = 768;
  config.vocab = 256, config.context = 16384;
  Random random(1);
  const auto softmax = lm::random_decoder(config, .05, .5, random);
  const auto& recipe = lm::find_recipe("regla");
  const auto of = [&](const Json& changes) {
    return decoding(lm::convert(softmax, recipe, lm::recipe_options(recipe, changes), 1).decoder);
  };
  const auto regla = of(Json::object()), fast = of(kFastDecay), attention = decoding(softmax);
  Table table{"Decoding one by one, 6 layers, 256 wide", {"tokens", "ReGLA", "fast decay", "softmax"}, {}};
  for (std::size_t i = 0; i < regla.seconds.size(); ++i)
    table.rows.push_back({std::to_string(64 << i), fmt::format("{:.3f} s", regla.seconds[i]),
                          fmt::format("{:.3f} s", fast.seconds[i]),
                          fmt::format("{:.3f} s, {:.1f} MB", attention.seconds[i], attention.bytes[i] / 1e6)});
  result.tables.push_back(table);
  const auto claim = [&](const std::string& what, double measured, Bar bar, const char* published = "-") {
    record(result, "cost: " + what, published, measured, "", bar);
  };
  const double doublings = static_cast<double>(regla.seconds.size() - 1);
  claim("exponent of time against tokens", std::log2(regla.seconds.back() / regla.seconds.front()) / doublings,
        Bar::within(1, .05), "linear");
  claim("time of a token behind 8192 over that behind 128", regla.drift, Bar::at_most(1.05), "flat");
  claim("state after 8192 tokens over that after 64", regla.bytes.back() / regla.bytes.front(), Bar::within(1, 0),
        "flat");
  claim("time over fast decay's", regla.seconds.back() / fast.seconds.back(), Bar::within(1, .1), "equal");
  claim("softmax: cache after 8192 tokens over that after 64", attention.bytes.back() / attention.bytes.front(),
        Bar::at_least(64));
}

}  // namespace

StudyResult study_regla(const StudyOptions& options) {
  StudyResult result;
  result.slug = "regla";
  result.title = "ReGLA: gated linear attention with safe features, a refined gate and a norm";
  const auto text = king_james_bytes();
  std::optional<SmolLM2> smol;
  if (options.full) smol = open_smollm2(at::kFloat, true);
  characters(text, options, result);
  if (options.full) {
    recall(options, result);
    conversion(text, options, result);
    cost(result);
    add_smollm2(result, *smol, "regla", options, {{"every second layer", {{"keep_every", 2}}}});
  } else {
    result.notes.push_back(
        "quick form: two models of characters; the full form adds parts, recall, conversion, cost and SmolLM2");
  }
  result.notes.push_back(
      "characters: the host is this project's decoder (rotary positions in every contestant, SwiGLU), on the text with "
      "its verse labels, every sixteenth block of 64 KiB held out; the rate falls along a cosine; gates act along the "
      "value axis");
  if (options.full)
    result.notes.push_back(
        "conversion: judged on a teacher of bytes that is trained here, at a rate of 1e-3 instead of the recipe's 1e-4 "
        "(150 steps); SmolLM2 with all layers and with half of them converted is reported without bars");
  return result;
}

}  // namespace unbend
