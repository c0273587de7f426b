// Liger's mixer against the worked example of its brief, states per query head, and what cannot be.
#include "unbend/lm/liger.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/error_message.h"
#include "tests/lm/one_mixer.h"
#include "unbend/lm/projection.h"

namespace unbend::lm {
namespace {

std::unique_ptr<Mixer> mixer_of(const DecoderConfig& c, const Json& changes) { return one_mixer("liger", c, changes); }

/// Heads [H, T, d] of the mixer for q [T, H d], k and v [T, Hkv d]; streamed token by token or in one piece.
at::Tensor heads_of(const Mixer& mixer, const DecoderConfig& c, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v, bool streamed = false) {
  const auto qkv = at::cat({q, k, v}, 1).unsqueeze(0);
  const std::int64_t tokens = q.size(0);
  const auto x = at::zeros({1, tokens, c.hidden}, at::kDouble);
  const auto all = rope_table(c, 0, tokens, at::kDouble);
  if (!streamed) return mixer.forward({c, all, x, qkv, 0}, Form::Chunked)[0];
  const auto state = mixer.start(c, 1, at::kDouble);
  std::vector<at::Tensor> pieces;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto rope = rope_table(c, t, 1, at::kDouble);
    pieces.push_back(mixer.extend({c, rope, x.narrow(1, t, 1), qkv.narrow(1, t, 1), t}, *state));
  }
  return at::cat(pieces, 2)[0];
}

TEST(Liger, WorkedExample) {
  const auto c = config_of(1, 1, 2);
  const auto q = rows({1, 0, 0, 1, 1, 1}, 2), k = rows({0, 1, 1, 0, 2, 1}, 2), v = rows({1, 0, 0, 1, 1, 2}, 2);
  const auto linear = rows({.3932238665, 0, .5827149936, .3932238665, .9740670722, 1.4945045508}, 2),
             window = rows({1, 0, .5943677861, .4056322139, .9116764804, 1.9116764804}, 2),
             both = rows({.6966119332, 0, .5885413898, .3994280402, .9428717763, 1.7030905156}, 2);
  for (const bool streamed : {false, true}) {
    const auto y = [&](Json changes) {
      changes["window"] = 2;
      return heads_of(*mixer_of(c, changes), c, q, k, v, streamed)[0];
    };
    EXPECT_LT(difference(y({{"mix_linear", 1.}, {"mix_window", 0.}}), linear), 1e-9);
    EXPECT_LT(difference(y({{"mix_linear", 0.}, {"mix_window", 1.}}), window), 1e-9);
    EXPECT_LT(difference(y(Json::object()), both), 1e-9);
  }
}

TEST(Liger, OneStatePerKeyHeadIsOnePerQueryHead) {
  const auto shared = config_of(4, 2, 8), own = config_of(4, 4, 8);
  Random random(3);
  const auto draw = [&](std::int64_t width) { return random_normal({40, width}, 1, random).to(at::kDouble); };
  const auto q = draw(32), k = draw(16), v = draw(16);
  const auto repeated = [](const at::Tensor& x) { return x.view({40, 2, 8}).repeat_interleave(2, 1).flatten(1); };
  for (const std::string variant : {"gla", "hgrn2", "gsa", "mamba2", "mlstm", "rwkv6", "gated_deltanet"})
    for (const bool streamed : {false, true}) {
      const Json options{{"window", 5}, {"variant", variant}, {"slots", 4}};
      const auto few = mixer_of(shared, options), many = mixer_of(own, options);
      EXPECT_LT(difference(heads_of(*few, shared, q, k, v, streamed),
                           heads_of(*many, own, q, repeated(k), repeated(v), streamed)),
                1e-12)
          << variant;
      EXPECT_EQ(2 * few->start(shared, 1, at::kDouble)->bytes(), many->start(own, 1, at::kDouble)->bytes()) << variant;
    }
}

TEST(Liger, RefusesWhatCannotBe) {
  const auto c = config_of(4, 2, 4);
  const auto refused = [&](const Json& changes) { return error_message([&] { mixer_of(c, changes); }); };
  const std::pair<Json, const char*> cases[] = {
      {{{"variant", "hgrn2"}, {"gate", false}}, "hgrn2 writes with 1 - alpha"},
      {{{"variant", "gsa"}, {"gate", false}}, "gsa writes with 1 - alpha"},
      {{{"variant", "gsa"}, {"feature_map", "learned"}}, "gsa has no features"},
      {{{"variant", "gru"}}, "variant"},
      {{{"gate_source", "x"}}, "gate_source"},
      {{{"feature_map", "relu"}}, "feature_map"},
      {{{"slots", -1}}, "slots"}};
  for (const auto& [changes, word] : cases)
    EXPECT_NE(refused(changes).find(word), std::string::npos) << changes << ": " << refused(changes);
  for (const char* variant : {"gla", "mamba2", "mlstm", "rwkv6", "gated_deltanet"})
    EXPECT_EQ(refused({{"variant", variant}, {"gate", false}, {"feature_map", "learned"}}), "no error");
}

}  // namespace
}  // namespace unbend::lm
