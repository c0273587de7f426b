#include "unbend/engine/engine.h"

#include <ggml-alloc.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "unbend/base/error.h"
#include "unbend/engine/sequences.h"

namespace unbend::engine {
namespace {

constexpr std::int64_t kPad = 256;  // softmax graphs change only when the context grows by so much

std::int64_t padded(std::int64_t tokens) { return (tokens + kPad - 1) / kPad * kPad; }
/// What a graph depends on: sequence, tokens, padded context and wanted logits of every slice.
struct Shape {
  std::vector<std::array<std::int64_t, 5>> slices;  // sequence, count, padded cells, logits, band
  bool operator==(const Shape&) const = default;
};

/// Up to `batch` tokens of the feeds of one call.
struct Part {
  struct Row {
    std::int32_t from;  // row of the graph's tokens
    std::int64_t to;    // row of the results
  };
  std::vector<TokenId> tokens;
  std::vector<Slice> slices;
  Shape shape;
  std::vector<Row> wanted;
};

struct LayerCall {
  const MixerLayout* layout;
  const MixerWeights* weights;
  std::int64_t offset;
  const std::vector<Slice>* slices;
  MixerScratch scratch;
  bool gated = false;  // the logits of gates are the last input
};

/// Whether a mixer takes q and k before rotation too.
bool takes_raw(const MixerSettings& s) { return s.kind == MixerKind::Liger || s.kind == MixerKind::Lizard; }

MixerRows rows_of(const ggml_tensor* const* src, const LayerCall& call) {
  MixerRows rows;
  const auto data = [&](int i) { return static_cast<const float*>(src[i]->data); };
  rows.q = data(0), rows.k = data(1), rows.v = data(2);
  int next = 3;
  if (takes_raw(call.layout->settings)) rows.raw_q = data(next), rows.raw_k = data(next + 1), next += 2;
  if (call.gated) rows.gates = data(next);
  return rows;
}

void prepare_op(ggml_tensor* dst, int thread, int threads, void* user) {
  const auto& c = *static_cast<const LayerCall*>(user);
  mixer_prepare(*c.layout, *c.weights, *c.slices, c.offset, rows_of(dst->src, c), c.scratch,
                static_cast<float*>(dst->data), thread, threads);
}

void scan_op(ggml_tensor* dst, int thread, int threads, void* user) {
  const auto& c = *static_cast<const LayerCall*>(user);
  mixer_scan(*c.layout, *c.slices, c.offset, c.scratch, static_cast<const float*>(dst->src[0]->data),
             static_cast<float*>(dst->data), thread, threads);
}

void attend_op(ggml_tensor* dst, int thread, int threads, void* user) {
  const auto& c = *static_cast<const LayerCall*>(user);
  MixerRows rows;
  rows.q = static_cast<const float*>(dst->src[0]->data);
  mixer_attend(*c.layout, *c.weights, *c.slices, c.offset, rows, c.scratch,
               static_cast<const float*>(dst->src[1]->data), static_cast<const float*>(dst->src[2]->data),
               static_cast<float*>(dst->data), thread, threads);
}

}  // namespace

struct Engine::Impl {
  std::shared_ptr<const Model> model;
  EngineOptions options;
  std::vector<MixerLayout> layouts;  // of constant-memory layers
  // Where a sequence keeps a layer's memory: offset into its fixed part, or the number among softmax layers.
  std::vector<std::int64_t> places;
  std::unique_ptr<Sequences> sequences;
  std::string owner;  // the model's fingerprint, once it is asked for

  ggml_threadpool* pool = nullptr;
  ggml_gallocr_ptr allocator;
  std::vector<std::uint8_t> work;

  // The last graph, used again for batches of the same shape.
  Shape shape;
  ggml_context_ptr context;
  ggml_cgraph* graph = nullptr;
  bool built = false;  // the graph is whole
  std::vector<Slice> slices;
  std::vector<LayerCall> calls;
  ggml_tensor *ids = nullptr, *positions = nullptr, *wanted = nullptr, *cells = nullptr, *logits = nullptr;
  std::vector<ggml_tensor*> masks;
  std::vector<float> results;

