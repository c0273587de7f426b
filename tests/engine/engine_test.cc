// The engine against definitions in double precision, and its sequences against each other.
#include "unbend/engine/engine.h"

#include <ggml.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "tests/engine/gguf_bytes.h"
#include "tests/engine/small_model.h"
#include "tests/error_message.h"
#include "unbend/engine/sequences.h"

namespace unbend::engine {
namespace {

using testing::HasSubstr;

// ---- A mixer's definition, token by token over all pairs

struct Case {
  MixerSettings settings;
  std::int64_t heads = 6, kv_heads = 2, width = 8, tokens = 43;
};

struct Data {
  std::vector<float> q, k, v, gates, raw_q, raw_k;
  MixerWeights weights;
  Data(const Case& c, std::uint64_t seed) {
    Random random(seed);
    const auto rows = c.tokens;
    q = random_floats(rows * c.heads * c.width, 1, random);
    k = random_floats(rows * c.kv_heads * c.width, 1, random);
    v = random_floats(rows * c.kv_heads * c.width, 1, random);
    raw_q = random_floats(rows * c.heads * c.width, 1, random);
    raw_k = random_floats(rows * c.kv_heads * c.width, 1, random);
    gates = random_floats(rows * c.settings.groups, 1, random);
    for (auto& g : gates) g += 2;
    weights.query_map = random_floats(c.heads * c.width * c.width / 2, 1, random);
    weights.key_map = random_floats(c.settings.groups * c.width * c.width / 2, 1, random);
    for (std::int64_t h = 0; h < c.heads; ++h) weights.scale.push_back(static_cast<float>(.1 + random.uniform()));
  }
};

std::vector<double> softmax_of(std::vector<double> x) {
  const double max = *std::ranges::max_element(x);
  double sum = 0;
  for (auto& y : x) sum += y = std::exp(y - max);
  for (auto& y : x) y /= sum;
  return x;
}

std::vector<double> features(const float* x, const float* map, std::int64_t d) {
  std::vector<double> plus(static_cast<std::size_t>(d / 2)), minus;
  for (std::int64_t j = 0; j < d / 2; ++j)
    for (std::int64_t i = 0; i < d; ++i) plus[j] += static_cast<double>(x[i]) * map[i * (d / 2) + j];
  for (const double y : plus) minus.push_back(-y);
  plus = softmax_of(plus), minus = softmax_of(minus);
  plus.insert(plus.end(), minus.begin(), minus.end());
  return plus;
}

double log_sigmoid(double z) { return -std::log1p(std::exp(-z)); }

/// log-decays of group g and channel i at token t.
double log_decay(const Case& c, const Data& data, std::int64_t g, std::int64_t i, std::int64_t t) {
  const auto& s = c.settings;
  if (s.kind == MixerKind::Hybrid) return s.gate ? log_sigmoid(data.gates[t * s.groups + g]) : 0;
  const float* z = data.raw_k.data() + (t * c.kv_heads + g) * c.width;
  const double mean = std::accumulate(z, z + c.width, 0.) / static_cast<double>(c.width);
  switch (s.gate_form) {
    case GateForm::LogSigmoid: return log_sigmoid(z[i]) / s.gate_normalizer;
    case GateForm::Exp: return -std::exp(static_cast<double>(z[i]));
    case GateForm::MeanSoftplus: return -std::log1p(std::exp(mean));
    case GateForm::MeanLogSigmoid: return log_sigmoid(mean);
    default: return 0;
  }
}

std::vector<double> definition(const Case& c, const Data& data) {
  const auto& s = c.settings;
  const std::int64_t d = c.width, w = s.window;
  std::vector<double> out(static_cast<std::size_t>(c.tokens * c.heads * d));
  for (std::int64_t h = 0; h < c.heads; ++h) {
    const std::int64_t kv = h * c.kv_heads / c.heads, g = s.groups > 0 ? h * s.groups / c.heads : 0;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      const float* q = data.q.data() + (t * c.heads + h) * d;
      std::vector<double> exact(static_cast<std::size_t>(d)), linear(exact);
      double mass = 0, max = -1e300, linear_mass = 0;
      const auto near = [&](std::int64_t j) { return j > t - w || j < s.sinks; };
      const auto score = [&](std::int64_t j) {
        double dot = 0;
        for (std::int64_t i = 0; i < d; ++i) dot += static_cast<double>(q[i]) * data.k[(j * c.kv_heads + kv) * d + i];
        return dot / std::sqrt(static_cast<double>(d));
      };
      for (std::int64_t j = 0; j <= t; ++j)
        if (near(j)) max = std::max(max, score(j));
      for (std::int64_t j = 0; j <= t; ++j) {
        const float* v = data.v.data() + (j * c.kv_heads + kv) * d;
        if (near(j)) {
          const double e = std::exp(score(j) - max);
          mass += e;
          for (std::int64_t i = 0; i < d; ++i) exact[i] += e * v[i];
        }
        if (!s.recurrent() || (s.kind == MixerKind::Hybrid && near(j))) continue;
        std::vector<double> a, b;
        if (s.kind == MixerKind::Hybrid) {
          a = features(q, data.weights.query_map.data() + h * d * (d / 2), d);
          b = features(data.k.data() + (j * c.kv_heads + kv) * d, data.weights.key_map.data() + g * d * (d / 2), d);
        } else {
          const float *x = data.raw_q.data() + (t * c.heads + h) * d,
                      *y = data.raw_k.data() + (j * c.kv_heads + kv) * d;
          a = softmax_of({x, x + d}), b = softmax_of({y, y + d});
        }
        double weight = 0;
        for (std::int64_t i = 0; i < d; ++i) {
          double decay = 0;
          for (std::int64_t u = j + 1; u <= t; ++u) decay += log_decay(c, data, g, i, u);
          weight += a[i] * b[i] * std::exp(decay);
        }
        linear_mass += weight;
        for (std::int64_t i = 0; i < d; ++i) linear[i] += weight * v[i];
      }
      for (std::int64_t i = 0; i < d; ++i) {
        double& y = out[(t * c.heads + h) * d + i];
        const double e = s.recurrent() && s.kind == MixerKind::Hybrid ? data.weights.scale[h] : 0;
        if (s.kind == MixerKind::Liger)
          y = s.mix_window * exact[i] / mass + s.mix_linear * linear[i];
        else
          y = (exact[i] + e * linear[i]) / (mass + e * linear_mass);
      }
    }
  }
  return out;
}

/// The same by the kernels, the sequence cut into slices of these lengths (the last one repeats).
std::vector<float> computed(const Case& c, const Data& data, const std::vector<std::int64_t>& cuts, int threads,
                            CacheType type = CacheType::F32) {
  DecoderConfig config;
  config.heads = c.heads, config.kv_heads = c.kv_heads, config.head_dim = c.width;
  const MixerLayout layout(config, c.settings, type);
  std::vector<std::byte> memory(static_cast<std::size_t>(layout.bytes) + 64);
  std::vector<float> out(static_cast<std::size_t>(c.tokens * c.heads * c.width));
  std::size_t cut = 0;
  for (std::int64_t at = 0; at < c.tokens; cut = std::min(cut + 1, cuts.size() - 1)) {
    const std::int64_t count = std::min(cuts[cut], c.tokens - at);
    const std::vector<Slice> slices{{0, count, at, memory.data()}};
    const MixerScratch place(layout, slices);
    std::vector<float> scratch(static_cast<std::size_t>(place.floats) + 1),
        read(static_cast<std::size_t>(count * c.heads * (c.width + 1)));
    const auto from = [&](const std::vector<float>& x, std::int64_t width) { return x.data() + at * width; };
    const std::int64_t q = c.heads * c.width, kv = c.kv_heads * c.width;
    const MixerRows rows{from(data.q, q),     from(data.k, kv),
                         from(data.v, kv),    from(data.gates, c.settings.groups),
                         from(data.raw_q, q), from(data.raw_k, kv)};
    for (int t = 0; t < threads; ++t)
      mixer_prepare(layout, data.weights, slices, 0, rows, place, scratch.data(), t, threads);
    if (c.settings.recurrent())
      for (int t = 0; t < threads; ++t) mixer_scan(layout, slices, 0, place, scratch.data(), read.data(), t, threads);
    for (int t = 0; t < threads; ++t)
      mixer_attend(layout, data.weights, slices, 0, rows, place, scratch.data(), read.data(), out.data() + at * q, t,
                   threads);
    at += count;
  }
  return out;
}

double difference(const std::vector<double>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [window, sinks] : {std::pair{5, 0}, {5, 3}, {1, 1}, {16, 4}, {64, 4}})
    for (const auto kind : {MixerKind::Window, MixerKind::Hybrid, MixerKind::Liger}) {
      Case c;
      c.settings.kind = kind, c.settings.window = window, c.settings.sinks = sinks, c.settings.groups = 2;
      all.push_back(c);
      if (kind == MixerKind::Hybrid) {
        c.settings.groups = 6;
        all.push_back(c);
        c.settings.gate = false;
        all.push_back(c);
      }
      if (kind == MixerKind::Liger)
        for (const auto form : {GateForm::Exp, GateForm::MeanSoftplus, GateForm::MeanLogSigmoid, GateForm::None}) {
          c.settings.gate_form = form;
          all.push_back(c);
        }
    }
  Case wide;  // rows that are not whole vectors, and more readers of a state than registers are set aside for
  wide.settings.kind = MixerKind::Hybrid, wide.settings.window = 7, wide.settings.sinks = 2, wide.settings.groups = 1;
  wide.heads = 7, wide.kv_heads = 1, wide.width = 36;
  all.push_back(wide);
  wide.width = 64, wide.tokens = 150;
  all.push_back(wide);
  return all;
}

