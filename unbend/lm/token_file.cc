// Token files: making, saving, loading. The safetensors container is written by hand because this part of lm/ needs no
// LibTorch.
#include <algorithm>
#include <cstring>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/json.h"
#include "unbend/base/progress.h"
#include "unbend/base/safetensors_header.h"
#include "unbend/lm/corpus.h"

namespace unbend::lm {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTokens = "unbend-tokens-1", kWindows = "unbend-windows-1";
constexpr int kShortVocabulary = 1 << 16;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string text_of(const engine::MetaValue* value) {
  if (value == nullptr) return {};
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  const auto* list = std::get_if<std::vector<std::string>>(value);
  std::string out;
  if (list)
    for (const auto& item : *list) out += fmt::format("{} {}\n", item.size(), item);
  return out;
}

std::string pack_ids(std::span<const TokenId> ids, bool narrow) {
  std::string out(ids.size() * (narrow ? 2 : 4), '\0');
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto id = static_cast<std::uint16_t>(ids[i]);
    std::memcpy(out.data() + i * (narrow ? 2 : 4), narrow ? static_cast<const void*>(&id) : &ids[i], narrow ? 2 : 4);
  }
  return out;
}

std::vector<TokenId> unpack_ids(std::span<const std::byte> data, std::string_view type) {
  const bool narrow = type == "U16";
  std::vector<TokenId> ids(data.size() / (narrow ? 2 : 4));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::uint16_t id = 0;
    std::memcpy(narrow ? static_cast<void*>(&id) : &ids[i], data.data() + i * (narrow ? 2 : 4), narrow ? 2 : 4);
    if (narrow) ids[i] = id;
  }
  return ids;
}

void check_ids(std::span<const TokenId> ids, int vocabulary, std::string_view where) {
  const auto bad = std::ranges::find_if(ids, [&](TokenId id) { return id < 0 || id >= vocabulary; });
  require(bad == ids.end(), "{}: token {} at {} is not in the vocabulary of {}", where, bad == ids.end() ? 0 : *bad,
          bad - ids.begin(), vocabulary);
}

struct Container {
  MappedFile file;
  SafetensorsHeader header;
  int vocabulary;
  std::string tokenizer;

  std::span<const std::byte> data(const SafetensorsEntry& entry) const {
    return file.bytes().subspan(entry.begin, entry.end - entry.begin);
  }
};

// Opens a file of ours of the given format and checks the metadata that all have.
Container open(const fs::path& path, std::string_view format, const std::string& tokenizer_hash) {
  MappedFile file(path);
  auto header = parse_safetensors_header(file.bytes(), path.string());
  auto& metadata = header.metadata;
  require(metadata["format"] == format, "{}: not a file of format {}", path.string(), format);
  const auto tokenizer = metadata["tokenizer"];
  require(tokenizer_hash.empty() || tokenizer == tokenizer_hash,
          "{}: its ids come from another tokenizer ({:.12}..., the model has {:.12}...)", path.string(), tokenizer,
          tokenizer_hash);
  int vocabulary = 0;
  try {
    vocabulary = std::stoi(metadata["vocabulary"]);
  } catch (const std::exception&) {
    fail_input("{}: metadata 'vocabulary' is '{}', expected a number", path.string(), metadata["vocabulary"]);
  }
  return {std::move(file), std::move(header), vocabulary, tokenizer};
}

std::map<std::string, std::string> common_metadata(std::string_view format, int vocabulary,
                                                   const std::string& tokenizer) {
  return {{"format", std::string(format)}, {"vocabulary", std::to_string(vocabulary)}, {"tokenizer", tokenizer}};
}

}  // namespace

