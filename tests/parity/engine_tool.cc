// What the parity tests ask of unbend/engine: one command, files in, files out.
#include <ggml.h>

#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/engine/gguf.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/import.h"
#include "unbend/engine/reference.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::engine {
namespace {

using Arguments = std::vector<std::string>;

template <class T>
void write_values(const std::string& path, std::span<const T> values) {
  write_file(path, std::string_view(reinterpret_cast<const char*>(values.data()), values.size_bytes()));
}

template <class T>
std::vector<T> read_values(const std::string& path) {
  const std::string bytes = read_file(path);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

/// MODEL OUT: every tensor that can be read as floats, one after the other, float32. Prints their names.
void dequantize(const Arguments& arguments) {
  const Gguf gguf = Gguf::open(arguments.at(0));
  std::vector<float> all;
  for (const TensorInfo& tensor : gguf.tensors()) {
    if (!is_supported(tensor.type)) continue;
    std::cout << tensor.name << "\n";
    all.resize(all.size() + tensor.elements());
    gguf.dequantize(tensor, 0, tensor.rows(), all.data() + all.size() - tensor.elements());
  }
  write_values<float>(arguments.at(1), all);
}

/// VALUES ROW OUT: a model with the float32 values, in rows of ROW, quantised to each supported type by ggml.
void quantize(const Arguments& arguments) {
  const auto values = read_values<float>(arguments.at(0));
  const std::int64_t row = std::stoll(arguments.at(1));
  const std::int64_t rows = static_cast<std::int64_t>(values.size()) / row;
  const std::vector<float> importance(row, 1.f);
  std::vector<TensorSource> tensors;
  for (const int type : supported_types()) {
    tensors.push_back({type_name(type), type, {rows, row}, [&, type](std::span<std::byte> bytes) {
                         ggml_quantize_chunk(static_cast<ggml_type>(type), values.data(), bytes.data(), 0, rows, row,
                                             importance.data());
                       }});
  }
  write_gguf(arguments.at(2), {encode_entry("general.architecture", std::string("llama"))}, tensors);
}

/// MODEL TEXTS OUT SPECIAL: TEXTS holds texts, each after its length (uint32); OUT gets ids, each list after its
/// length. SPECIAL is 1 to read special tokens in the texts.
void encode(const Arguments& arguments) {
  const Tokenizer tokenizer = Tokenizer::load(arguments.at(0));
  const std::string texts = read_file(arguments.at(1));
  std::vector<TokenId> all;
  for (std::size_t position = 0; position < texts.size();) {
    std::uint32_t length;
    std::memcpy(&length, texts.data() + position, sizeof(length));
    const auto ids =
        tokenizer.encode(std::string_view(texts).substr(position + sizeof(length), length), arguments.at(3) == "1");
    all.push_back(static_cast<TokenId>(ids.size()));
    all.insert(all.end(), ids.begin(), ids.end());
    position += sizeof(length) + length;
  }
  write_values<TokenId>(arguments.at(2), all);
}

/// MODEL IDS OUT THREADS: logits by libllama, float32.
void logits(const Arguments& arguments) {
  const auto ids = read_values<TokenId>(arguments.at(1));
  write_values<float>(arguments.at(2), llama_logits(arguments.at(0), ids, std::stoi(arguments.at(3))));
}

int run(const std::string& command, const Arguments& arguments) {
  if (command == "dequantize") {
    dequantize(arguments);
  } else if (command == "quantize") {
    quantize(arguments);
  } else if (command == "encode") {
    encode(arguments);
  } else if (command == "logits") {
    logits(arguments);
  } else if (command == "rewrite") {
    rewrite_as_f32(Gguf::open(arguments.at(0)), arguments.at(1));
  } else if (command == "import") {
    import_model(arguments.at(0), arguments.at(1), {.type = arguments.at(2)});
  } else {
    std::cerr << "unknown command " << command << "\n";
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace unbend::engine

int main(int count, char** values) {
  try {
    return unbend::engine::run(count > 1 ? values[1] : "", {values + std::min(count, 2), values + count});
  } catch (const unbend::Error& error) {
    std::cerr << error.what() << "\n";
    return error.exit_code();
  }
}
