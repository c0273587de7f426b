// Teacher-forced questions within one sequence of tokens, and how a text with marked answers becomes them for any
// tokenizer. Plain vectors, no tensors.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/engine/tokenizer.h"

namespace unbend::lm {

using engine::TokenId;

/// Logits at `position` are to predict `token` (in texts that is ids[position + 1]); the guess is the best of
/// `candidates` (all tokens if empty).
struct Question {
  std::int64_t position;
  TokenId token;
  std::vector<TokenId> candidates;
  std::int64_t answer = 0;  ///< number of the answer, within the probe, that this token is part of
  std::int64_t first = -1;  ///< where logits predict the same token the first time, without help; -1: nowhere
  std::int64_t told = -1;   ///< the last token of what tells the answer, where it stands last; -1: not known
};

struct Probe {
  std::vector<TokenId> ids;         ///< with a leading BOS where the model wants one
  std::vector<Question> questions;  ///< in order of position; all or none has a `first`, before all questions
};

/// A text's tokens, and the bytes of the text that each stands for. Some tokenizers put a space before the text: it
/// belongs to the first token.
struct Encoded {
  std::vector<TokenId> ids;
  std::vector<std::string> pieces;
  std::vector<std::size_t> ends;  ///< of each token, in bytes of the text

  /// The token that ends where text [begin, end) ends and stands for just that or for a space and that; -1 if there is
  /// none.
  std::int64_t find(std::size_t end, std::string_view word) const;
};

/// Input error if the tokens do not spell the text.
Encoded encode_text(const engine::Tokenizer& tokenizer, std::string_view text);

/// The tokens of a text, behind BOS where the model wants one, without questions.
Probe start_probe(const Encoded& encoded, const engine::Tokenizer& tokenizer);

/// Bytes [begin, end) of a text, never at its start.
struct Span {
  std::size_t begin, end;
  std::size_t told = 0;  ///< where the bytes that tell this answer end; 0: not known
};

/// A question for each token of each answer (that of a space before it aside). With `candidates`, the texts that could
/// stand in the answers' places, a guess is made among the tokens that continue one of them after what stands there
/// already, and what leaves no choice is not asked: "kitchen" among "kitchen", "garden", "office" is one question for a
/// tokenizer of bytes too. Input error if the tokenizer joins an answer with what stands around it, or cuts it
/// otherwise than alone.
Probe text_probe(const engine::Tokenizer& tokenizer, std::string_view text, std::span<const Span> answers,
                 std::span<const std::string_view> candidates = {});

}  // namespace unbend::lm
