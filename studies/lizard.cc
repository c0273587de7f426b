// Study of Lizard (Nguyen et al. 2025, arXiv 2507.09025): what a learned gate, a window with a meta memory and a stage
// of transfer give, on a recall task and on the bytes of a book, in the paper's form and in ours ("recommended").
#include <fmt/format.h>
#include <torch/types.h>

#include <map>
#include <optional>

#include "studies/bytes.h"
#include "studies/curves.h"
#include "studies/decoding.h"
#include "studies/gauge_table.h"
#include "studies/recall.h"
#include "studies/smollm2.h"
#include "studies/study.h"
#include "studies/training.h"
#include "unbend/attention/gated_scan.h"
#include "unbend/lm/evaluate.h"

namespace unbend {
namespace {

const Json kRecommended{{"preset", "recommended"}};

// ---- Recall

void recall(const StudyOptions& options, StudyResult& result) {
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
    const auto measure = [&](const std::string& name, const lm::Decoder& decoder, std::int64_t fillers = 32) {
      const auto accuracy = recall_accuracy(decoder, fillers);
      curves.add(name, accuracy.at_query);
      return accuracy.mean();
    };
    const auto student = [&](const std::string& name, const Json& changes, double least) {
      const auto lizard = recall_student(teacher, "lizard", changes, RecallTraining::Lora, seed, options);
      claim(name, measure(name, lizard.decoder), Bar::at_least(least));
      const auto zeroed = lm::with_options(lizard, {{"branches", "anchor"}});
      claim(name + ", state zeroed", measure(name + ", state zeroed", zeroed.decoder), Bar::at_most(5));
      claim(name + ", state zeroed: change of its logits with the stored values", stored_value_effect(zeroed.decoder),
            Bar::at_most(0), "");
      claim(name + ": logits chunked, recurrent and streamed differ by", streaming_error(lizard.decoder),
            Bar::at_most(1e-4), "");
      for (const auto& [times, fillers] : {std::pair{2, 96}, {4, 224}})  // tokens: 8 pairs, fillers, 8 queries
        claim(fmt::format("{} at {} times the trained length", name, times),
              measure(fmt::format("{}, {} times as long", name, times), lizard.decoder, fillers), Bar::none());
    };
    claim("teacher", measure("teacher", teacher), Bar::at_least(99));
    student("recommended preset, LoRA", kRecommended, 97);
    if (!options.full) continue;
    student("paper preset without its first stage, LoRA", Json::object(), 92);
    const std::string name = "window with meta memory only, LoRA";
    const auto window =
        recall_student(teacher, "lizard", {{"branches", "anchor"}}, RecallTraining::Lora, seed, options);
    claim(name, measure(name, window.decoder), Bar::at_most(5));
  }
  result.tables.push_back(curves.table(1));
  result.plots.push_back(curves.plot());
  result.notes.push_back(
      "recall: chance is 3.1 %; a model that knows which values occur, but not to which keys they belong, reaches 38.7 "
      "%");
}

// ---- Bytes

lm::Stage transfer_stage(std::int64_t steps, double rate) {
  lm::Stage stage;
  stage.kind = lm::Stage::Kind::Transfer;
  stage.name = "transfer";
  stage.steps = steps;
  stage.mixer_learning_rate = rate;
  stage.beta2 = .99;
  stage.mse_scale = 1;
  stage.clip = 0;
  return stage;
}

lm::Stage lora_stage() {
  lm::Stage stage;
  stage.name = "lora";
  stage.steps = 50;
  stage.learning_rate = stage.mixer_learning_rate = 5e-4;
  stage.beta2 = .99;
  return stage;
}

struct Run {
  const char* name;
  const char* recipe;
  Json changes;
  std::int64_t transfer_steps;
  double transfer_rate;
  bool once = false;  // with one seed: no bar hangs on it
};

struct Outcome {
  double error_before, error, transferred, nats;
  lm::Student student;
};

/// Mean squared error of the student's heads on the teacher's inputs over the variance of the teacher's heads, all
/// layers together, on 8 x 256 training bytes.
double head_error(const lm::Decoder& teacher, const lm::Decoder& student, const ByteText& text) {
  const at::NoGradGuard no_grad;
  double error = 0, variance = 0;
  teacher.hidden(byte_source(text.training, 256, 8, 1)->next().ids, Form::Chunked,
                 [&](std::int64_t layer, const lm::MixerInput& input, const at::Tensor& heads) {
                   const auto& mixer = *student.layers[static_cast<std::size_t>(layer)].mixer;
                   error += (mixer.forward(input, Form::Chunked) - heads).square().mean().item<double>();
                   variance += heads.var(false).item<double>();
                 });
  return error / variance;
}

/// Loss of the validation bytes in sequences of `length`: each byte is predicted once, but for the rest of a sequence.
double nats_at(const lm::Decoder& decoder, const ByteText& text, std::int64_t length) {
  const auto rows = text.validation;
  const auto stream = at::cat({rows.slice(1, 0, -1).flatten(), rows[-1].slice(0, -1)});
  return lm::mean_nats(decoder, stream.unfold(0, length + 1, length).contiguous());
}

const std::vector<Run>& runs() {
  constexpr double kRate = 1e-2;
  static const std::vector<Run> all{
      {"paper preset", "lizard", Json::object(), 60, kRate},
      {"240 steps of transfer", "lizard", Json::object(), 240, kRate},
      {"the paper's rate of transfer", "lizard", Json::object(), 60, 1e-3},
      {"no transfer", "lizard", Json::object(), 0, kRate},
      {"no gate", "lizard", {{"gate", "none"}}, 60, kRate},
      {"no window", "lizard", {{"branches", "gate"}}, 60, kRate},
      {"rotary positions in the window", "lizard", {{"window_rope", true}}, 60, kRate},
      {"gate of Mamba-2", "lizard", {{"gate", "mamba2"}}, 60, kRate, true},
      {"gate of GLA", "lizard", {{"gate", "gla"}}, 60, kRate, true},
      {"gate from pooled keys", "lizard", {{"gate", "pooling"}}, 60, kRate, true},
      {"recommended preset", "lizard", kRecommended, 60, kRate},
      {"LoLCATs' layer", "lolcats", {{"lora_targets", {"q", "k", "v"}}}, 60, kRate},
  };
  return all;
}

/// All runs of one seed; their figures go to `table`, those of the mixers to `gauges`.
void bytes_of_seed(const ByteText& text, int seed, const StudyOptions& study, StudyResult& result, Table& table,
                   Table& gauges) {
  const auto claim = [&](const std::string& what, const char* published, double measured, Bar bar,
                         const char* unit = "nats") {
    record(result, "bytes: " + what, published, measured, unit, bar.for_each_seed());
  };
  const auto teacher = byte_teacher(text, seed, study);
  claim("teacher", "-", byte_nats(teacher, text).mean().item<double>(), Bar::none());
  std::map<std::string, Outcome> all;
  for (const auto& run : runs()) {
    if (run.once && seed > 1) continue;
    auto student = byte_student(teacher, text, run.recipe, run.changes, 0, seed, study);
    const auto source = byte_source(text.training, 256, 8, static_cast<std::uint64_t>(seed) + 100);
    const double before = head_error(teacher, student.decoder, text);
    if (run.transfer_steps > 0)
      train_in_study(teacher, student.decoder, transfer_stage(run.transfer_steps, run.transfer_rate), *source, {},
                     study);
    const double after = head_error(teacher, student.decoder, text);
    const double transferred = byte_nats(student.decoder, text).mean().item<double>();
    train_in_study(teacher, student.decoder, lora_stage(), *source, {}, study);
    const double nats = byte_nats(student.decoder, text).mean().item<double>();
    table.rows.push_back({run.name, fmt::format("{}", seed), fmt::format("{:.3f}", before),
                          fmt::format("{:.3f}", after), fmt::format("{:.3f}", transferred),
                          fmt::format("{:.3f}", nats)});
    if (seed == 1 && run.recipe == std::string("lizard") && run.changes.value("gate", "") != "none" &&
        run.changes.value("branches", "") != "gate")
      add_gauges(gauges, run.name, student.decoder, text.validation.slice(0, 0, 8).slice(1, 0, -1));
    all.emplace(run.name, Outcome{before, after, transferred, nats, std::move(student)});
  }
  const auto &paper = all.at("paper preset"), &longer = all.at("240 steps of transfer"),
             &recommended = all.at("recommended preset");
  claim("no gate, minus the paper preset", "MMLU 42.2 without, 61.2 with (Llama-3-8B)",
        all.at("no gate").nats - paper.nats, Bar::at_least(.2));
  claim("paper preset: fall of its heads' error in 60 steps of transfer", "-",
        100 * (1 - paper.error / paper.error_before), Bar::at_least(45), "%");
  claim("paper preset, 60 steps of transfer and 50 of LoRA", "-", paper.nats, Bar::at_most(2.4));
  claim("paper preset, 240 steps of transfer: error of its heads", "-", longer.error, Bar::at_most(.3), "");
  claim("paper preset, 240 steps of transfer and 50 of LoRA", "-", longer.nats, Bar::at_most(1.7));
  claim("no transfer, minus 240 steps of it", "MMLU 50.8 without, 61.2 with (Llama-3-8B)",
        all.at("no transfer").nats - longer.nats, Bar::at_least(.4));
  claim("recommended preset: error of its heads after transfer", "-", recommended.error, Bar::at_most(.1), "");
  claim("recommended preset", "-", recommended.nats, Bar::at_most(1.4));
  claim("paper preset minus recommended preset", "-", paper.nats - recommended.nats, Bar::at_least(.5));
  if (seed == 1)
    for (const auto& [name, published] : {std::pair{"gate of Mamba-2", "MMLU 57.6 with it, 61.2 with Lizard's"},
                                          {"gate of GLA", "MMLU 53.5 with it, 61.2 with Lizard's"},
                                          {"gate from pooled keys", "MMLU 44.1 with it, 61.2 with Lizard's"}})
      claim(fmt::format("{}, minus the paper preset (one seed)", name), published, all.at(name).nats - paper.nats,
            Bar::none());
  claim("no window, minus the paper preset", "MMLU 39.7 without, 61.2 with (Llama-3-8B)",
        all.at("no window").nats - paper.nats, Bar::none());
  claim("240 steps of transfer, at 4 times the trained length minus at that length", "-",
        nats_at(longer.student.decoder, text, 1024) - nats_at(longer.student.decoder, text, 256), Bar::at_most(.1));
}

void bytes(const ByteText& text, const StudyOptions& options, StudyResult& result) {
  Table table{"Bytes of the King James Bible (nats per byte; window 16, sequences of 256)",
              {"run", "seed", "relative error of heads before", "after transfer", "nats after transfer", "after LoRA"},
              {}},
      gauges{"Gates and branches after LoRA, by layer", {}, {}};
  for (int seed = 1; seed <= options.seeds; ++seed) bytes_of_seed(text, seed, options, result, table, gauges);
  result.tables.push_back(table);
  result.tables.push_back(gauges);
  result.notes.push_back(
      "bytes: the window of the paper knows no positions. At this scale it hurts first, and training turns it off "
      "(alpha falls); that the paper finds it essential is not reproduced");
}

// ---- Cost

void cost(StudyResult& result) {
  const at::NoGradGuard no_grad;
  const auto claim = [&](const std::string& what, const char* published, double measured, Bar bar, const char* unit) {
    record(result, "cost: " + what, published, measured, unit, bar);
  };
  const auto x = at::rand({3, 1, 8, 2048, 64});
  const auto gates = at::full({1, 8, 2048, 64}, -.05);
  const auto scalar = shortest_seconds(5, [&] { gated_scan(x[0], x[1], x[2], gates.narrow(3, 0, 1)); });
  const auto vector = shortest_seconds(5, [&] { gated_scan(x[0], x[1], x[2], gates); });
  claim("gate per channel over gate per token (8 heads, 2,048 tokens, width 64)",
        "1.32 to 1.36 times as long forward (A100)", vector / scalar, Bar::at_least(1.3), "times");
  result.notes.push_back(
      "cost: on CPUs our kernel puts gates into rescaled queries and keys, as the paper does, for gates per channel "
      "too; so there they cost no more than gates per token, and the paper's gain over them has nothing to gain. On an "
      "H100 gates per channel do cost more than gates per token with our kernels: docs/benchmarks.md has the table");
  result.notes.push_back(
      "cost: decoding and reading are judged on 4 layers with a vocabulary of 256, so the head is all but left out; "
      "that speed and memory are constant from 1K to 32K tokens is not judged at a model's full size here (the "
      "engine's comparison with softmax is)");

  lm::DecoderConfig config;
  config.layers = 4, config.hidden = 576, config.heads = 9, config.kv_heads = 3, config.head_dim = 64;  // SmolLM2's
  config.ffn = 1536, config.vocab = 256, config.context = 65536;
  Random random(1);
  const auto teacher = lm::random_decoder(config, 1, .5, random);
  const auto student = untrained_student(teacher, "lizard");
  const std::vector<std::int64_t> contexts{1024, 4096, 32768};
  const auto speeds = decoding_speeds(teacher, student, contexts, 100, 3);  // others use this machine too
  result.tables.push_back(decoding_table(
      "Decoding, 4 layers of SmolLM2-135M's shape, random weights and contents, float32", "Lizard", speeds));
  const auto &of_student = speeds.student, &of_teacher = speeds.softmax;
  const auto ids = at::randint(256, {1, 8192}, at::kLong);
  const auto prefill = [&](std::int64_t tokens) {
    return shortest_seconds(5, [&] { student.hidden(ids.slice(1, 0, tokens)); });
  };
  claim("time of a text of 8K tokens over that of 4K", "linear in length", prefill(8192) / prefill(4096),
        Bar::at_most(2.2), "times");
  claim("decoding after 32K tokens over that after 1K", "constant from 1K to 32K",
        of_student[2].tokens_per_second / of_student[0].tokens_per_second, Bar::at_least(.95), "times");
  claim("growth of its peak resident memory from 1K to 32K tokens", "constant", resident_growth(speeds),
        Bar::at_most(8), "MB");
  for (const auto& [i, least] : {std::pair{1, 1}, {2, 5}})
    claim(fmt::format("decoding after {} tokens over the teacher's", contexts[i]), "-",
          of_student[i].tokens_per_second / of_teacher[i].tokens_per_second, Bar::at_least(least), "times");
}

}  // namespace

StudyResult study_lizard(const StudyOptions& options) {
  StudyResult result;
  result.slug = "lizard";
  result.title = "Lizard: linear attention with a learned gate beside a window with a meta memory";
  // What is missing is said before the first minute of training.
  std::optional<ByteText> text;
  std::optional<SmolLM2> smol;
  if (options.full) text = king_james_bytes(), smol = open_smollm2(at::kBFloat16, true);
  recall(options, result);
  if (!options.full) {
    result.notes.push_back(
        "quick form: recall of the recommended preset; the full form adds the paper's, bytes, cost, SmolLM2");
    return result;
  }
  bytes(*text, options, result);
  cost(result);
  add_decoding(result, *smol, "lizard", "Lizard");
  add_smollm2(result, *smol, "lizard", options);
  return result;
}

}  // namespace unbend
