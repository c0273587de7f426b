#include "unbend/lm/probe.h"

#include <algorithm>
#include <set>

#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

struct TokenRange {
  std::size_t first, last;  // [first, last)
};

/// The tokens of an answer. The first may take the space before the answer along.
TokenRange tokens_of(const Encoded& encoded, std::string_view text, Span answer) {
  const auto first =
      static_cast<std::size_t>(std::ranges::upper_bound(encoded.ends, answer.begin) - encoded.ends.begin());
  const auto last = static_cast<std::size_t>(std::ranges::lower_bound(encoded.ends, answer.end) - encoded.ends.begin());
  const std::size_t start = first > 0 ? encoded.ends[first - 1] : 0;
  const bool begins = start == answer.begin || (start + 1 == answer.begin && text[start] == ' ');
  const bool ends = last < encoded.ends.size() && encoded.ends[last] == answer.end;
  require(begins && ends, "the tokenizer joins the answer '{}' with what stands around it",
          text.substr(answer.begin, answer.end - answer.begin));
  return {first, last + 1};
}

/// The tokens that continue one of `choices` after `prefix`, in order of their ids.
std::vector<TokenId> continuations(const std::vector<std::vector<TokenId>>& choices, std::span<const TokenId> prefix) {
  std::set<TokenId> next;
  for (const auto& choice : choices)
    if (choice.size() > prefix.size() && std::ranges::equal(std::span(choice).first(prefix.size()), prefix))
      next.insert(choice[prefix.size()]);
  return {next.begin(), next.end()};
}

}  // namespace

std::int64_t Encoded::find(std::size_t end, std::string_view word) const {
  const auto at = std::ranges::lower_bound(ends, end) - ends.begin();
  if (at == static_cast<std::int64_t>(ends.size()) || ends[at] != end) return -1;
  const std::string_view piece = pieces[at];
  return piece == word || (piece.starts_with(' ') && piece.substr(1) == word) ? at : -1;
}

Encoded encode_text(const engine::Tokenizer& tokenizer, std::string_view text) {
  Encoded out{tokenizer.encode(text), {}, {}};
  std::size_t end = 0;
  for (const auto id : out.ids) {
    out.pieces.push_back(tokenizer.decode(std::span(&id, 1)));
    out.ends.push_back(end += out.pieces.back().size());
  }
  require(end == text.size() || end == text.size() + 1,
          "the tokenizer does not keep the text of this task: {} bytes became {}", text.size(), end);
  if (end > text.size())
    for (auto& e : out.ends) --e;
  return out;
}

Probe start_probe(const Encoded& encoded, const engine::Tokenizer& tokenizer) {
  Probe probe;
  if (tokenizer.adds_bos() && tokenizer.bos() >= 0) probe.ids.push_back(tokenizer.bos());
  probe.ids.insert(probe.ids.end(), encoded.ids.begin(), encoded.ids.end());
  return probe;
}

Probe text_probe(const engine::Tokenizer& tokenizer, std::string_view text, std::span<const Span> answers,
                 std::span<const std::string_view> candidates) {
  std::vector<std::vector<TokenId>> choices;
  for (const auto candidate : candidates) {
    const auto alone = fmt::format("is {}", candidate);
    const auto encoded = encode_text(tokenizer, alone);
    const auto [first, last] = tokens_of(encoded, alone, {3, alone.size()});
    choices.emplace_back(encoded.ids.begin() + static_cast<std::ptrdiff_t>(first),
                         encoded.ids.begin() + static_cast<std::ptrdiff_t>(last));
  }
  const auto encoded = encode_text(tokenizer, text);
  auto probe = start_probe(encoded, tokenizer);
  const auto lead = probe.ids.size() - encoded.ids.size();
  for (std::size_t n = 0; n < answers.size(); ++n) {
    const auto [first, last] = tokens_of(encoded, text, answers[n]);
    require(lead + first > 0, "an answer at the start of a text cannot be asked for");
    std::int64_t told = -1;
    if (answers[n].told > 0)
      told = std::ranges::lower_bound(encoded.ends, answers[n].told) - encoded.ends.begin() +
             static_cast<std::int64_t>(lead);
    for (auto at = first; at < last; ++at) {
      auto open = continuations(choices, std::span(encoded.ids).subspan(first, at - first));
      const TokenId token = encoded.ids[at];
      require(choices.empty() || std::ranges::binary_search(open, token),
              "the tokenizer cuts the answer '{}' otherwise than when it stands alone",
              text.substr(answers[n].begin, answers[n].end - answers[n].begin));
      if (open.size() == 1) continue;
      probe.questions.push_back(
          {static_cast<std::int64_t>(lead + at) - 1, token, std::move(open), static_cast<std::int64_t>(n), -1, told});
    }
  }
  return probe;
}

}  // namespace unbend::lm
