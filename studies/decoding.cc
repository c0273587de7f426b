#include "studies/decoding.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "unbend/base/files.h"
#include "unbend/base/random.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/export.h"
#include "unbend/lm/recipe.h"
#include "unbend/lm/speed.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace unbend {
namespace {

/// Freed memory stays resident in the allocator, where what a long context takes would hide.
void release_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

std::vector<engine::SpeedPoint> speeds_of(const lm::Decoder& decoder, const std::vector<std::int64_t>& contexts,
                                          std::int64_t tokens) {
  lm::decode_speed(decoder, {contexts.front()}, 1);  // what is set up once belongs to no context
  std::vector<engine::SpeedPoint> points;
  for (const auto context : contexts) {
    release_freed_memory();
    points.push_back(lm::decode_speed(decoder, {context}, tokens).front());
  }
  return points;
}

std::vector<engine::SpeedPoint> best_of(int rounds, const lm::Decoder& decoder,
                                        const std::vector<std::int64_t>& contexts, std::int64_t tokens) {
  auto best = speeds_of(decoder, contexts, tokens);
  for (int round = 1; round < rounds; ++round) {
    const auto again = speeds_of(decoder, contexts, tokens);
    for (std::size_t i = 0; i < best.size(); ++i)
      best[i].tokens_per_second = std::max(best[i].tokens_per_second, again[i].tokens_per_second);
  }
  return best;
}

void judge_beside_softmax(StudyResult& result, const DecodingSpeeds& speeds, const std::string& where) {
  for (std::size_t i = 0; i < speeds.student.size(); ++i)
    if (const auto context = speeds.student[i].context; context >= 4096)
      record(result, fmt::format("cost: speed over softmax after {} tokens, {}", context, where), "-",
             speeds.student[i].tokens_per_second / speeds.softmax[i].tokens_per_second, "",
             Bar::at_least(context == 32768 ? 5 : 1));
}

}  // namespace

lm::Decoder smollm2_shape(std::int64_t layers) {
  lm::DecoderConfig config;
  config.layers = layers, config.hidden = 576, config.heads = 9, config.kv_heads = 3, config.head_dim = 64;
  config.ffn = 1536, config.vocab = 49152, config.context = 65536;
  Random random(1);
  return lm::random_decoder(config, .02, .5, random);
}

lm::Decoder untrained_student(const lm::Decoder& teacher, const std::string& recipe) {
  const auto& found = lm::find_recipe(recipe);
  return lm::convert(teacher, found, lm::recipe_options(found, {{"lora_rank", 0}}), 1).decoder;
}

DecodingSpeeds decoding_speeds(const lm::Decoder& teacher, const lm::Decoder& student,
                               const std::vector<std::int64_t>& contexts, std::int64_t tokens, int rounds) {
  DecodingSpeeds speeds;
  speeds.student = best_of(rounds, student, contexts, tokens);
  speeds.softmax = best_of(rounds, teacher, contexts, tokens);
  return speeds;
}

DecodingSpeeds engine_decoding_speeds(const SmolLM2& smol, const std::string& recipe,
                                      const std::vector<std::int64_t>& contexts) {
  const TemporaryFolder folder;
  const auto& found = lm::find_recipe(recipe);
  const auto file = folder.path() / "student.gguf";
  lm::export_student(smol.file, lm::convert(smol.teacher, found, found.defaults, 1), file);
  const auto speed = [&](const std::filesystem::path& model) {
    release_freed_memory();
    engine::Engine runner(engine::Model::open(model), {.threads = 1, .context = contexts.back() + 1024});
    return engine::decode_speed(runner, contexts, 32, /*prefill=*/false);
  };
  DecodingSpeeds speeds;
  speeds.softmax = speed(smol.file.path());
  speeds.student = speed(file);
  return speeds;
}