TEST(Mixer, FollowsItsDefinitionHoweverTheSequenceIsCut) {
  std::uint64_t seed = 1;
  for (const auto& c : cases()) {
    const Data data(c, seed++);
    const auto expected = definition(c, data);
    for (const auto& cuts : std::vector<std::vector<std::int64_t>>{{1000}, {1}, {2}, {9, 1, 1, 17}, {1, 1, 33, 3}})
      for (const int threads : {1, 3})
        EXPECT_LT(difference(expected, computed(c, data, cuts, threads)), 3e-6)
            << "kind " << static_cast<int>(c.settings.kind) << " window " << c.settings.window << " sinks "
            << c.settings.sinks << " groups " << c.settings.groups << " first cut " << cuts[0];
  }
}

TEST(Mixer, HalfRingsAreNearTheDefinition) {
  Case c;
  c.settings.kind = MixerKind::Hybrid, c.settings.window = 9, c.settings.sinks = 2, c.settings.groups = 2;
  const Data data(c, 1);
  const auto expected = definition(c, data);
  const double error = difference(expected, computed(c, data, {6}, 2, CacheType::F16));
  EXPECT_LT(error, 5e-3);
  EXPECT_GT(error, 1e-6) << "these rings hold more than half precision";
}

// ---- Models

std::vector<float> copied(std::span<const float> x) { return {x.begin(), x.end()}; }

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return 1e30;
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, static_cast<double>(std::abs(a[i] - b[i])));
  return most;
}

