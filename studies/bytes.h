// Harness A of the attention methods' briefs: a small byte-level softmax teacher on the King James Bible, and students
// that training repairs after their attention was replaced. It can show that a conversion works; that the recurrence
// carries information only studies/recall.h can, since this text rewards local attention almost alone.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>

#include "studies/study.h"
#include "unbend/lm/distill.h"

namespace unbend {

/// Window of every student: the papers' ratio (64 of 1,024) to the 256 bytes of a sequence.
inline constexpr std::int64_t kByteWindow = 16;

/// A text as bytes: every 64 KiB block whose index modulo 16 is 15 is held out.
struct ByteText {
  at::Tensor training;    ///< [bytes], uint8
  at::Tensor held_out;    ///< [bytes], uint8
  at::Tensor validation;  ///< [32, 257], int64: the first windows of the held-out bytes; each byte is predicted once
};

/// The King James Bible as Debian's `bible` (packages bible-kjv, bible-kjv-text) prints it, kept under the build
/// folder. Input error if the program is missing or prints another text.
ByteText king_james_bytes();

/// A decoder of 4 layers, 128 wide, 4 heads on 2 key-value heads (820,352 weights), trained from random weights for 500
/// steps of 16 x 256 bytes.
lm::Decoder byte_teacher(const ByteText& text, std::uint64_t seed, const StudyOptions& study);

/// Rows of `length` bytes at random places of a text, without end.
std::unique_ptr<lm::BatchSource> byte_source(const at::Tensor& text, std::int64_t length, std::int64_t rows,
                                             std::uint64_t seed);

/// What of a student trains beside its mixers.
enum class ByteTraining {
  Lora,        ///< rank 8, alpha 8, on q, k and v
  Full,        ///< every weight
  MixersOnly,  ///< nothing
};

/// Converts the teacher by `recipe` with `options` (16 is the window of recipes that have one, unless they say
/// otherwise) and trains it for `steps` of 8 x 256 bytes; not at all for 0 steps.
lm::Student byte_student(const lm::Decoder& teacher, const ByteText& text, const std::string& recipe, Json options,
                         std::int64_t steps, std::uint64_t seed, const StudyOptions& study,
                         ByteTraining training = ByteTraining::Lora);

/// Nats of every validation byte, [32, 256].
at::Tensor byte_nats(const lm::Decoder& decoder, const ByteText& text);

}  // namespace unbend
