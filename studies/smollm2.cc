#include "studies/smollm2.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>

#include "studies/training.h"
#include "unbend/base/error.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/contest.h"
#include "unbend/lm/evaluate.h"

namespace unbend {

std::filesystem::path build_folder() {
  const char* folder = std::getenv("UNBEND_BUILD_DIR");
  return folder && *folder ? folder : "build";
}

SmolLM2 open_smollm2(at::ScalarType type, bool need_training_text) {
  const auto model = build_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  require(std::filesystem::exists(model),
          "{}: not there; run tools/setup.sh model in the project's folder and start from there", model.string());
  auto file = engine::Gguf::open(model);
  const auto hash = lm::tokenizer_hash(file);
  const auto windows = lm::load_windows(build_folder().parent_path() / "data" / "heldout_docs.safetensors", hash);
  at::Tensor short_docs, long_docs;
  for (const auto& [name, rows] : windows)
    (rows.at(0).size() <= 512 ? short_docs : long_docs) = lm::window_tensor(rows);
  std::shared_ptr<const lm::TokenFile> training;
  const auto texts = build_folder() / "texts" / "train.tokens.safetensors";
  require(!need_training_text || std::filesystem::exists(texts), "{}: not there; run tools/texts.sh", texts.string());
  if (std::filesystem::exists(texts)) training = std::make_shared<lm::TokenFile>(lm::load_tokens(texts, hash));
  auto teacher = lm::load_decoder(file, type);
  return {std::move(file), engine::Tokenizer::load(model), std::move(teacher), short_docs, long_docs, training};
}

void add_smollm2(StudyResult& result, const SmolLM2& smol, const std::string& recipe, const StudyOptions& study,
                 const std::vector<SmolLM2Variant>& variants) {
  constexpr std::int64_t kTokens = 16384, kLongTexts = 4;
  lm::ContestOptions contest;
  contest.recipes = {recipe}, contest.window = 64, contest.sinks = 4;
  lm::BatchOptions batch;
  batch.length = 512, batch.rows = 2;
  auto entrants = lm::entrants(smol.teacher, contest);
  for (const auto& [name, changes] : variants)
    entrants.push_back({recipe + ", " + name, recipe, lm::recipe_options(lm::find_recipe(recipe), changes)});
  const auto trained =
      lm::train_entrants(smol.teacher, entrants, smol.training, batch, kTokens, 1, training_options(study));
  Table table{fmt::format("SmolLM2-135M-Instruct, {} tokens (one seed, no bars): held-out documentation, 512 tokens; "
                          "2,048 tokens in the last column",
                          kTokens),
              {"model", "nats untrained", "nats", "perplexity ratio", "KL", "agreement", "nats 0-63", "nats 64-255",
               "nats 256-510", "nats 512-2046"},
              {}};
  const auto long_docs = lm::spread_rows(smol.long_docs, kLongTexts);
  const auto row = [&](const std::string& name, const std::string& untrained, const lm::Scores& scores,
                       const lm::Scores& teacher, const lm::Scores& on_long) {
    const auto nats = [](const lm::Scores& s, std::int64_t first, std::int64_t last) {
      return fmt::format("{:.3f}", lm::mean_over(s.nats, first, last).mean);
    };
    table.rows.push_back({name, untrained, fmt::format("{:.3f}", scores.nats.mean().item<double>()),
                          fmt::format("{:.3f}", std::exp((scores.nats - teacher.nats).mean().item<double>())),
                          fmt::format("{:.3f}", scores.kl.mean().item<double>()),
                          fmt::format("{:.3f}", scores.agreement.mean().item<double>()), nats(scores, 0, 64),
                          nats(scores, 64, 256), nats(scores, 256, 511), nats(on_long, 512, 2047)});
  };
  for (const auto& [entrant, student, report] : trained.students) {
    const auto& found = lm::find_recipe(entrant.recipe);
    const auto untrained = lm::mean_nats(lm::convert(smol.teacher, found, entrant.options, 1).decoder, smol.short_docs);
    const auto scores = lm::evaluate({&smol.teacher, &student.decoder}, smol.short_docs);
    const auto on_long = lm::evaluate({&smol.teacher, &student.decoder}, long_docs);
    if (table.rows.empty()) row("teacher", "-", scores[0], scores[0], on_long[0]);
    row(entrant.name, fmt::format("{:.3f}", untrained), scores[1], scores[0], on_long[1]);
  }
  result.tables.push_back(table);
  for (const auto& why : trained.left_out) result.notes.push_back("SmolLM2: left out: " + why);
}

}  // namespace unbend
