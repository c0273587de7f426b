// Token files, and sequences cut from them that never cross a document boundary.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/engine/gguf.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/text.h"

namespace unbend::lm {

using engine::TokenId;

/// Documents as token ids, one after the other without BOS or separators.
struct TokenFile {
  struct Source {
    std::string name, sha256;  ///< where the text came from and the hash of the text (not of the file)
    bool operator==(const Source&) const = default;
  };
  std::vector<TokenId> ids;
  std::vector<std::int64_t> starts{0};  ///< document d is ids [starts[d], starts[d + 1])
  std::vector<Source> sources;          ///< one per document
  std::string tokenizer;                ///< tokenizer_hash() of the model whose ids these are
  int vocabulary = 0;                   ///< every id is below

  std::int64_t documents() const { return static_cast<std::int64_t>(starts.size()) - 1; }
};

/// SHA-256 over what makes ids: the tokenizer's model, pre-tokenizer, tokens and merges. The same for all quantisations
/// of a model.
std::string tokenizer_hash(const engine::Gguf& model);

/// Encodes each text as one document; texts that give no token are left out. `quiet` hides the progress.
TokenFile tokenize(const std::vector<Text>& texts, const engine::Tokenizer& tokenizer,
                   const std::string& tokenizer_hash, bool quiet = true);

/// Reads files and folders (read_texts), encodes them with the model's tokenizer and saves the result.
TokenFile make_token_file(const std::vector<std::filesystem::path>& inputs, const std::filesystem::path& model,
                          const std::filesystem::path& out, bool quiet = false);

/// A safetensors file: "ids" U16 (I32 for vocabularies above 65,536), "starts" I64, metadata. Atomic; equal contents
/// give equal bytes.
void save_tokens(const std::filesystem::path& path, const TokenFile& file);

/// Input error naming the file for anything that save_tokens would not write; `tokenizer_hash`, unless empty, must be
/// that of the file.
TokenFile load_tokens(const std::filesystem::path& path, const std::string& tokenizer_hash = {});

/// The last `fraction` of the tokens apart: {training, validation}. A document that the cut falls into becomes two.
std::pair<TokenFile, TokenFile> split_tail(const TokenFile& file, double fraction);

// ---- Evaluation: whole windows

/// Tokens [start, start + length) of one document.
struct Window {
  std::int64_t start, length;
  bool operator==(const Window&) const = default;
};

/// Windows of exactly `length` tokens side by side from the start of each document; each document's tail is left out.
std::vector<Window> full_windows(const TokenFile& file, std::int64_t length);

/// `count` of the full windows by chance, none of which touches one of `avoid`, in order. Input error if there are too
/// few.
std::vector<Window> choose_windows(const TokenFile& file, std::int64_t length, std::int64_t count, Random& random,
                                   const std::vector<Window>& avoid = {});

/// Windows of equal lengths as frozen test data: name -> rows. A safetensors file of I32 or U16 [rows, length] tensors.
using FrozenWindows = std::map<std::string, std::vector<std::vector<TokenId>>>;
void save_windows(const std::filesystem::path& path, const FrozenWindows& windows, int vocabulary,
                  const std::string& tokenizer_hash);
FrozenWindows load_windows(const std::filesystem::path& path, const std::string& tokenizer_hash = {});

// ---- Training: batches

struct BatchOptions {
  std::int64_t length = 512;  ///< most positions per sequence
  std::int64_t rows = 2;      ///< most sequences per batch
  std::int64_t least = 32;    ///< documents, or tails of documents, with fewer targets are dropped
  TokenId bos = -1;           ///< if not -1, every sequence starts with it
  std::uint64_t seed = 1;
};

/// One batch, row-major [rows, length]. targets[i] is the token after position i, -1 where there is nothing to learn:
/// padding (on the right, id 0), BOS, and positions whose target another sequence has.
struct TokenBatch {
  std::int64_t rows = 0, length = 0;
  std::vector<TokenId> ids, targets;
};

/// What cutting a file costs.
struct BatchStats {
  std::int64_t sequences = 0, batches = 0;  ///< per epoch
  std::int64_t targets = 0, dropped = 0;    ///< tokens learned per epoch; tokens in dropped documents and tails
  std::int64_t positions = 0;               ///< computed per epoch, padding and repeated context included
};

/// Endless batches. A document gives windows of `length` side by side; the last one moves back so that it ends with the
/// document, and the positions that it repeats are context without targets. So full sequences need no padding, no
/// target comes twice in an epoch, and no sequence sees two documents. Documents shorter than `length` come in batches
/// with others of similar length, padded to the longest. The order is a new shuffle every epoch.
class TokenBatches {
 public:
  /// Input error if nothing is left to learn.
  TokenBatches(std::shared_ptr<const TokenFile> file, const BatchOptions& options);

  TokenBatch next();

  /// The whole state: seek(position()) on a new object with equal arguments gives the same batches again.
  struct Position {
    std::int64_t epoch = 0, batch = 0;
  };
  Position position() const { return position_; }
  void seek(Position position);

  const BatchStats& stats() const { return stats_; }

 private:
  struct Sequence {
    std::int64_t start, length, context;  // tokens [start, start + length); no targets before `context`
  };
  void shuffle();

  std::shared_ptr<const TokenFile> file_;
  BatchOptions options_;
  std::vector<Sequence> sequences_, order_;
  std::vector<std::int64_t> batches_;  // the first sequence of each batch, in the epoch's order
  BatchStats stats_;
  Position position_;
};

/// Fisher-Yates.
template <class T>
void shuffle(std::vector<T>& items, Random& random) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.below(i)]);
}

}  // namespace unbend::lm
