#include "unbend/engine/import.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <system_error>

#include "unbend/base/error.h"
#include "unbend/base/json.h"
#include "unbend/base/subprocess.h"
#include "unbend/engine/gguf.h"

namespace unbend::engine {
namespace fs = std::filesystem;
namespace {

std::string setting(const char* variable, const char* fallback) {
  const char* value = std::getenv(variable);
  return value && *value ? value : fallback;
}

/// The converter's library runs Python code of the folder if a configuration names it; we do not.
void refuse_own_code(const fs::path& config) {
  if (!fs::exists(config)) return;
  const Json json = read_json(config);
  require(!json.is_object() || !json.contains("auto_map"),
          "{}: 'auto_map' asks to run code that comes with the model, which is not supported", config.string());
}

void check_index(const fs::path& index) {
  const Json json = read_json(index);
  const Json map = json_get<Json>(json, "weight_map", index.string());
  require(map.is_object() && !map.empty(), "{}: 'weight_map' must name the file of each tensor", index.string());
  std::set<std::string> files;
  for (const auto& [tensor, file] : map.items()) files.insert(json_get<std::string>(map, tensor, index.string()));
  for (const std::string& file : files) {
    require(fs::path(file).filename() == file && fs::is_regular_file(index.parent_path() / file),
            "{}: the weight file '{}' is missing", index.string(), file);
  }
}

void check_weights(const fs::path& folder) {
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    const std::string index = std::string(name) + ".index.json";
    if (fs::exists(folder / index)) return check_index(folder / index);
    if (fs::is_regular_file(folder / name)) return;
  }
  fail_input("{}: no weights: neither model.safetensors nor pytorch_model.bin, nor an index of their parts",
             folder.string());
}

void check_folder(const fs::path& folder) {
  require(fs::is_directory(folder), "{}: not a folder", folder.string());
  require(fs::is_regular_file(folder / "config.json"), "{}: no config.json: is it a Hugging Face model folder?",
          folder.string());
  const Json config = read_json(folder / "config.json");
  require(config.is_object() && (config.contains("architectures") || config.contains("model_type")),
          "{}: names neither 'architectures' nor 'model_type'", (folder / "config.json").string());
  refuse_own_code(folder / "config.json");
  refuse_own_code(folder / "tokenizer_config.json");
  check_weights(folder);
  const auto has = [&](const char* name) { return fs::is_regular_file(folder / name); };
  require(has("tokenizer.json") || has("tokenizer.model") || (has("vocab.json") && has("merges.txt")),
          "{}: no tokenizer: tokenizer.json, tokenizer.model, or vocab.json and merges.txt", folder.string());
}

/// The converter fills in braces of its output path as a template.
std::string without_template(const std::string& path) {
  std::string result;
  for (const char c : path) result.append(c == '{' || c == '}' ? 2 : 1, c);
  return result;
}

/// The last line that says something: of a Python traceback, the exception.
std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of(" \n\r\t");
  if (end == std::string::npos) return "it gave no reason";
  const std::size_t start = text.find_last_of("\n\r", end);
  return text.substr(start == std::string::npos ? 0 : start + 1,
                     end - (start == std::string::npos ? 0 : start + 1) + 1);
}

struct Temporary {
  fs::path path;
  ~Temporary() {
    std::error_code ignored;
    fs::remove(path, ignored);
  }
};

}  // namespace

const std::vector<std::string>& import_types() {
  static const std::vector<std::string> types = {"f32", "f16", "bf16", "q8_0"};
  return types;
}

void import_model(const fs::path& folder, const fs::path& out, const ImportOptions& options) {
  if (!std::ranges::count(import_types(), options.type)) {
    fail_usage("unknown type '{}', use one of {}", options.type, fmt::join(import_types(), ", "));
  }
  check_folder(folder);
  const std::string converter = setting("UNBEND_CONVERTER", UNBEND_DEFAULT_CONVERTER);
  const std::string python = setting("UNBEND_PYTHON", UNBEND_DEFAULT_PYTHON);
  require(fs::is_regular_file(converter),
          "the converter is not at {}: run tools/setup.sh llama or set UNBEND_CONVERTER", converter);

  const fs::path target = fs::absolute(out);
  if (!fs::is_directory(target.parent_path()) || ::access(target.parent_path().c_str(), W_OK) != 0) {
    fail_computation("cannot write {}: its folder is missing or not writable", out.string());
  }
  const Temporary temporary{target.parent_path() / fmt::format(".{}.{}.part", target.filename().string(), ::getpid())};
  const CommandResult result =
      run_command({python, converter, "--outfile", without_template(temporary.path.string()), "--outtype", options.type,
                   fs::absolute(folder).string()},
                  {.capture = !options.show_output,
                   .environment = {"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1"}});
  require(result.exit_code == 0, "{}: the converter failed{}", folder.string(),
          options.show_output ? std::string() : ": " + last_line(result.errors));
  Gguf::open(temporary.path);
  std::error_code error;
  fs::rename(temporary.path, target, error);
  if (error) fail_computation("cannot write {}: {}", out.string(), error.message());
}

}  // namespace unbend::engine