EngineOptions options_of(int sequences, std::int64_t batch = 512) {
  EngineOptions options;
  options.threads = 2, options.sequences = sequences, options.batch = batch, options.cache_type = GGML_TYPE_F32;
  return options;
}

TEST(Engine, OneByOneInPartsAndTogetherGiveTheSame) {
  const Folder folder;
  for (const auto& [mixer, settings] : mixers()) {
    const auto model = Model::open(small_model(folder, mixer, settings));
    const auto a = some_tokens(40, 1), b = some_tokens(23, 2), c = some_tokens(31, 3);
    std::vector<std::vector<float>> alone;
    for (const auto* ids : {&a, &b, &c}) {
      Engine engine(model, options_of(1));
      alone.push_back(copied(engine.run(engine.begin(), *ids, static_cast<std::int64_t>(ids->size()))));
      EXPECT_EQ(alone.back().size(), ids->size() * 50);
    }
    Engine one(model, options_of(1));
    const int s = one.begin();
    std::vector<float> steps;
    for (const TokenId id : a) {
      const auto logits = one.run(s, {&id, 1});
      steps.insert(steps.end(), logits.begin(), logits.end());
    }
    EXPECT_LT(difference(steps, alone[0]), 1e-4) << mixer;

    for (const std::int64_t batch : {7, 64}) {
      Engine engine(model, options_of(3, batch));
      const int sequences[] = {engine.begin(), engine.begin(), engine.begin()};
      const std::vector<Feed> feeds{{sequences[0], a, 40}, {sequences[1], b, 23}, {sequences[2], c, 31}};
      auto all = alone[0];
      for (const auto& rest : {alone[1], alone[2]}) all.insert(all.end(), rest.begin(), rest.end());
      EXPECT_LT(difference(copied(engine.run(feeds)), all), 1e-4) << mixer << " batch " << batch;
      // One token each, then some without logits: sequences stay apart.
      const TokenId next = 5;
      const std::vector<Feed> more{{sequences[2], {&next, 1}, 0}, {sequences[0], {&next, 1}, 1}};
      const auto row = copied(engine.run(more));
      EXPECT_LT(difference(row, copied(one.run(s, {&next, 1}))), 1e-4) << mixer;
      one.end(s);
      EXPECT_EQ(one.begin(), s);
      one.run(s, a);
    }
  }
}

