// Tokenizer and chat template of a GGUF file, by libllama.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct llama_vocab;

namespace unbend::engine {

using TokenId = std::int32_t;

struct ChatMessage {
  std::string role, content;
};

/// Value type over shared immutable state; safe to use from several threads.
class Tokenizer {
 public:
  /// Checks the file with Gguf::open and the vocabulary before libllama sees them. Input error if it has no usable
  /// tokenizer: byte-level BPE ("gpt2") and SentencePiece ("llama") are supported.
  static Tokenizer load(const std::filesystem::path& gguf);

  int size() const;
  TokenId bos() const;            ///< -1 if none
  TokenId eos() const;            ///< -1 if none
  bool adds_bos() const;          ///< whether the model wants a leading BOS
  bool is_end(TokenId id) const;  ///< ends a generation (EOS, EOT, ...)

  /// `parse_special`: text such as "<|im_start|>" becomes the special token. Never adds BOS by itself.
  /// What is not UTF-8 is read as U+FFFD (one per maximal subpart, as Python's errors="replace"). A byte for which a
  /// byte-level vocabulary has no token is dropped; a SentencePiece one gives an Input error.
  std::vector<TokenId> encode(std::string_view text, bool parse_special = false) const;

  /// Bytes of the tokens; special tokens only if `special`. Input error for an id out of range.
  std::string decode(std::span<const TokenId> ids, bool special = false) const;

  bool has_chat_template() const;
  /// The conversation in the file's chat template; `answer` opens the assistant's turn.
  /// Input error if the file has no template or libllama does not know it. libllama recognises the family of a template
  /// and formats by its own code, so what a template adds beyond that (a default system message) is left out.
  std::string chat(const std::vector<ChatMessage>& messages, bool answer = true) const;

  /// libllama's own object, for its samplers; lives as long as this tokenizer or a copy of it.
  const llama_vocab* vocabulary() const;

 private:
  struct Data;
  std::shared_ptr<const Data> data_;
};

}  // namespace unbend::engine
