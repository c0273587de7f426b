// CompleteP on text (C): transformers of several depths, learning rates that should transfer.
#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>

#include "studies/bytes.h"
#include "studies/completep.h"
#include "studies/parameterization.h"

namespace unbend {
namespace {

constexpr NetworkSize kBase{64, 2, 64};
constexpr int64_t kContext = 128, kRows = 32, kSteps = 300;
constexpr int kSeeds = 2;

}  // namespace

void study_completep_text(StudyResult& result, const StudyOptions& options) {
  const auto bytes = king_james_bytes().training;
  const auto text = character_text(
      {reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()), static_cast<std::size_t>(bytes.numel())});
  const auto family = transformer_family(
      {.vocabulary = std::ssize(text.alphabet), .context = kContext, .width = 64, .depth = 2, .heads = 1}, kBase);
  const auto batches = [&](uint64_t seed) { return character_windows(text, kContext, kRows, seed); };
  const TrainingPlan plan{.steps = kSteps, .tail = 20, .warmup = .1, .floor = .1, .clip = 1};
  const auto sweep = [&](const char* name, const std::vector<NetworkSize>& sizes, const std::vector<double>& rates) {
    return transfer_sweep(family, sizes, rates, {}, find_parameterization(name), batches, plan, kSeeds, options.quiet);
  };
  std::vector<double> rates;
  for (int exponent = -5; exponent >= -12; --exponent) rates.push_back(std::exp2(exponent));

  const auto complete = sweep("completep", {{64, 2, 64}, {64, 8, 64}, {64, 32, 64}}, rates);
  const double tuned = rates[complete.best(0)];
  const auto mup = sweep("mup", {{64, 32, 64}}, {tuned});  // at the base depth they are the same network
  const std::string where = fmt::format("King James Bible, {} characters, depth 32", text.alphabet.size());
  record(result, where + ": loss with the rate of depth 2 over the best, completep", "flat optimum (figure 2)",
         complete.transferred(2, 0), "", Bar::at_most(1.01));
  record(result, where + ": loss with the rate of depth 2, completep minus mup", "below 0",
         complete.means(2)[complete.best(0)] - mup.means(0)[0], "nats", Bar::at_most(0));
  record(result, where + ": factors of 2 between the best rates of depths 2 and 32, completep", "0",
         std::abs(std::log2(rates[complete.best(2)] / tuned)), "", Bar::none());
  result.tables.push_back(transfer_table(complete, "Loss over learning rates, King James Bible, completep"));
  result.tables.push_back(transfer_table(mup, "Loss at the rate of depth 2, King James Bible, mup"));
  result.plots.push_back(transfer_plot(complete, "Loss over learning rates, King James Bible, completep"));
  result.notes.push_back(
      fmt::format("text: width 64, one head, context {}, {} sequences, {} steps with 10 % warm-up and a cosine to "
                  "1/10, {} seeds; the "
                  "paper trains on 300M tokens and more, on accelerators",
                  kContext, kRows, kSteps, kSeeds));
}

}  // namespace unbend