  Impl(std::shared_ptr<const Model> m, const EngineOptions& o) : model(std::move(m)), options(o) {
    const auto& c = model->config();
    require(o.threads >= 1 && o.threads <= 512, "engine: {} threads", o.threads);
    require(o.sequences >= 1 && o.sequences <= 4096, "engine: {} sequences", o.sequences);
    require(o.batch >= 1 && o.batch <= 65536, "engine: batches of {} tokens", o.batch);
    require(o.cache_type == GGML_TYPE_F16 || o.cache_type == GGML_TYPE_F32 || o.cache_type == GGML_TYPE_Q8_0,
            "engine: keys and values can be F16, F32 or Q8_0, not {}", type_name(o.cache_type));
    if (options.context == 0) options.context = c.context;
    require(options.context > 0 && options.context <= (std::int64_t{1} << 31), "engine: a context of {}",
            options.context);
    const auto cache = static_cast<ggml_type>(o.cache_type);
    require((c.kv_heads * c.head_dim) % ggml_blck_size(cache) == 0 && c.head_dim % ggml_blck_size(cache) == 0,
            "engine: heads of width {} do not fit keys and values of type {}", c.head_dim, type_name(cache));
    SequenceSizes sizes;
    sizes.cell_bytes = static_cast<std::int64_t>(ggml_row_size(cache, c.kv_heads * c.head_dim));
    sizes.context = options.context;
    sizes.capacity = padded(options.context);
    for (const auto& s : model->mixers()) {
      if (s.kind == MixerKind::Softmax) {
        layouts.emplace_back();
        places.push_back(sizes.softmax_layers++);
      } else {
        layouts.emplace_back(c, s, cache == GGML_TYPE_F32 ? CacheType::F32 : CacheType::F16);
        places.push_back(sizes.fixed_bytes);
        sizes.fixed_bytes += layouts.back().bytes;
      }
    }
    sequences = std::make_unique<Sequences>(o.sequences, sizes);
    auto params = ggml_threadpool_params_default(o.threads);
    pool = ggml_threadpool_new(&params);
    if (!pool) fail_computation("engine: cannot start {} threads", o.threads);
    new_allocator();
  }
  ~Impl() { ggml_threadpool_free(pool); }

  const std::string& fingerprint() {
    if (owner.empty()) owner = model->fingerprint();
    return owner;
  }

  void new_allocator() { allocator.reset(ggml_gallocr_new(ggml_backend_cpu_buffer_type())); }

  bool softmax_layers() const { return sequences->sizes().softmax_layers > 0; }

  // ---- Graph

  ggml_tensor* norm(ggml_tensor* x, ggml_tensor* weight) const {
    return ggml_mul(context.get(), ggml_rms_norm(context.get(), x, static_cast<float>(model->config().rms_eps)),
                    weight);
  }

  ggml_tensor* rotated(ggml_tensor* x, double base) const {
    const auto& c = model->config();
    const bool yarn = c.rope.kind == RopeScaling::Kind::Yarn;
    const float frequency_scale = c.rope.kind == RopeScaling::Kind::None ? 1 : static_cast<float>(1 / c.rope.factor);
    return ggml_rope_ext(context.get(), x, positions, model->rope_factors(), static_cast<int>(c.head_dim),
                         c.architecture == "llama" ? GGML_ROPE_TYPE_NORMAL : GGML_ROPE_TYPE_NEOX,
                         static_cast<int>(yarn ? c.rope.original_context : c.context), static_cast<float>(base),
                         frequency_scale, yarn ? 1.f : 0.f, static_cast<float>(yarn ? c.rope.attention_factor : 1),
                         static_cast<float>(c.rope.beta_fast), static_cast<float>(c.rope.beta_slow));
  }