TEST(Engine, ManySequencesShareABatch) {
  const Folder folder;
  for (const auto& [mixer, settings] : mixers()) {
    const auto model = Model::open(small_model(folder, mixer, settings));
    constexpr int kMany = 64;
    Engine many(model, options_of(kMany)), one(model, options_of(1));
    std::vector<std::vector<TokenId>> texts;
    std::vector<Feed> feeds;
    for (int i = 0; i < kMany; ++i) texts.push_back(some_tokens(1 + i % 3, static_cast<std::uint64_t>(i)));
    for (const auto& ids : texts) feeds.push_back({many.begin(), ids, 1});
    const auto logits = copied(many.run(feeds));
    for (int i = 0; i < kMany; ++i) {
      const int s = one.begin();
      const std::vector<float> row(logits.begin() + i * 50, logits.begin() + (i + 1) * 50);
      EXPECT_LT(difference(row, copied(one.run(s, texts[static_cast<std::size_t>(i)]))), 1e-4) << mixer << i;
      one.end(s);
    }
  }
}

TEST(Engine, ForksAndSavedStatesGoOnAlike) {
  const Folder folder;
  for (const auto& [mixer, settings] : mixers()) {
    const auto model = Model::open(small_model(folder, mixer, settings));
    Engine engine(model, options_of(3));
    const int s = engine.begin();
    const auto ids = some_tokens(30, 4), next = some_tokens(6, 5), other = some_tokens(9, 6);
    engine.run(s, ids);
    const auto saved = engine.save(s);
    const int fork = engine.fork(s);
    EXPECT_EQ(engine.length(fork), 30);
    engine.run(fork, other);
    const auto expected = copied(engine.run(s, next, 6));
    const int restored = engine.restore(saved);
    EXPECT_EQ(copied(engine.run(restored, next, 6)), expected) << mixer;
    EXPECT_THAT(error_message([&] { engine.begin(); }, ErrorKind::Computation), HasSubstr("all 3 sequences"));
    engine.end(fork);

    auto broken = saved;
    broken.pop_back();
    EXPECT_THAT(error_message([&] { engine.restore(broken); }), HasSubstr("saved state"));
    broken[0] = std::byte{0};
    EXPECT_THAT(error_message([&] { engine.restore(broken); }), HasSubstr("not one of ours"));
    EXPECT_THAT(error_message([&] { engine.restore({saved.data(), 5}); }), HasSubstr("too few"));
    auto foreign = saved;
    foreign[40] ^= std::byte{0x60};  // the width of vectors
    if (!mixer.empty()) {
      EXPECT_THAT(error_message([&] { engine.restore(foreign); }), HasSubstr("vectors of"));
    }
    foreign = saved;
    foreign[15] = std::byte{0x7f};  // 2^62 tokens and more
    EXPECT_THAT(error_message([&] { engine.restore(foreign); }), HasSubstr("do not fit"));
  }
}

TEST(Engine, AStateOfAnotherModelIsRefused) {
  const Folder folder, elsewhere;
  const auto other_head = [](std::vector<TensorSource>& tensors) {
    tensors[0].fill = [](std::span<std::byte> bytes) { std::ranges::fill(bytes, std::byte{0x3c}); };
  };
  Engine engine(Model::open(small_model(folder, "hybrid", kHybrid)), options_of(2)),
      same(Model::open(small_model(elsewhere, "hybrid", kHybrid)), options_of(2));
  const int s = engine.begin();
  engine.run(s, some_tokens(9, 1));
  const auto saved = engine.save(s);
  EXPECT_EQ(same.length(same.restore(saved)), 9);
  Engine other(Model::open(small_model(folder, "hybrid", kHybrid, false, other_head)), options_of(2));
  EXPECT_THAT(error_message([&] { other.restore(saved); }), HasSubstr("another model"));
  Engine moved(
      Model::open(small_model(folder, "hybrid",
                              R"({"window": 8, "sinks": 3, "state_heads": "kv", "gate": true, "linear": true})")),
      options_of(2));
  EXPECT_THAT(error_message([&] { moved.restore(saved); }), HasSubstr("another model"));
}

TEST(Sequences, OneThatFindsNoMemoryLeavesNothingBehind) {
  SequenceSizes sizes{.fixed_bytes = 64, .cell_bytes = std::int64_t{1} << 40, .softmax_layers = 1, .context = 1};
  sizes.capacity = std::int64_t{1} << 18;  // 2^59 bytes
  Sequences sequences(1, sizes);
  for (int i = 0; i < 2; ++i)
    EXPECT_THAT(error_message([&] { sequences.begin(); }, ErrorKind::Computation), HasSubstr("no memory"));
}

