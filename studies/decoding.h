// What decoding and reading cost beside softmax: time per token and memory after long contexts (methods/supra.md,
// "Efficiency", which other methods' briefs refer to).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "studies/smollm2.h"
#include "studies/study.h"
#include "unbend/engine/speed.h"
#include "unbend/lm/decoder.h"

namespace unbend {

/// A decoder of SmolLM2-135M's shape with random weights, float32.
lm::Decoder smollm2_shape(std::int64_t layers = 30);

/// The untrained student of a recipe's defaults without Lora factors, as they are merged into the weights for use.
lm::Decoder untrained_student(const lm::Decoder& teacher, const std::string& recipe);

struct DecodingSpeeds {
  std::vector<engine::SpeedPoint> softmax, student;  ///< after the same contexts
};

/// Decodes `tokens` tokens after each context (shortest first) on LibTorch with all threads; the best speeds of
/// `rounds`. What the process has freed before does not count as its resident memory.
DecodingSpeeds decoding_speeds(const lm::Decoder& teacher, const lm::Decoder& student,
                               const std::vector<std::int64_t>& contexts, std::int64_t tokens, int rounds = 1);

/// The same in the engine, one thread: 32 tokens with the model's own quantised weights and with the untrained
/// student's.
DecodingSpeeds engine_decoding_speeds(const SmolLM2& smol, const std::string& recipe,
                                      const std::vector<std::int64_t>& contexts);

/// Peak of resident memory while the student decodes after the last context minus that after the first, in MB. NaN
/// where the system does not tell. Softmax is the control: if its peak does not show that its cache grows, that is so.
double resident_growth(const DecodingSpeeds& speeds);

Table decoding_table(const std::string& title, const std::string& student, const DecodingSpeeds& speeds);

/// Time to read a text in pieces of `piece` tokens, which divides `tokens`.
double reading_seconds(const lm::Decoder& decoder, std::int64_t tokens, std::int64_t piece = 512);

/// The shortest of `times` runs.
double shortest_seconds(int times, const std::function<void()>& work);

/// Adds the cost of a recipe's student in float32, on random weights of SmolLM2-135M's shape, with the bars of
/// methods/supra.md: speed over softmax and growth of memory from 1,024 to 32,768 tokens, linear time to read.
void add_float_decoding(StudyResult& result, const std::string& recipe, const std::string& name);

/// Adds how fast the engine decodes the untrained student beside the model itself; bars: faster from 4,096 tokens on
/// and 5 times as fast at 32,768.
void add_decoding(StudyResult& result, const SmolLM2& smol, const std::string& recipe, const std::string& name);

}  // namespace unbend