  ggml_tensor* cache(int sequence, std::size_t layer, bool values) const {
    const auto& c = model->config();
    auto* t = ggml_new_tensor_2d(context.get(), static_cast<ggml_type>(options.cache_type), c.kv_heads * c.head_dim,
                                 sequences->sizes().capacity);
    t->data = sequences->cache(sequence, places[layer], values);
    return t;
  }

  ggml_tensor* softmax(std::size_t layer, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v) {
    auto* ctx = context.get();
    const auto& c = model->config();
    ggml_tensor* all = nullptr;
    for (std::size_t i = 0; i < slices.size(); ++i) {
      const auto& slice = slices[i];
      const int sequence = static_cast<int>(shape.slices[i][0]);
      const std::int64_t used = shape.slices[i][2], width = c.kv_heads * c.head_dim;
      auto* at =
          ggml_view_1d(ctx, cells, slice.count, static_cast<std::size_t>(slice.first) * ggml_element_size(cells));
      ggml_tensor* stores[2];
      for (const bool values : {false, true}) {
        auto* rows = ggml_reshape_2d(ctx, values ? v : k, width, slices.back().first + slices.back().count);
        rows = ggml_view_2d(ctx, rows, width, slice.count, rows->nb[1],
                            static_cast<std::size_t>(slice.first) * rows->nb[1]);
        auto* store = cache(sequence, layer, values);
        ggml_build_forward_expand(graph, ggml_set_rows(ctx, store, rows, at));
        stores[values] = ggml_view_3d(ctx, store, c.head_dim, used, c.kv_heads, store->nb[1],
                                      ggml_row_size(store->type, c.head_dim), 0);
      }
      auto* queries = ggml_view_3d(ctx, q, c.head_dim, c.heads, slice.count, q->nb[1], q->nb[2],
                                   static_cast<std::size_t>(slice.first) * q->nb[2]);
      auto* y = ggml_flash_attn_ext(ctx, ggml_permute(ctx, queries, 0, 2, 1, 3), stores[0], stores[1], masks[i],
                                    static_cast<float>(c.scale()), 0, 0);
      ggml_prec_set_acc(y, GGML_PREC_F32);
      y = ggml_reshape_2d(ctx, y, c.head_dim * c.heads, slice.count);
      all = all ? ggml_concat(ctx, all, y, 1) : y;
    }
    return all;
  }

  ggml_tensor* constant_memory(std::size_t layer, ggml_tensor* x, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                               ggml_tensor* raw_q, ggml_tensor* raw_k) {
    auto* ctx = context.get();
    const auto& c = model->config();
    const auto& layout = layouts[layer];
    const auto& s = layout.settings;
    const auto& weights = model->layers()[layer];
    const std::int64_t tokens = q->ne[2];
    auto& call = calls[layer];
    call = {&layout, &model->mixer_weights()[layer], places[layer], &slices, MixerScratch(layout, slices)};
    std::vector<ggml_tensor*> inputs{q, k, v};
    if (takes_raw(s)) inputs.insert(inputs.end(), {raw_q, raw_k});
    if (weights.mixer_gate) {
      call.gated = true;
      auto* inner = weights.mixer_gate_down ? ggml_mul_mat(ctx, weights.mixer_gate_down, x) : x;
      inputs.push_back(ggml_add(ctx, ggml_mul_mat(ctx, weights.mixer_gate, inner), weights.mixer_gate_bias));
    }
    auto* scratch = ggml_custom_4d(ctx, GGML_TYPE_F32, std::max<std::int64_t>(1, call.scratch.floats), 1, 1, 1,
                                   inputs.data(), static_cast<int>(inputs.size()), prepare_op, GGML_N_TASKS_MAX, &call);
    ggml_tensor* read = scratch;
    if (s.recurrent()) {
      const std::int64_t floats = tokens * c.heads * (c.head_dim + 1);
      read = ggml_custom_4d(ctx, GGML_TYPE_F32, floats, 1, 1, 1, &scratch, 1, scan_op, GGML_N_TASKS_MAX, &call);
    }
    std::array<ggml_tensor*, 3> last{q, scratch, read};
    return ggml_custom_4d(ctx, GGML_TYPE_F32, c.head_dim * c.heads, tokens, 1, 1, last.data(), 3, attend_op,
                          GGML_N_TASKS_MAX, &call);
  }

