// CompleteP on text (C): transformers of several depths, learning rates that should transfer.
#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>

#include "studies/bytes.h"
#include "studies/completep.h"
#include "studies/kept.h"
#include "studies/parameterization.h"
#include "unbend/lm/text.h"

namespace unbend {
namespace {

constexpr NetworkSize kBase{64, 2, 64};
constexpr int64_t kContext = 128, kRows = 32, kSteps = 300;
constexpr int kSeeds = 2;

struct Corpus {
  std::string name;
  CharacterText text;
  int64_t deepest;
  bool judged;
};

void transfer(StudyResult& result, const Corpus& corpus, const StudyOptions& study) {
  const auto& [name, text, deepest, judged] = corpus;
  const auto family = transformer_family(
      {.vocabulary = std::ssize(text.alphabet), .context = kContext, .width = 64, .depth = 2, .heads = 1}, kBase);
  const TrainingPlan plan{.steps = kSteps, .tail = 20, .warmup = .1, .floor = .1, .clip = 1};
  const auto sweep = [&](const char* parameterization, std::vector<NetworkSize> sizes,
                         const std::vector<double>& rates) {
    return transfer_sweep(
        family, sizes, rates, {}, find_parameterization(parameterization),
        [&](uint64_t seed) { return character_windows(text, kContext, kRows, seed); }, plan, kSeeds, study.quiet,
        study.kept ? study.kept->next() : std::filesystem::path());
  };
  std::vector<double> rates;
  for (int exponent = -5; exponent >= -12; --exponent) rates.push_back(std::exp2(exponent));
  std::vector<NetworkSize> sizes;
  for (int64_t depth = 2; depth <= deepest; depth *= 4) sizes.push_back({64, depth, 64});
  const auto complete = sweep("completep", sizes, rates);
  const std::size_t last = sizes.size() - 1, tuned = complete.best(0);
  const auto mup = sweep("mup", {sizes[last]}, {rates[tuned]});  // at the base depth they are the same network
  const auto where = fmt::format("{}, {} characters, depth {}", name, text.alphabet.size(), deepest);
  const auto bar = [&](double most) { return judged ? Bar::at_most(most) : Bar::none(); };
  record(result, where + ": loss with the rate of depth 2 over the best, completep", "flat optimum (figure 2)",
         complete.transferred(last, 0), "", bar(1.01));
  record(result, where + ": loss with the rate of depth 2, completep minus mup", "below 0",
         complete.means(last)[tuned] - mup.means(0)[0], "nats", bar(0));
  record(result, where + ": factors of 2 between the best rates of this depth and of 2, completep", "0",
         std::abs(std::log2(rates[complete.best(last)] / rates[tuned])), "", Bar::none());
  const auto title = fmt::format("Loss over learning rates, {}, completep", name);
  result.tables.push_back(transfer_table(complete, title));
  result.tables.push_back(transfer_table(mup, fmt::format("Loss at the rate of depth 2, {}, mup", name)));
  result.plots.push_back(transfer_plot(complete, title));
}

/// What this project says of itself, in Markdown.
CharacterText own_documentation() {
  std::string all;
  for (const auto& document : lm::read_texts({"docs", "README.md", "CONTRIBUTING.md", "unbend/README.md"}))
    all += document.text + "\n";
  return character_text(all);
}

}  // namespace

void study_completep_text(StudyResult& result, const StudyOptions& options) {
  const auto bytes = king_james_bytes().training;
  const auto bible = character_text(
      {reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()), static_cast<std::size_t>(bytes.numel())});
  transfer(result, {"King James Bible", bible, 32, true}, options);
  transfer(result, {"own documentation", own_documentation(), 8, false}, options);
  result.notes.push_back(fmt::format(
      "text: width 64, one head, context {}, {} sequences, {} steps with 10 % warm-up and a cosine to 1/10, {} seeds; "
      "the paper trains on 300M tokens and more; the check at width 256, depths to 64 and 2,000 steps, which wants an "
      "accelerator, has not been run",
      kContext, kRows, kSteps, kSeeds));
}

}  // namespace unbend