TEST(Engine, WindowOverEverythingIsSoftmax) {
  const Folder folder;
  for (const bool qwen : {false, true}) {
    Engine softmax(Model::open(small_model(folder, "", "", qwen)), options_of(1)),
        window(Model::open(small_model(folder, "window", R"({"window": 64, "sinks": 4})", qwen)), options_of(1));
    const auto ids = some_tokens(60, 8);
    EXPECT_LT(difference(copied(softmax.run(softmax.begin(), ids, 60)), copied(window.run(window.begin(), ids, 60))),
              1e-4);
  }
}

TEST(Engine, ConstantMemoryStaysConstant) {
  const Folder folder;
  Engine softmax(Model::open(small_model(folder, "", "")), options_of(1)),
      hybrid(Model::open(small_model(folder, "hybrid", kHybrid)), options_of(1));
  const int a = softmax.begin(), b = hybrid.begin();
  softmax.run(a, some_tokens(20, 1)), hybrid.run(b, some_tokens(20, 1));
  const auto before = softmax.state_bytes(a), constant = hybrid.state_bytes(b);
  softmax.run(a, some_tokens(200, 1)), hybrid.run(b, some_tokens(200, 1));
  EXPECT_EQ(softmax.state_bytes(a), 11 * before);
  EXPECT_EQ(hybrid.state_bytes(b), constant);
}

TEST(Engine, RefusesWhatItCannotRun) {
  const Folder folder;
  Engine engine(Model::open(small_model(folder, "", "")), options_of(2));
  const int s = engine.begin();
  const auto ids = some_tokens(600, 1);
  EXPECT_THAT(error_message([&] { engine.run(s, ids); }), HasSubstr("600 tokens do not fit a context of 512"));
  EXPECT_EQ(engine.length(s), 0);
  const TokenId bad = 50;
  EXPECT_THAT(error_message([&] { engine.run(s, {&bad, 1}); }), HasSubstr("token id 50"));
  EXPECT_THAT(error_message([&] { engine.run(1, {ids.data(), 1}); }), HasSubstr("no sequence 1"));
  EXPECT_THAT(error_message([&] { engine.run(s, {}); }), HasSubstr("no tokens"));
  EXPECT_THAT(error_message([&] { engine.run(s, {ids.data(), 2}, 3); }), HasSubstr("logits of 3 tokens out of 2"));
  const std::vector<Feed> twice{{s, {ids.data(), 1}, 1}, {s, {ids.data(), 1}, 1}};
  EXPECT_THAT(error_message([&] { engine.run(twice); }), HasSubstr("twice"));
  EXPECT_THAT(error_message([&] { Model::open(small_model(folder, "hybrid", "{}")); }), HasSubstr("\"window\""));
  EXPECT_THAT(error_message([&] { Model::open(small_model(folder, "magic", R"({"window": 9, "sinks": 2})")); }),
              HasSubstr("mixer 'magic'"));
  EXPECT_THAT(error_message([&] { Model::open(small_model(folder, "window", R"({"window": 0, "sinks": 2})")); }),
              HasSubstr("a window of 0"));
  EXPECT_THAT(error_message([&] { Model::open(small_model(folder, "window", "[")); }), HasSubstr("unbend.options"));
  const auto with = [&](const ChangeTensors& change) {
    return error_message([&] { Model::open(small_model(folder, "", "", false, change)); });
  };
  EXPECT_THAT(with([](auto& tensors) {
                auto bias = tensors[0];
                bias.name = "blk.0.attn_output.bias";
                tensors.push_back(bias);
              }),
              HasSubstr("blk.0.attn_output.bias has no place"));
  EXPECT_THAT(with([](auto& tensors) {
                auto gate = tensors[0];
                gate.name = "blk.0.mixer.gate_weight";
                tensors.push_back(gate);
              }),
              HasSubstr("blk.0.mixer.gate_weight has no place"));
  const auto encoder = folder.path() / "encoder.gguf";
  Rewrite changes;
  changes.entries = {{"llama.attention.causal", false}};
  rewrite(Gguf::open(small_model(folder, "", "")), encoder, changes);
  EXPECT_THAT(error_message([&] { Model::open(encoder); }), HasSubstr("llama.attention.causal is false"));
  for (const std::size_t i : {0, 4})  // the embedding is looked up, matrices are multiplied
    EXPECT_THAT(with([&](auto& tensors) { tensors[i].type = GGML_TYPE_I32; }), HasSubstr("cannot be multiplied"));
  auto options = options_of(1);
  options.cache_type = GGML_TYPE_Q4_0;
  EXPECT_THAT(error_message([&] { Engine(Model::open(small_model(folder, "", "")), options); }), HasSubstr("not Q4_0"));
}

}  // namespace
}  // namespace unbend::engine