  void build(std::int64_t tokens, std::int64_t rows) {
    const auto& c = model->config();
    // Softmax adds 14 nodes and 2 leaves per layer for each sequence of the batch, everything else about 30 per layer.
    const auto nodes = static_cast<std::size_t>(c.layers) * (40 + 16 * slices.size()) + 64;
    context.reset(
        ggml_init({ggml_tensor_overhead() * 2 * nodes + ggml_graph_overhead_custom(nodes, false), nullptr, true}));
    auto* ctx = context.get();
    graph = ggml_new_graph_custom(ctx, nodes, false);
    calls.assign(static_cast<std::size_t>(c.layers), {});
    const auto input = [&](ggml_type type, std::int64_t n, std::int64_t m = 1) {
      auto* t = ggml_new_tensor_2d(ctx, type, n, m);
      ggml_set_input(t);
      return t;
    };
    ids = input(GGML_TYPE_I32, tokens);
    positions = input(GGML_TYPE_I32, tokens);
    wanted = rows < tokens ? input(GGML_TYPE_I32, rows) : nullptr;
    cells = softmax_layers() ? input(GGML_TYPE_I64, tokens) : nullptr;
    masks.clear();
    if (softmax_layers())
      for (std::size_t i = 0; i < slices.size(); ++i)
        masks.push_back(input(GGML_TYPE_F16, shape.slices[i][2], slices[i].count));

    auto* x = ggml_get_rows(ctx, model->embedding(), ids);
    for (std::size_t i = 0; i < model->layers().size(); ++i) {
      const auto& w = model->layers()[i];
      auto* normed = norm(x, w.attention_norm);
      const auto project = [&](ggml_tensor* weight, ggml_tensor* bias, std::int64_t heads) {
        auto* y = ggml_mul_mat(ctx, weight, normed);
        if (bias) y = ggml_add(ctx, y, bias);
        return ggml_reshape_3d(ctx, y, c.head_dim, heads, tokens);
      };
      auto* raw_q = project(w.q, w.q_bias, c.heads);
      auto* raw_k = project(w.k, w.k_bias, c.kv_heads);
      auto* v = project(w.v, w.v_bias, c.kv_heads);
      const auto& mixer = model->mixers()[i];
      auto *q = raw_q, *k = raw_k;
      if (w.query_kernel) {
        const auto features = [&](ggml_tensor* x, ggml_tensor* kernel, ggml_tensor* bias) {
          auto* y = ggml_mul_mat(ctx, kernel, ggml_reshape_2d(ctx, x, kernel->ne[0], tokens));
          return ggml_reshape_3d(ctx, ggml_relu(ctx, ggml_add(ctx, y, bias)), x->ne[0], x->ne[1], tokens);
        };
        q = features(raw_q, w.query_kernel, w.query_kernel_bias);
        k = features(raw_k, w.key_kernel, w.key_kernel_bias);
      }
      if (!mixer.by_settings() || mixer.recurrence.rotated) {
        const double base = mixer.recurrence.rope_base > 0 ? mixer.recurrence.rope_base : model->config().rope_base;
        q = rotated(q, base), k = rotated(k, base);
      }
      for (auto* t : {q, k, v}) ggml_build_forward_expand(graph, t);
      auto* heads =
          mixer.kind == MixerKind::Softmax ? softmax(i, q, k, v) : constant_memory(i, normed, q, k, v, raw_q, raw_k);
      auto* y = ggml_mul_mat(ctx, w.output, heads);
      if (wanted && i + 1 == model->layers().size()) {
        y = ggml_get_rows(ctx, y, wanted);
        x = ggml_get_rows(ctx, x, wanted);
      }
      x = ggml_add(ctx, y, x);
      normed = norm(x, w.ffn_norm);
      auto* up = ggml_mul_mat(ctx, w.up, normed);
      auto* gate = ggml_mul_mat(ctx, w.gate, normed);
      x = ggml_add(ctx, ggml_mul_mat(ctx, w.down, ggml_swiglu_split(ctx, gate, up)), x);
    }
    logits = ggml_mul_mat(ctx, model->head(), norm(x, model->output_norm()));
    ggml_set_output(logits);
    ggml_build_forward_expand(graph, logits);
    if (!ggml_gallocr_alloc_graph(allocator.get(), graph)) {
      new_allocator();  // the old one takes the next graph of this kind for allocated
      fail_computation("engine: no memory for a batch of {} tokens", tokens);
    }
  }

