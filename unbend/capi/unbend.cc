#include "unbend/capi/unbend.h"

#include <ggml.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <string_view>

#include "unbend/base/error.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/generate.h"

namespace engine = unbend::engine;
using unbend::fail_computation;
using unbend::fail_usage;
using unbend::require;

static_assert(UNBEND_F32 == int{GGML_TYPE_F32} && UNBEND_F16 == int{GGML_TYPE_F16} &&
              UNBEND_Q8_0 == int{GGML_TYPE_Q8_0});

struct unbend_model {
  std::shared_ptr<const engine::Model> weights;
  std::optional<engine::Tokenizer> tokenizer;
};

struct unbend_engine {
  unbend_model model;
  engine::Engine engine;
};

namespace {

thread_local char last_error[1024] = "";

unbend_status failed(unbend_status status, const char* function, const char* message) {
  std::snprintf(last_error, sizeof last_error, "%s: %s", function, message);
  return status;
}

/// Runs the body of a public function; no exception gets out.
template <class Body>
unbend_status guarded(const char* function, const Body& body) noexcept {
  try {
    body();
    return UNBEND_OK;
  } catch (const unbend::Error& error) {
    return failed(static_cast<unbend_status>(error.exit_code()), function, error.what());
  } catch (const std::bad_alloc&) {
    return failed(UNBEND_COMPUTATION, function, "out of memory");
  } catch (const std::exception& error) {
    return failed(UNBEND_BUG, function, error.what());
  } catch (...) {
    return failed(UNBEND_BUG, function, "unknown exception");
  }
}

template <class T>
T& given(T* pointer, const char* name) {
  if (!pointer) fail_usage("{} is null", name);
  return *pointer;
}

template <class T>
std::span<const T> span_of(const T* data, std::size_t count, const char* name) {
  if (count > 0) given(data, name);
  if (count > PTRDIFF_MAX / sizeof(T)) fail_usage("{}: {} is no size of an array", name, count);
  return {data, count};
}

int flags_of(int flags, int known) {
  if (flags & ~known) fail_usage("flags {} are not known here", flags & ~known);
  return flags;
}

const engine::Tokenizer& tokenizer_of(const unbend_model& model) {
  require(model.tokenizer.has_value(), "{}: the file has no tokenizer", model.weights->file().path().string());
  return *model.tokenizer;
}

/// A copy of an array for the caller, with a zero behind it.
template <class T>
T* handed_out(const T* data, std::size_t count) {
  auto* out = static_cast<T*>(std::malloc((count + 1) * sizeof(T)));
  if (!out) throw std::bad_alloc();
  std::copy_n(data, count, out);
  out[count] = {};
  return out;
}

void hand_out(std::string_view result, char*& text, std::size_t* length) {
  text = handed_out(result.data(), result.size());
  if (length) *length = result.size();
}

engine::GenerateOptions options_of(const unbend_generate_options& o) {
  if (o.max_tokens < 0) fail_usage("max_tokens must be 0 or more, not {}", o.max_tokens);
  engine::GenerateOptions out;
  out.max_tokens = o.max_tokens;
  out.sampler = {o.temperature, o.top_k, o.top_p, o.repeat_penalty, o.seed, o.grammar ? o.grammar : ""};
  out.ignore_end = o.ignore_end != 0;
  for (const char* text : span_of(o.stop, o.stop_count, "options.stop"))
    out.stop.emplace_back(&given(text, "a text of options.stop"));
  return out;
}

unbend_reason reason_of(const std::string& reason) {
  if (reason == "end") return UNBEND_ENDED;
  if (reason == "stop") return UNBEND_STOPPED;
  return reason == "length" ? UNBEND_LENGTH : UNBEND_CANCELLED;
}

/// Leaves a generation whose caller wants no more text.
struct Cancelled {};

}  // namespace

const char* unbend_last_error(void) { return last_error; }
const char* unbend_version(void) { return UNBEND_VERSION; }
void unbend_free(void* result) { std::free(result); }

// ---- Models