double resident_growth(const DecodingSpeeds& speeds) {
  const auto growth = [](const std::vector<engine::SpeedPoint>& points, std::int64_t engine::SpeedPoint::*bytes) {
    return static_cast<double>(points.back().*bytes - points.front().*bytes);
  };
  constexpr auto kPeak = &engine::SpeedPoint::peak_resident_bytes;
  const bool told = growth(speeds.softmax, kPeak) > .5 * growth(speeds.softmax, &engine::SpeedPoint::state_bytes);
  return told ? growth(speeds.student, kPeak) / 1e6 : std::numeric_limits<double>::quiet_NaN();
}

Table decoding_table(const std::string& title, const std::string& student, const DecodingSpeeds& speeds) {
  Table table{title, {"context"}, {}};
  for (const auto& point : speeds.student) table.rows.push_back({std::to_string(point.context)});
  for (const auto& [name, points] : {std::pair{std::string("softmax"), &speeds.softmax}, {student, &speeds.student}}) {
    for (const char* column : {" tokens/s", " state (MB)", " peak memory of the process (MB)"})
      table.columns.push_back(name + column);
    for (std::size_t i = 0; i < points->size(); ++i) {
      const auto& p = (*points)[i];
      table.rows[i].push_back(fmt::format("{:.2f}", p.tokens_per_second));
      table.rows[i].push_back(fmt::format("{:.1f}", static_cast<double>(p.state_bytes) / 1e6));
      table.rows[i].push_back(
          p.peak_resident_bytes > 0 ? fmt::format("{:.1f}", static_cast<double>(p.peak_resident_bytes) / 1e6) : "-");
    }
  }
  return table;
}

double reading_seconds(const lm::Decoder& decoder, std::int64_t tokens, std::int64_t piece) {
  auto state = decoder.start();
  const auto begin = std::chrono::steady_clock::now();
  for (std::int64_t at = 0; at < tokens; at += piece)
    decoder.extend(at::arange(at, at + piece, at::kLong).unsqueeze(0), state);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double shortest_seconds(int times, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < times; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

void add_float_decoding(StudyResult& result, const std::string& recipe, const std::string& name) {
  const at::NoGradGuard no_grad;
  const std::vector<std::int64_t> contexts{1024, 2048, 4096, 8192, 16384, 32768};
  const auto teacher = smollm2_shape();
  const auto student = untrained_student(teacher, recipe);
  const auto speeds = decoding_speeds(teacher, student, contexts, 12);
  result.tables.push_back(
      decoding_table("Decoding, shape of SmolLM2-135M, random weights and contents, float32", name, speeds));
  judge_beside_softmax(result, speeds, "float32");
  result.notes.push_back(
      "cost: in float32 the weights are a quarter of what softmax reads per token at 32K, so reading alone allows 3.8 "
      "times its speed, more only as far as softmax computes; students are used in the engine, with quantised weights");
  const auto claim = [&](const std::string& what, double measured, const std::string& unit, Bar bar) {
    record(result, "cost: " + what, "-", measured, unit, bar);
  };
  const auto &first = speeds.student.front(), &last = speeds.student.back();
  claim("speed after 32768 tokens over that after 1024", last.tokens_per_second / first.tokens_per_second, "",
        Bar::at_least(.95));
  claim(fmt::format("growth of {}'s peak resident memory between them", name), resident_growth(speeds), "MB",
        Bar::at_most(8));
  claim("growth of softmax's cache per token",
        static_cast<double>(speeds.softmax.back().state_bytes - speeds.softmax.front().state_bytes) /
            static_cast<double>(contexts.back() - contexts.front()),
        "B", Bar::within(46080, .05 * 46080));
  const double of_4096 = reading_seconds(student, 4096), of_8192 = reading_seconds(student, 8192);
  claim("time to read 8192 tokens over that for 4096", of_8192 / of_4096, "", Bar::at_most(2.2));
}

void add_decoding(StudyResult& result, const SmolLM2& smol, const std::string& recipe, const std::string& name) {
  const auto speeds = engine_decoding_speeds(smol, recipe, {1024, 4096, 8192, 16384, 32768});
  result.tables.push_back(decoding_table("Decoding SmolLM2-135M in the engine, one thread", name, speeds));
  judge_beside_softmax(result, speeds, "engine");
}

}  // namespace unbend
