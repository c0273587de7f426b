#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace unbend::engine {

/// Zeroed memory that the system hands out as it is touched.
class Pages {
 public:
  explicit Pages(std::size_t bytes);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  std::byte* data() const { return data_; }
  void clear();

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

struct Sequence {
  bool used = false;
  std::int64_t length = 0;                // tokens
  std::unique_ptr<Pages> fixed, growing;  // rings and recurrences; keys and values of softmax layers
};

/// What one sequence needs.
struct SequenceSizes {
  std::int64_t fixed_bytes = 0;     // of all layers with constant memory
  std::int64_t cell_bytes = 0;      // one token's keys, or values, in one softmax layer
  std::int64_t softmax_layers = 0;  // each holds keys, then values, of up to `capacity` tokens
  std::int64_t context = 0;         // tokens that may be used
  std::int64_t capacity = 0;        // tokens for which there is room, at least `context`
};

/// Positions are 32-bit numbers in ggml.
constexpr std::int64_t kLongest = std::numeric_limits<std::int32_t>::max();

/// The memory of an engine's sequences: independent of each other, taken when they begin.
class Sequences {
 public:
  Sequences(int count, const SequenceSizes& sizes);

  const SequenceSizes& sizes() const { return sizes_; }
  Sequence& at(int id);  ///< Error where there is none
  const Sequence& at(int id) const;
  std::byte* cache(int id, std::int64_t softmax_layer, bool values) const;

  int begin();  ///< Error where all are in use
  void end(int id);
  int fork(int id);
  void pretend(int id, std::int64_t tokens);
  /// `owner`: the model, Model::fingerprint. Error where it is not the one of the saved bytes.
  std::vector<std::byte> save(int id, std::string_view owner) const;
  int restore(std::span<const std::byte> saved, std::string_view owner);
  std::int64_t state_bytes(int id) const;

 private:
  template <class Visit>
  void for_caches(const Visit& visit) const;

  SequenceSizes sizes_;
  std::vector<Sequence> all_;
};

}  // namespace unbend::engine