  /// Adds tokens [begin, begin + count) of a feed whose logits start at row `first_row`.
  void add(Part& part, const Feed& feed, std::int64_t begin, std::int64_t count, std::int64_t first_row) {
    const auto& s = sequences->at(feed.sequence);
    const Slice slice{static_cast<std::int64_t>(part.tokens.size()), count, s.length, s.fixed->data()};
    const auto silent = static_cast<std::int64_t>(feed.tokens.size()) - feed.logits;
    const auto before = part.wanted.size();
    for (std::int64_t i = begin; i < begin + count; ++i) {
      if (i >= silent)
        part.wanted.push_back({static_cast<std::int32_t>(slice.first + i - begin), first_row + i - silent});
      part.tokens.push_back(feed.tokens[static_cast<std::size_t>(i)]);
    }
    const std::int64_t cells = softmax_layers() ? padded(s.length + count) : 0;
    std::int64_t past = 0;  // how much of the windows before a slice goes into its bands
    if (count > 1)
      for (const auto& layout : layouts) past = std::max(past, std::min(s.length, layout.settings.window));
    part.shape.slices.push_back(
        {feed.sequence, count, cells, static_cast<std::int64_t>(part.wanted.size() - before), past});
    part.slices.push_back(slice);
  }

  /// One graph over a part of a batch; its logits go to their rows of `results`.
  void compute(Part& part) {
    slices = std::move(part.slices);
    if (!(built && part.shape == shape)) {
      built = false;
      shape = std::move(part.shape);
      build(static_cast<std::int64_t>(part.tokens.size()), std::max<std::int64_t>(1, part.wanted.size()));
      built = true;
    }
    std::copy(part.tokens.begin(), part.tokens.end(), static_cast<std::int32_t*>(ids->data));
    if (wanted) {
      auto* out = static_cast<std::int32_t*>(wanted->data);
      *out = 0;  // where no logits are wanted the graph still makes one row
      for (const auto& row : part.wanted) *out++ = row.from;
    }
    const ggml_fp16_t hidden = ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity()), seen = 0;
    for (std::size_t i = 0; i < slices.size(); ++i) {
      const auto& slice = slices[i];
      for (std::int64_t j = 0; j < slice.count; ++j) {
        if (positions->data)  // some layer rotates
          static_cast<std::int32_t*>(positions->data)[slice.first + j] = static_cast<std::int32_t>(slice.position + j);
        if (!softmax_layers()) continue;
        static_cast<std::int64_t*>(cells->data)[slice.first + j] = slice.position + j;
        const std::int64_t used = shape.slices[i][2];
        auto* mask = static_cast<ggml_fp16_t*>(masks[i]->data) + j * used;
        std::fill(mask, mask + slice.position + j + 1, seen);
        std::fill(mask + slice.position + j + 1, mask + used, hidden);
      }
    }
    auto plan = ggml_graph_plan(graph, options.threads, pool);
    if (work.size() < plan.work_size) work.resize(plan.work_size);
    plan.work_data = work.data();
    if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) fail_computation("engine: ggml's computation failed");
    const auto vocab = static_cast<std::size_t>(model->config().vocab);
    for (std::size_t i = 0; i < part.wanted.size(); ++i)
      std::copy_n(static_cast<const float*>(logits->data) + i * vocab, vocab,
                  results.data() + static_cast<std::size_t>(part.wanted[i].to) * vocab);
    for (std::size_t i = 0; i < slices.size(); ++i)
      sequences->at(static_cast<int>(shape.slices[i][0])).length += slices[i].count;
  }
};

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(std::move(model), options)) {}
Engine::~Engine() = default;

