// Reasoning over facts that are scattered over a long text: `qa1` to `qa3`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/haystack.h"
#include "unbend/lm/probe.h"

namespace unbend::lm {

/// What happened, in order, a sentence each, and what follows from it.
struct Story {
  std::vector<std::string> facts;
  std::string question;
  std::string reply;   ///< the answer's sentence up to the place: `Anna is in the`
  std::string answer;  ///< a place
};

/// The places of all stories. They differ in their first letters.
std::span<const std::string_view> story_places();

/// A random story in the manner of bAbI's tasks 1 to 3 (Weston et al. 2015), by a little world of our own: four people
/// walk between six places (`Anna went to the kitchen.`), and, from `supports` = 2 on, take and drop three things
/// (`Anna took the lamp.`, `Anna dropped the lamp.`). Nobody acts before it is known where they are, everybody has one
/// thing at most. The question, of which that many facts decide the answer:
///   1  `Where is Anna?`: where she went last;
///   2  `Where is the lamp?`: where the one who has it went last, or had gone last when dropping it;
///   3  `Where was the lamp before it was in the kitchen?`, where it is in the kitchen now: the place that it was
///      carried from when it last came there.
/// Input error unless supports is 1, 2 or 3 and there are enough facts for it (1, 2, 3).
Story tell_story(Random& random, int supports, std::int64_t facts);

/// A story of 8, 12 or 16 facts for 1, 2 or 3 supports, with its facts in order at random places between sentences of
/// `filler`, and at the end the question. The answer is asked for among the six places (BABILong, Kuratov et al. 2024,
/// with this story and this filler).
Probe qa_probe(Random& random, const engine::Tokenizer& tokenizer, const Filler& filler, int supports,
               std::int64_t length);

}  // namespace unbend::lm