std::string tokenizer_hash(const engine::Gguf& model) {
  std::string text;
  for (const auto* key :
       {"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    const auto value = text_of(model.meta(key));
    text += fmt::format("{} {}\n{}\n", key, value.size(), value);
  }
  return sha256(bytes_of(text));
}

TokenFile tokenize(const std::vector<Text>& texts, const engine::Tokenizer& tokenizer,
                   const std::string& tokenizer_hash, bool quiet) {
  TokenFile file;
  file.tokenizer = tokenizer_hash;
  file.vocabulary = tokenizer.size();
  std::int64_t total = 0, done = 0;
  for (const auto& text : texts) total += static_cast<std::int64_t>(text.text.size());
  Progress progress("tokenize", total, "bytes", quiet);
  for (const auto& text : texts) {
    const auto ids = tokenizer.encode(text.text);
    progress.update(done += static_cast<std::int64_t>(text.text.size()));
    if (ids.empty()) continue;
    file.ids.insert(file.ids.end(), ids.begin(), ids.end());
    file.starts.push_back(static_cast<std::int64_t>(file.ids.size()));
    file.sources.push_back({text.source, sha256(bytes_of(text.text))});
  }
  return file;
}

TokenFile make_token_file(const std::vector<fs::path>& inputs, const fs::path& model, const fs::path& out, bool quiet) {
  const auto hash = tokenizer_hash(engine::Gguf::open(model));
  const auto file = tokenize(read_texts(inputs), engine::Tokenizer::load(model), hash, quiet);
  require(!file.ids.empty(), "the {} inputs give no tokens", inputs.size());
  save_tokens(out, file);
  return file;
}

void save_tokens(const fs::path& path, const TokenFile& file) {
  check_ids(file.ids, file.vocabulary, path.string());
  const bool narrow = file.vocabulary <= kShortVocabulary;
  const auto ids = pack_ids(file.ids, narrow);
  const std::string_view starts(reinterpret_cast<const char*>(file.starts.data()),
                                file.starts.size() * sizeof(std::int64_t));
  Json sources = Json::array();
  for (const auto& source : file.sources) sources.push_back({source.name, source.sha256});

  SafetensorsHeader header;
  header.metadata = common_metadata(kTokens, file.vocabulary, file.tokenizer);
  header.metadata["sources"] = sources.dump();
  header.tensors = {{"starts", "I64", {static_cast<std::int64_t>(file.starts.size())}, 0, starts.size()},
                    {"ids", narrow ? "U16" : "I32", {static_cast<std::int64_t>(file.ids.size())}, 0, ids.size()}};
  const auto head = write_safetensors_header(header);
  write_file(path, std::vector<std::string_view>{head, starts, ids});
}

TokenFile load_tokens(const fs::path& path, const std::string& tokenizer_hash) {
  const auto where = path.string();
  const auto box = open(path, kTokens, tokenizer_hash);
  const auto& tensors = box.header.tensors;
  require(tensors.size() == 2 && tensors[0].name == "starts" && tensors[0].type == "I64" && tensors[1].name == "ids" &&
              (tensors[1].type == "U16" || tensors[1].type == "I32") && tensors[0].shape.size() == 1 &&
              tensors[1].shape.size() == 1,
          "{}: expected the tensors 'starts' (I64) and 'ids' (U16 or I32)", where);
  TokenFile file;
  file.vocabulary = box.vocabulary;
  file.tokenizer = box.tokenizer;
  file.ids = unpack_ids(box.data(tensors[1]), tensors[1].type);
  check_ids(file.ids, file.vocabulary, where);
  const auto starts = box.data(tensors[0]);
  file.starts.resize(starts.size() / sizeof(std::int64_t));
  if (!starts.empty()) std::memcpy(file.starts.data(), starts.data(), starts.size());
  require(!file.starts.empty() && file.starts.front() == 0 &&
              file.starts.back() == static_cast<std::int64_t>(file.ids.size()) &&
              std::ranges::adjacent_find(file.starts, std::greater_equal()) == file.starts.end(),
          "{}: 'starts' does not rise from 0 to the number of ids", where);

  const auto listed = box.header.metadata.find("sources");
  const auto sources = parse_json(listed == box.header.metadata.end() ? "[]" : listed->second, where + ": sources");
  require(sources.is_array() && static_cast<std::int64_t>(sources.size()) == file.documents(),
          "{}: {} sources for {} documents", where, sources.size(), file.documents());
  for (const auto& source : sources) {
    require(source.is_array() && source.size() == 2 && source[0].is_string() && source[1].is_string(),
            "{}: a source is not [name, sha256]", where);
    file.sources.push_back({source[0], source[1]});
  }
  return file;
}

void save_windows(const fs::path& path, const FrozenWindows& windows, int vocabulary,
                  const std::string& tokenizer_hash) {
  const bool narrow = vocabulary <= kShortVocabulary;
  SafetensorsHeader header;
  header.metadata = common_metadata(kWindows, vocabulary, tokenizer_hash);
  std::vector<std::string> data;
  for (const auto& [name, rows] : windows) {
    require(!rows.empty(), "{}: '{}' has no windows", path.string(), name);
    data.emplace_back();
    for (const auto& row : rows) {
      require(row.size() == rows[0].size(), "{}: windows of different lengths in '{}'", path.string(), name);
      check_ids(row, vocabulary, path.string());
      data.back() += pack_ids(row, narrow);
    }
    header.tensors.push_back({name,
                              narrow ? "U16" : "I32",
                              {static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(rows[0].size())},
                              0,
                              data.back().size()});
  }
  data.insert(data.begin(), write_safetensors_header(header));
  write_file(path, std::vector<std::string_view>(data.begin(), data.end()));
}

FrozenWindows load_windows(const fs::path& path, const std::string& tokenizer_hash) {
  const auto box = open(path, kWindows, tokenizer_hash);
  FrozenWindows windows;
  for (const auto& entry : box.header.tensors) {
    require((entry.type == "U16" || entry.type == "I32") && entry.shape.size() == 2,
            "{}: '{}' is not a [rows, length] tensor of ids", path.string(), entry.name);
    const auto ids = unpack_ids(box.data(entry), entry.type);
    check_ids(ids, box.vocabulary, path.string());
    auto& rows = windows[entry.name];
    const auto length = entry.shape[1];
    require(!ids.empty(), "{}: '{}' has no ids", path.string(), entry.name);
    for (auto at = ids.begin(); at != ids.end(); at += length) rows.emplace_back(at, at + length);
  }
  return windows;
}

}  // namespace unbend::lm
