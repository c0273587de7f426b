#include "unbend/engine/byte_vocabulary.h"

#include <cstdint>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/engine/gguf_write.h"

namespace unbend::engine {
namespace {

constexpr int kBytes = 256;

/// The printable characters that byte-level BPE writes for bytes (Radford et al. 2019): the printable ones of Latin-1
/// for themselves, U+0100 and those after it for the others in turn.
std::vector<std::string> byte_characters() {
  std::vector<std::string> characters;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < kBytes; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const char32_t c = prints ? byte : next++;
    characters.push_back(c < 0x80
                             ? std::string(1, static_cast<char>(c))
                             : std::string{static_cast<char>(0xc0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3f))});
  }
  return characters;
}

}  // namespace

std::vector<std::string> byte_vocabulary(int size) {
  require(size > kBytes, "a vocabulary of bytes has at least {} tokens, not {}", kBytes + 1, size);
  constexpr std::int64_t kNormal = 1, kControl = 3, kUnused = 5;  // llama.cpp's token types
  auto tokens = byte_characters();
  std::vector<std::int64_t> types(kBytes, kNormal);
  tokens.emplace_back("<|end|>");
  types.push_back(kControl);
  for (int id = kBytes + 1; id < size; ++id) {
    tokens.push_back(fmt::format("<|unused {}|>", id));
    types.push_back(kUnused);
  }
  std::vector<std::string> entries;
  const auto entry = [&](const char* key, const MetaValue& value) {
    entries.push_back(encode_entry(std::string("tokenizer.ggml.") + key, value));
  };
  entry("model", "gpt2");
  entry("pre", "gpt-2");
  entry("tokens", tokens);
  entry("token_type", types);
  entry("merges", std::vector<std::string>());
  entry("bos_token_id", std::uint64_t{kBytes});
  entry("eos_token_id", std::uint64_t{kBytes});
  entry("add_bos_token", false);
  return entries;
}

Tokenizer byte_tokenizer(int size) {
  auto entries = byte_vocabulary(size);
  entries.push_back(encode_entry("general.architecture", "llama"));
  const TemporaryFolder folder;
  write_gguf(folder.path() / "bytes.gguf", entries, {});
  return Tokenizer::load(folder.path() / "bytes.gguf");
}

}  // namespace unbend::engine