const Model& Engine::model() const { return *impl_->model; }
const EngineOptions& Engine::options() const { return impl_->options; }

int Engine::begin() { return impl_->sequences->begin(); }
void Engine::end(int sequence) { impl_->sequences->end(sequence); }
int Engine::fork(int sequence) { return impl_->sequences->fork(sequence); }
void Engine::pretend(int sequence, std::int64_t tokens) { impl_->sequences->pretend(sequence, tokens); }
std::vector<std::byte> Engine::save(int sequence) const {
  return impl_->sequences->save(sequence, impl_->fingerprint());
}
int Engine::restore(std::span<const std::byte> saved) { return impl_->sequences->restore(saved, impl_->fingerprint()); }
std::int64_t Engine::state_bytes(int sequence) const { return impl_->sequences->state_bytes(sequence); }
std::int64_t Engine::length(int sequence) const { return impl_->sequences->at(sequence).length; }

std::span<const float> Engine::run(std::span<const Feed> feeds) {
  auto& e = *impl_;
  const auto& c = e.model->config();
  std::set<int> seen;
  std::vector<std::int64_t> first_row{0};  // of each feed's logits
  for (const auto& feed : feeds) {
    const auto& s = e.sequences->at(feed.sequence);
    const auto count = static_cast<std::int64_t>(feed.tokens.size());
    require(seen.insert(feed.sequence).second, "engine: sequence {} is in a batch twice", feed.sequence);
    require(count > 0, "engine: no tokens for sequence {}", feed.sequence);
    require(feed.logits >= 0 && feed.logits <= count, "engine: logits of {} tokens out of {}", feed.logits, count);
    require(!e.softmax_layers() || s.length + count <= e.options.context,
            "{} tokens do not fit a context of {} ({} are there already)", count, e.options.context, s.length);
    require(s.length + count <= kLongest, "{} tokens are the most that a sequence can have", kLongest);
    for (const TokenId id : feed.tokens)
      require(id >= 0 && id < c.vocab, "token id {} is out of range, the vocabulary has {} tokens", id, c.vocab);
    first_row.push_back(first_row.back() + feed.logits);
  }
  e.results.resize(static_cast<std::size_t>(first_row.back() * c.vocab));
  // One part after the other: each takes up to `batch` tokens, first come, first served.
  std::vector<std::int64_t> done(feeds.size(), 0);
  for (bool more = !feeds.empty(); more;) {
    Part part;
    more = false;
    for (std::size_t i = 0; i < feeds.size(); ++i) {
      const auto& feed = feeds[i];
      const auto total = static_cast<std::int64_t>(feed.tokens.size());
      const auto room = e.options.batch - static_cast<std::int64_t>(part.tokens.size());
      const std::int64_t count = std::min(total - done[i], room);
      if (done[i] + count < total) more = true;
      if (count == 0) continue;
      e.add(part, feed, done[i], count, first_row[i]);
      done[i] += count;
    }
    e.compute(part);
  }
  return e.results;
}

std::span<const float> Engine::run(int sequence, std::span<const TokenId> tokens, std::int64_t logits) {
  const Feed feed{sequence, tokens, logits};
  return run({&feed, 1});
}

std::int64_t Engine::compute_bytes() const {
  return static_cast<std::int64_t>(ggml_gallocr_get_buffer_size(impl_->allocator.get(), 0));
}

}  // namespace unbend::engine
