// A small teacher, its students and what they train on, for tests of training.
#pragma once

#include <torch/types.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "unbend/lm/distill.h"

namespace unbend::lm {

inline Decoder small_teacher() {
  DecoderConfig c;
  c.layers = 2, c.hidden = 32, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.ffn = 48, c.vocab = 40, c.context = 256;
  Random random(1);
  return random_decoder(c, 1, .5, random);
}

/// Random sequences from a stored generator; throws at batch `crash`, as if the process had died there.
class RandomSource : public BatchSource {
 public:
  explicit RandomSource(std::int64_t crash = -1) : random_(4), crash_(crash) {}
  Batch next() override {
    if (count_++ == crash_) throw std::runtime_error("crash");
    auto ids = at::empty({2, 33}, at::kLong);
    for (std::int64_t i = 0; i < ids.numel(); ++i)
      ids.mutable_data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(random_.below(40));
    return {ids.slice(1, 0, 32).contiguous(), ids.slice(1, 1).contiguous()};
  }
  Json state() const override { return {{"random", random_.state()}, {"count", count_}}; }
  void restore(const Json& state) override {
    random_ = Random(state.at("random").get<Random::State>());
    count_ = state.at("count").get<std::int64_t>();
  }

 private:
  Random random_;
  std::int64_t crash_, count_ = 0;
};

inline Student hybrid_student(const Decoder& teacher) {
  const auto& recipe = find_recipe("hybrid");
  return convert(teacher, recipe, recipe_options(recipe, {{"window", 6}, {"sinks", 2}, {"lora_rank", 2}}), 3);
}

inline std::vector<Stage> short_stages() {
  auto stages = find_recipe("hybrid").stages({});
  stages[0].tokens = 12 * 64;
  stages[1].tokens = 9 * 64;
  return stages;
}

inline TrainOptions quiet_options() {
  TrainOptions options;
  options.quiet = true;
  return options;
}

inline std::map<std::string, at::Tensor> tensors_of(Decoder& decoder) {
  std::map<std::string, at::Tensor> all;
  for (const auto& p : adapter(decoder)) all[p.name] = p.tensor->clone();
  for (const auto& p : weights(decoder)) all[p.name] = p.tensor->clone();
  return all;
}

}  // namespace unbend::lm
