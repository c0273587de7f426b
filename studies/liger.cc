// Study of Liger (Lan et al. 2025, arXiv 2503.01496): what a window of softmax and a gated recurrence with gates from
// the pretrained keys keep of a teacher, on a recall task, on the bytes of a book, and on SmolLM2-135M-Instruct.
#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>
#include <optional>

#include "studies/bytes.h"
#include "studies/curves.h"
#include "studies/decoding.h"
#include "studies/recall.h"
#include "studies/smollm2.h"
#include "studies/study.h"
#include "unbend/lm/evaluate.h"

namespace unbend {
namespace {

// ---- Recall

double largest_difference(const lm::Decoder& a, const lm::Decoder& b, std::int64_t tokens) {
  const at::NoGradGuard no_grad;
  const auto ids = at::arange(4 * tokens).remainder(a.config.vocab).view({4, tokens});
  return (a.logits(a.hidden(ids)) - b.logits(b.hidden(ids))).abs().max().item<double>();
}

/// Liger's peers on the same task by the same training: LoLCATs' layer, and its maps alone (Hedgehog), which are
/// LAWCAT's without convolution and gate, after rotation and with own maps for queries and keys.
void peers(const lm::Decoder& teacher, int seed, const StudyOptions& options, Curves& curves, StudyResult& result) {
  const auto student = [&](const char* recipe, Json changes) {
    changes["lora_targets"] = {"q", "k", "v"};
    return recall_student(teacher, recipe, changes, RecallTraining::Lora, seed, options);
  };
  const auto judge = [&](const std::string& name, const lm::Decoder& decoder, Bar bar) {
    const auto accuracy = recall_accuracy(decoder);
    curves.add(name, accuracy.at_query);
    record(result, "recall: " + name, "-", accuracy.mean(), "%", bar.for_each_seed());
  };
  const auto lolcats = student("lolcats", Json::object());
  judge("LoLCATs, LoRA", lolcats.decoder, Bar::at_least(97));
  const auto zeroed = lm::with_options(lolcats, {{"linear", false}});
  judge("LoLCATs, LoRA, linear part switched off", zeroed.decoder, Bar::at_most(5));
  record(result, "recall: LoLCATs, LoRA, linear part switched off: change of its logits with the stored values", "-",
         stored_value_effect(zeroed.decoder), "", Bar::at_most(0).for_each_seed());
  const Json hedgehog{{"conv", false}, {"gate", false}, {"rope_student", true}, {"tie_qk", false}};
  judge("Hedgehog (softmax maps), LoRA", student("lawcat", hedgehog).decoder, Bar::at_least(97));
}

void recall(const StudyOptions& options, StudyResult& result) {
  Curves curves{"Recall, 8 pairs, 32 fillers",
                "query",
                "right answers (%)",
                {1, 2, 3, 4, 5, 6, 7, 8},
                {"1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th"}};
  const auto claim = [&](const std::string& what, double measured, Bar bar, const char* unit = "%",
                         const char* published = "-") {
    record(result, "recall: " + what, published, measured, unit, bar.for_each_seed());
  };
  for (int seed = 1; seed <= options.seeds; ++seed) {
    const auto teacher = recall_teacher(seed, options);
    const auto measure = [&](const std::string& name, const lm::Decoder& decoder, std::int64_t fillers = 32) {
      const auto accuracy = recall_accuracy(decoder, fillers);
      curves.add(name, accuracy.at_query);
      return accuracy;
    };
    const auto student = [&](const Json& changes, RecallTraining training) {
      return recall_student(teacher, "liger", changes, training, seed, options);
    };
    claim("teacher", measure("teacher", teacher).mean(), Bar::at_least(99));

    const auto wide = lm::find_recipe("liger");
    const auto exact = lm::convert(
        teacher, wide,
        lm::recipe_options(wide, {{"window", 64}, {"mix_linear", 0.}, {"mix_window", 1.}, {"lora_rank", 0}}), seed);
    claim("window over everything, no recurrence: largest logit difference to the teacher",
          largest_difference(exact.decoder, teacher, 64), Bar::at_most(1e-5), "");

    const Json window_only{{"mix_linear", 0.}, {"mix_window", 1.}};
    for (const auto training : {RecallTraining::Lora, RecallTraining::Full}) {
      if (training == RecallTraining::Lora && !options.full) continue;
      const std::string name = training == RecallTraining::Lora ? "window only, LoRA" : "window only, full";
      const auto window = student(window_only, training);
      claim(name, measure(name, window.decoder).mean(), Bar::at_most(5));
      claim(name + ": change of its logits with the stored values", stored_value_effect(window.decoder),
            Bar::at_most(0), "");
    }
    for (const auto training : {RecallTraining::Lora, RecallTraining::Full}) {
      const bool lora = training == RecallTraining::Lora;
      const std::string name = lora ? "Liger-GLA, LoRA" : "Liger-GLA, full";
      const auto liger = student({}, training);
      const auto accuracy = measure(name, liger.decoder);
      claim(name, accuracy.mean(), Bar::at_least(lora ? 55 : 90));
      claim(name + ", worst query", accuracy.lowest(), Bar::at_least(lora ? 50 : 85));
      claim(name + ", recurrence zeroed",
            measure(name + ", recurrence zeroed", lm::with_options(liger, {{"mix_linear", 0.}}).decoder).mean(),
            Bar::at_most(5));
      claim(name + ", 64 fillers (96 tokens, trained on 64)", measure(name + ", 64 fillers", liger.decoder, 64).mean(),
            Bar::at_least(lora ? 55 : 90));
      claim(name + ": logits chunked, recurrent and streamed differ by", streaming_error(liger.decoder),
            Bar::at_most(1e-4), "");
    }
    if (options.full) peers(teacher, seed, options, curves, result);
    const std::string broken = "gate without the 1/16 (broken on purpose), full";
    claim(broken, measure(broken, student({{"gate_logit_normalizer", 1.}}, RecallTraining::Full).decoder).mean(),
          Bar::at_most(25));
  }
  result.tables.push_back(curves.table(1));
  result.plots.push_back(curves.plot());
  result.notes.push_back(
      "recall: chance is 3.1 %; a model that knows which values occur, but not to which keys they belong, reaches 38.7 "
      "% (20.8 % at the first query)");
}

void variants(const StudyOptions& options, StudyResult& result) {
  struct Variant {
    const char* name;
    Json changes;
  };
  const std::vector<Variant> all{{"GLA (Liger)", Json::object()},
                                 {"HGRN2", {{"variant", "hgrn2"}}},
                                 {"GSA", {{"variant", "gsa"}}},
                                 {"Mamba2", {{"variant", "mamba2"}}},
                                 {"mLSTM", {{"variant", "mlstm"}}},
                                 {"RWKV6", {{"variant", "rwkv6"}}},
                                 {"Gated DeltaNet (ours)", {{"variant", "gated_deltanet"}}},
                                 {"gate from q", {{"gate_source", "q"}}},
                                 {"gate from v", {{"gate_source", "v"}}},
                                 {"gate from a trained projection", {{"gate_source", "projection"}}},
                                 {"learned feature maps", {{"feature_map", "learned"}}},
                                 {"no gate", {{"gate", false}}},
                                 {"no window", {{"mix_linear", 1.}, {"mix_window", 0.}}}};
  Table table{"Recall of the variants (one seed, no bars): right answers (%)",
              {"variant", "LoRA", "LoRA, worst query", "full", "full, worst query"},
              {}};
  const auto teacher = recall_teacher(1, options);
  for (const auto& [name, changes] : all) {
    table.rows.push_back({name});
    for (const auto training : {RecallTraining::Lora, RecallTraining::Full}) {
      const auto accuracy = recall_accuracy(recall_student(teacher, "liger", changes, training, 1, options).decoder);
      table.rows.back().insert(table.rows.back().end(),
                               {fmt::format("{:.1f}", accuracy.mean()), fmt::format("{:.1f}", accuracy.lowest())});
    }
  }
  result.tables.push_back(table);
}

// ---- Bytes

void bytes(const ByteText& text, const StudyOptions& options, StudyResult& result) {
  const std::vector<std::int64_t> edges{
      0, 16, 32, 64, 128, 192, 256};  // from 64 = 4 windows on only a memory beyond the window can help
  Curves curves{"Bytes of the King James Bible after 50 steps", "position", "nats per byte", {}};
  for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
    curves.x.push_back(static_cast<double>(edges[i] + edges[i + 1]) / 2);
    curves.points.push_back(fmt::format("{}-{}", edges[i], edges[i + 1] - 1));
  }
  const auto claim = [&](const std::string& what, const char* published, double measured, Bar bar,
                         const char* unit = "nats") {
    record(result, "bytes: " + what, published, measured, unit, bar.for_each_seed());
  };
  for (int seed = 1; seed <= options.seeds; ++seed) {
    const auto teacher = byte_teacher(text, seed, options);
    const auto nats = [&](const std::string& name, const lm::Decoder& decoder) {
      const auto all = byte_nats(decoder, text);
      std::vector<double> curve;
      for (std::size_t i = 0; i + 1 < edges.size(); ++i)
        curve.push_back(lm::mean_over(all, edges[i], edges[i + 1]).mean);
      curves.add(name, curve);
      return all.mean().item<double>();
    };
    const auto student = [&](const std::string& name, const std::string& recipe, const Json& changes,
                             std::int64_t steps) {
      return nats(name, byte_student(teacher, text, recipe, changes, steps, seed, options).decoder);
    };
    const double of_teacher = nats("teacher", teacher);
    const double control = student("teacher + LoRA", "window", {{"window", 256}}, 50);
    const double before = student("Liger, untrained", "liger", {}, 0);
    const double liger = student("Liger", "liger", {}, 50);
    const double no_gate = student("no gate", "liger", {{"gate", false}}, 50);
    const double no_window = student("no window", "liger", {{"mix_linear", 1.}, {"mix_window", 0.}}, 50);
    const double window_only = student("window only", "liger", {{"mix_linear", 0.}, {"mix_window", 1.}}, 50);
    const double longer = student("Liger, 800 steps", "liger", {}, 800);
    const auto recovered = [&](double after) { return 100 * (before - after) / (before - of_teacher); };
    claim("teacher", "-", of_teacher, Bar::none());
    claim("teacher + LoRA minus teacher", "-", control - of_teacher, Bar::within(0, .03));
    claim("Liger before training", "-", before, Bar::none());
    claim("Liger after 50 steps (102K tokens)", "-", liger, Bar::at_most(1.70));
    claim("part of the gap that it recovers", "72.4 of 73.0 points on 5 tasks after 20M tokens (Llama-3-8B)",
          recovered(liger), Bar::at_least(70), "%");
    claim("no gate, minus Liger", "validation perplexity 3.00 against 2.96 (Llama-3-8B)", no_gate - liger,
          Bar::at_least(.30));
    claim("no window, minus Liger", "validation perplexity 3.75 against 2.96 (Llama-3-8B)", no_window - liger,
          Bar::at_least(1));
    claim("window only, minus Liger", "validation perplexity 3.01 against 2.96 (Llama-3-8B)", window_only - liger,
          Bar::none());
    claim("Liger after 800 steps (1.64M tokens)", "-", longer, Bar::at_most(1.35));
    claim("part of the gap recovered then", "-", recovered(longer), Bar::at_least(95), "%");
  }
  result.tables.push_back(curves.table(3));
  result.plots.push_back(curves.plot());
  result.notes.push_back(
      "bytes: window 16 in sequences of 256; the window alone is nearly the teacher on this text, so nats show that a "
      "conversion works, not that "
      "its recurrence remembers (recall shows that)");
}

// ---- Cost

void cost(const SmolLM2& smol, StudyResult& result) {
  add_float_decoding(result, "liger", "Liger");
  const at::NoGradGuard no_grad;
  const auto student = untrained_student(smollm2_shape(), "liger");
  const double chunked = reading_seconds(student, 2048), token_by_token = reading_seconds(student, 2048, 1);
  record(result, "cost: time to read 2048 tokens one by one over that in chunks", "-", token_by_token / chunked,
         "times", Bar::at_least(5));
  add_decoding(result, smol, "liger", "Liger");
}

}  // namespace

StudyResult study_liger(const StudyOptions& options) {
  StudyResult result;
  result.slug = "liger";
  result.title = "Liger: half gated linear recurrence, half window, gates from the pretrained keys";
  // What is not installed is said before the first minute of training.
  std::optional<SmolLM2> smol;
  std::optional<ByteText> text;
  if (options.full) smol = open_smollm2(at::kBFloat16, true), text = king_james_bytes();
  recall(options, result);
  if (!options.full) {
    result.notes.push_back(
        "quick form: recall only; the full form adds variants, bytes, the cost of decoding and SmolLM2");
    return result;
  }
  variants(options, result);
  bytes(*text, options, result);
  cost(*smol, result);
  add_smollm2(result, *smol, "liger", options);
  return result;
}

}  // namespace unbend