unbend_status unbend_model_open(const char* path, unbend_model** model) {
  return guarded(__func__, [&] {
    given(model, "model");
    auto weights = engine::Model::open(&given(path, "path"));
    std::optional<engine::Tokenizer> tokenizer;
    if (weights->file().meta("tokenizer.ggml.model")) tokenizer = engine::Tokenizer::load(path);
    *model = new unbend_model{std::move(weights), std::move(tokenizer)};
  });
}

void unbend_model_close(unbend_model* model) { delete model; }

unbend_status unbend_model_describe(const unbend_model* model, unbend_model_info* info) {
  return guarded(__func__, [&] {
    const auto& [weights, tokenizer] = given(model, "model");
    const auto& config = weights->config();
    given(info, "info") = {static_cast<std::int32_t>(config.vocab), static_cast<std::int32_t>(config.layers),
                           config.context, tokenizer ? tokenizer->bos() : -1, tokenizer ? tokenizer->eos() : -1};
  });
}

unbend_status unbend_encode(const unbend_model* model, const char* text, std::size_t length, int flags,
                            std::int32_t** ids, std::size_t* count) {
  return guarded(__func__, [&] {
    const auto& tokenizer = tokenizer_of(given(model, "model"));
    const auto bytes = span_of(text, length, "text");
    given(ids, "ids"), given(count, "count"), flags_of(flags, UNBEND_BOS | UNBEND_SPECIAL);
    auto tokens = tokenizer.encode({bytes.data(), bytes.size()}, flags & UNBEND_SPECIAL);
    if (flags & UNBEND_BOS && tokenizer.adds_bos()) tokens.insert(tokens.begin(), tokenizer.bos());
    *ids = handed_out(tokens.data(), tokens.size());
    *count = tokens.size();
  });
}

unbend_status unbend_decode(const unbend_model* model, const std::int32_t* ids, std::size_t count, int flags,
                            char** text, std::size_t* length) {
  return guarded(__func__, [&] {
    const auto& tokenizer = tokenizer_of(given(model, "model"));
    given(text, "text"), flags_of(flags, UNBEND_SPECIAL);
    hand_out(tokenizer.decode(span_of(ids, count, "ids"), flags & UNBEND_SPECIAL), *text, length);
  });
}

unbend_status unbend_is_end(const unbend_model* model, std::int32_t id, int* end) {
  return guarded(__func__, [&] {
    const auto& tokenizer = tokenizer_of(given(model, "model"));
    require(id >= 0 && id < tokenizer.size(), "token id {} is out of range, the vocabulary has {} tokens", id,
            tokenizer.size());
    given(end, "end") = tokenizer.is_end(id);
  });
}

unbend_status unbend_chat(const unbend_model* model, const unbend_message* messages, std::size_t count, int answer,
                          char** text, std::size_t* length) {
  return guarded(__func__, [&] {
    const auto& tokenizer = tokenizer_of(given(model, "model"));
    given(text, "text");
    std::vector<engine::ChatMessage> chat;
    for (const auto& message : span_of(messages, count, "messages"))
      chat.push_back({&given(message.role, "a role"), &given(message.content, "a content")});
    hand_out(tokenizer.chat(chat, answer != 0), *text, length);
  });
}

// ---- Engines

unbend_engine_options unbend_engine_defaults(void) {
  const engine::EngineOptions o;
  return {o.threads, o.sequences, o.context, o.batch, o.cache_type};
}

unbend_status unbend_engine_create(const unbend_model* model, const unbend_engine_options* options,
                                   unbend_engine** engine) {
  return guarded(__func__, [&] {
    given(engine, "engine");
    const auto o = options ? *options : unbend_engine_defaults();
    const auto& m = given(model, "model");
    *engine = new unbend_engine{m, {m.weights, {o.threads, o.sequences, o.context, o.batch, o.cache_type}}};
  });
}

void unbend_engine_destroy(unbend_engine* engine) { delete engine; }

unbend_status unbend_begin(unbend_engine* engine, int* sequence) {
  return guarded(__func__, [&] {
    given(sequence, "sequence");
    *sequence = given(engine, "engine").engine.begin();
  });
}

unbend_status unbend_end(unbend_engine* engine, int sequence) {
  return guarded(__func__, [&] { given(engine, "engine").engine.end(sequence); });
}

