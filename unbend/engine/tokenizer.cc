#include "unbend/engine/tokenizer.h"

#include <limits>
#include <unordered_set>

#include "unbend/base/error.h"
#include "unbend/engine/gguf.h"
#include "unbend/engine/gguf_parse.h"
#include "unbend/engine/llama.h"

namespace unbend::engine {
namespace {

constexpr const char* kModel = "tokenizer.ggml.model";
constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kMerges = "tokenizer.ggml.merges";
constexpr const char* kTemplate = "tokenizer.chat_template";

/// The array of a metadata key, null if it is absent.
template <class T>
const std::vector<T>* array(const Gguf& gguf, const char* key, const char* expected) {
  const MetaValue* value = gguf.meta(key);
  if (!value) return nullptr;
  const auto* found = std::get_if<std::vector<T>>(value);
  require(found != nullptr, "{}: metadata key '{}' has another type, expected {}", gguf.path().string(), key, expected);
  return found;
}

/// libllama aborts the process if two tokens have the same text, read as C strings.
void check_tokens(const Gguf& gguf, const std::vector<std::string>& tokens) {
  const std::string file = gguf.path().string();
  require(!tokens.empty(), "{}: metadata key '{}' is empty", file, kTokens);
  require(tokens.size() <= std::size_t{std::numeric_limits<TokenId>::max()}, "{}: too many tokens: {}", file,
          tokens.size());
  std::unordered_set<std::string> seen;
  seen.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const std::string text = tokens[id].c_str();
    if (!seen.insert(text.empty() ? fmt::format("[EMPTY_{}]", id) : text).second) {
      fail_input("{}: token {} of '{}' has the same text as an earlier one: {}", file, id, kTokens, show_name(text));
    }
  }
}

void check_special_ids(const Gguf& gguf, std::size_t tokens) {
  for (const auto& [key, value] : gguf.metadata()) {
    if (!key.starts_with("tokenizer.ggml.") || !key.ends_with("_token_id")) continue;
    const std::int64_t id = gguf.integer(key);
    require(id >= 0 && id < static_cast<std::int64_t>(tokens), "{}: {} is {}, but there are {} tokens",
            gguf.path().string(), key, id, tokens);
  }
}

/// Everything on which libllama would abort, or which it would report less clearly.
void check_tokenizer(const Gguf& gguf) {
  const std::string file = gguf.path().string();
  require(gguf.meta(kModel) && gguf.meta(kTokens), "{}: the file has no tokenizer ('{}' and '{}')", file, kModel,
          kTokens);
  const std::string model = gguf.text(kModel);
  require(model == "gpt2" || model == "llama",
          "{}: tokenizer {} is not supported, only 'gpt2' (BPE) and 'llama' (SentencePiece)", file, show_name(model));
  const auto* tokens = array<std::string>(gguf, kTokens, "strings");
  check_tokens(gguf, *tokens);

  const auto* types = array<std::int64_t>(gguf, kTypes, "integers");
  require(!types || types->size() == tokens->size(), "{}: '{}' has {} entries for {} tokens", file, kTypes,
          types ? types->size() : 0, tokens->size());
  if (const MetaValue* scores = gguf.meta(kScores)) {
    const auto* reals = std::get_if<std::vector<double>>(scores);
    const auto* integers = std::get_if<std::vector<std::int64_t>>(scores);
    const std::size_t count = reals ? reals->size() : integers ? integers->size() : 0;
    require(count == tokens->size(), "{}: '{}' has {} numbers for {} tokens", file, kScores, count, tokens->size());
  }
  if (model == "gpt2") {
    const auto* merges = array<std::string>(gguf, kMerges, "strings");
    require(merges != nullptr, "{}: the file has no '{}'", file, kMerges);
    for (std::size_t i = 0; i < merges->size(); ++i) {
      if ((*merges)[i].find(' ', 1) == std::string::npos) {
        fail_input("{}: entry {} of '{}' is not two tokens and a space: {}", file, i, kMerges, show_name((*merges)[i]));
      }
    }
  }
  check_special_ids(gguf, tokens->size());
  gguf.text(kTemplate, "");
}

/// Length in bytes of the character at the start of `text`, and whether it is valid UTF-8 (Unicode 15, table 3-7). Of
/// an invalid one, the length of what U+FFFD replaces: the longest beginning of a valid character, or one byte.
std::pair<std::size_t, bool> first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true};
  const std::size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                             : lead >= 0xe0 && lead <= 0xef ? 3
                             : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                            : 0;
  if (length == 0) return {1, false};
  // No overlong forms, no surrogates, nothing above U+10FFFF: all shown by the second byte.
  const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size() || byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xbf)) return {i, false};
  }
  return {length, true};
}

