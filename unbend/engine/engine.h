// Running a decoder: several sequences with memories of their own, in batches, on ggml's kernels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "unbend/engine/model.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::engine {

struct EngineOptions {
  int threads = 1;
  int sequences = 1;         ///< at most so many at a time
  std::int64_t context = 0;  ///< tokens per sequence; 0 = the model's. Only softmax layers take memory for it
  std::int64_t batch = 512;  ///< tokens per graph; longer inputs go in parts
  int cache_type = 1;        ///< ggml type of keys and values: F16, F32 or Q8_0 (rings: F32 if F32, else F16)
};

/// Tokens to add to a sequence, and of how many of the last ones logits are wanted.
struct Feed {
  int sequence = 0;
  std::span<const TokenId> tokens;
  std::int64_t logits = 1;
};

class Engine {
 public:
  Engine(std::shared_ptr<const Model> model, const EngineOptions& options);
  ~Engine();

  const Model& model() const;
  const EngineOptions& options() const;

  /// A new, empty sequence. Computation error if all are in use.
  int begin();
  void end(int sequence);
  /// A new sequence that remembers what `sequence` does.
  int fork(int sequence);
  std::int64_t length(int sequence) const;  ///< tokens it has seen

  /// Adds tokens to sequences (each at most once). Returns the wanted logits, [rows, vocab] in the order of `feeds`;
  /// valid until the next call. Input error for unknown ids, sequences and for more tokens than the context holds; then
  /// nothing was added.
  std::span<const float> run(std::span<const Feed> feeds);
  std::span<const float> run(int sequence, std::span<const TokenId> tokens, std::int64_t logits = 1);

  /// What a sequence remembers, to be taken up by an engine of the same model and options.
  std::vector<std::byte> save(int sequence) const;
  /// A new sequence out of save()'s bytes. Input error if they are not of this model and these options.
  int restore(std::span<const std::byte> saved);
  /// For measuring speed: makes a sequence's length `tokens`, its keys and values repetitions of those it has.
  void pretend(int sequence, std::int64_t tokens);
  std::int64_t state_bytes(int sequence) const;  ///< size of its memory now
  std::int64_t compute_bytes() const;            ///< of intermediate results of the last graph

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A new sequence that ends with its scope.
class SequenceScope {
 public:
  explicit SequenceScope(Engine& engine) : engine_(&engine), id_(engine.begin()) {}
  SequenceScope(SequenceScope&& other) noexcept : engine_(std::exchange(other.engine_, nullptr)), id_(other.id_) {}
  SequenceScope& operator=(SequenceScope&&) = delete;
  ~SequenceScope() {
    if (engine_) engine_->end(id_);
  }
  int id() const { return id_; }

 private:
  Engine* engine_;
  int id_;
};

}  // namespace unbend::engine