unbend_status unbend_fork(unbend_engine* engine, int sequence, int* copy) {
  return guarded(__func__, [&] {
    given(copy, "copy");
    *copy = given(engine, "engine").engine.fork(sequence);
  });
}

unbend_status unbend_sequence_size(const unbend_engine* engine, int sequence, std::int64_t* tokens,
                                   std::int64_t* bytes) {
  return guarded(__func__, [&] {
    const auto& e = given(engine, "engine").engine;
    const auto length = e.length(sequence), size = e.state_bytes(sequence);
    if (tokens) *tokens = length;
    if (bytes) *bytes = size;
  });
}

unbend_status unbend_save(const unbend_engine* engine, int sequence, void** bytes, std::size_t* size) {
  return guarded(__func__, [&] {
    given(bytes, "bytes"), given(size, "size");
    const auto saved = given(engine, "engine").engine.save(sequence);
    *bytes = handed_out(saved.data(), saved.size());
    *size = saved.size();
  });
}

unbend_status unbend_restore(unbend_engine* engine, const void* bytes, std::size_t size, int* sequence) {
  return guarded(__func__, [&] {
    given(sequence, "sequence");
    const auto saved = span_of(static_cast<const std::byte*>(bytes), size, "bytes");
    *sequence = given(engine, "engine").engine.restore(saved);
  });
}

unbend_status unbend_run(unbend_engine* engine, const unbend_feed* feeds, std::size_t count, const float** logits) {
  return guarded(__func__, [&] {
    given(logits, "logits");
    std::vector<engine::Feed> all;
    for (const auto& feed : span_of(feeds, count, "feeds")) {
      require(feed.logits <= feed.count, "logits of {} tokens out of {} in sequence {}", feed.logits, feed.count,
              feed.sequence);
      all.push_back(
          {feed.sequence, span_of(feed.ids, feed.count, "ids of a feed"), static_cast<std::int64_t>(feed.logits)});
    }
    const auto rows = given(engine, "engine").engine.run(all);
    *logits = rows.empty() ? nullptr : rows.data();
  });
}

// ---- Generating text

unbend_generate_options unbend_generate_defaults(void) {
  const engine::GenerateOptions o;
  const auto& s = o.sampler;
  return {o.max_tokens, s.temperature, s.top_k, s.top_p, s.repeat_penalty, s.seed, o.ignore_end, nullptr, nullptr, 0};
}

unbend_status unbend_generate(unbend_engine* engine, int sequence, const std::int32_t* prompt, std::size_t count,
                              const unbend_generate_options* options, unbend_stream stream, void* user,
                              unbend_generation* result) {
  return guarded(__func__, [&] {
    auto& [model, runner] = given(engine, "engine");
    const auto& tokenizer = tokenizer_of(model);
    const auto ids = span_of(prompt, count, "prompt");
    if (!stream) fail_usage("stream is null");
    const auto wanted = options_of(options ? *options : unbend_generate_defaults());
    std::optional<engine::SequenceScope> ours;
    const int id = sequence == UNBEND_NEW_SEQUENCE ? ours.emplace(runner).id() : sequence;
    runner.length(id);      // fails if there is none
    std::int64_t runs = 0;  // the prompt's, and one per token but the last
    bool cancelled = false;
    const auto next = [&](std::span<const engine::TokenId> tokens) {
      if (cancelled) throw Cancelled();
      ++runs;
      return runner.run(id, tokens);
    };
    const auto pass_on = [&](std::string_view piece) {
      const std::string text(piece);  // zero-terminated
      cancelled = cancelled || stream(text.c_str(), text.size(), user) != 0;
    };
    unbend_generation done{UNBEND_CANCELLED, static_cast<std::int64_t>(count), 0, 0, 0};
    try {
      const auto generation = engine::generate(next, tokenizer, {ids.begin(), ids.end()}, wanted, pass_on);
      done = {cancelled ? UNBEND_CANCELLED : reason_of(generation.reason), generation.prompt_tokens,
              static_cast<std::int64_t>(generation.ids.size()), generation.prefill_seconds, generation.decode_seconds};
    } catch (const Cancelled&) {
      done.tokens = runs;
    }
    if (result) *result = done;
  });
}