/// `text` with U+FFFD for what is not UTF-8, as decoders of the web and of Python do it. libllama throws on some of it.
std::string valid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const auto [length, valid] = first_character(text);
    result += valid ? text.substr(0, length) : "\xef\xbf\xbd";
    text.remove_prefix(length);
  }
  return result;
}

}  // namespace

struct Tokenizer::Data {
  std::string file;
  LlamaModel model;
  const llama_vocab* vocab;
  std::string chat_template;
};

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  const Gguf gguf = Gguf::open(path);
  check_tokenizer(gguf);
  const LlamaLog log;
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  auto data = std::make_shared<Data>();
  data->file = path.string();
  data->model.reset(llama_model_load_from_file(path.c_str(), params));
  require(data->model != nullptr, "{}: libllama cannot read the tokenizer: {}", data->file, log.last_error());
  data->vocab = llama_model_get_vocab(data->model.get());
  data->chat_template = gguf.text(kTemplate, "");
  Tokenizer tokenizer;
  tokenizer.data_ = std::move(data);
  return tokenizer;
}

const llama_vocab* Tokenizer::vocabulary() const { return data_->vocab; }

int Tokenizer::size() const { return llama_vocab_n_tokens(data_->vocab); }

TokenId Tokenizer::bos() const { return llama_vocab_bos(data_->vocab); }

TokenId Tokenizer::eos() const { return llama_vocab_eos(data_->vocab); }

bool Tokenizer::adds_bos() const { return llama_vocab_get_add_bos(data_->vocab); }

bool Tokenizer::is_end(TokenId id) const { return llama_vocab_is_eog(data_->vocab, id); }

std::vector<TokenId> Tokenizer::encode(std::string_view input, bool parse_special) const {
  constexpr std::size_t kMax = std::numeric_limits<std::int32_t>::max() / 8;  // replaced bytes grow to three
  require(input.size() <= kMax, "a text of {} bytes is too long to be tokenized at once, at most {}", input.size(),
          kMax);
  const std::string text = valid_utf8(input);
  const auto length = static_cast<std::int32_t>(text.size());
  std::vector<TokenId> ids(text.size() + 1);  // a token has at least one byte; SentencePiece may add a leading space
  const auto tokenize = [&] {
    return llama_tokenize(data_->vocab, text.data(), length, ids.data(), static_cast<int>(ids.size()), false,
                          parse_special);
  };
  try {
    int count = tokenize();
    if (count < 0) {
      ids.resize(-count);
      count = tokenize();
    }
    ids.resize(count);
  } catch (const std::exception&) {  // a byte for which the vocabulary has no token
    fail_input("{}: the tokenizer has no tokens for some bytes of the text", data_->file);
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string text;
  std::vector<char> piece(64);
  for (const TokenId id : ids) {
    require(id >= 0 && id < size(), "token id {} is out of range, the vocabulary has {} tokens", id, size());
    int length = llama_token_to_piece(data_->vocab, id, piece.data(), static_cast<int>(piece.size()), 0, special);
    if (length < 0) {
      piece.resize(-length);
      length = llama_token_to_piece(data_->vocab, id, piece.data(), static_cast<int>(piece.size()), 0, special);
    }
    text.append(piece.data(), length);
  }
  return text;
}

bool Tokenizer::has_chat_template() const { return !data_->chat_template.empty(); }

std::string Tokenizer::chat(const std::vector<ChatMessage>& messages, bool answer) const {
  require(!data_->chat_template.empty(), "{}: the file has no chat template", data_->file);
  std::vector<llama_chat_message> chat;
  std::size_t bytes = 256;
  for (const ChatMessage& message : messages) {
    chat.push_back({message.role.c_str(), message.content.c_str()});
    bytes += 2 * (message.role.size() + message.content.size()) + 64;
  }
  std::string text(bytes, '\0');
  const auto apply = [&] {
    return llama_chat_apply_template(data_->chat_template.c_str(), chat.data(), chat.size(), answer, text.data(),
                                     static_cast<std::int32_t>(text.size()));
  };
  int length = apply();
  require(length >= 0, "{}: libllama does not know the file's chat template", data_->file);
  if (static_cast<std::size_t>(length) > text.size()) {
    text.resize(length);
    length = apply();
  }
  text.resize(length);
  return text;
}

}  // namespace unbend::engine
