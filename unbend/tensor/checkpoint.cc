#include "unbend/tensor/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/safetensors_header.h"
#include "unbend/tensor/safetensors.h"

namespace unbend {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormat = "unbend-checkpoint-1", kPrefix = "step-", kSuffix = ".safetensors";
constexpr std::size_t kDigits = 10;

bool is_checkpoint_name(std::string_view name) {
  return name.size() == kPrefix.size() + kDigits + kSuffix.size() && name.starts_with(kPrefix) &&
         name.ends_with(kSuffix) &&
         std::ranges::all_of(name.substr(kPrefix.size(), kDigits), [](unsigned char c) { return std::isdigit(c); });
}

// write_file's temporary: a dot, the name, a dot and six characters.
bool is_leftover_name(std::string_view name) {
  constexpr std::size_t kTail = 7;
  return name.size() > kTail + 1 && name.front() == '.' && is_checkpoint_name(name.substr(1, name.size() - 1 - kTail));
}

std::vector<fs::path> newest_first(const fs::path& folder, bool (*wanted)(std::string_view)) {
  std::vector<fs::path> files;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(folder, missing))
    if (wanted(entry.path().filename().string())) files.push_back(entry.path());
  std::ranges::sort(files, std::greater());
  return files;
}

}  // namespace

fs::path save_checkpoint(const fs::path& folder, std::int64_t step, const Checkpoint& checkpoint, int keep) {
  require(keep >= 1, "save_checkpoint: keep is {}, expected at least 1", keep);
  require(step >= 0 && step < 10'000'000'000, "save_checkpoint: step {} is out of range", step);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail_computation("cannot make the folder {}: {}", folder.string(), error.message());

  const auto file = folder / fmt::format("{}{:0{}}{}", kPrefix, step, kDigits, kSuffix);
  save_safetensors(file, checkpoint.tensors, {{"format", std::string(kFormat)}, {"state", checkpoint.state.dump()}});
  const auto files = newest_first(folder, is_checkpoint_name);
  for (std::size_t i = keep; i < files.size(); ++i)
    if (files[i] != file) fs::remove(files[i], error);
  for (const auto& leftover : newest_first(folder, is_leftover_name)) fs::remove(leftover, error);
  return file;
}

Checkpoint load_checkpoint(const fs::path& file) {
  auto [tensors, metadata] = load_safetensors(file);
  require(metadata["format"] == kFormat, "{}: not a checkpoint of this version ({})", file.string(), kFormat);
  return {std::move(tensors), parse_json(metadata["state"], file.string() + ": state")};
}

std::optional<fs::path> latest_checkpoint(const fs::path& folder) {
  for (const auto& file : newest_first(folder, is_checkpoint_name)) {
    try {
      parse_safetensors_header(MappedFile(file).bytes(), file.string());
      return file;
    } catch (const Error& error) {  // damaged by the disk, not by us: an older one is better than none
      fmt::print(stderr, "warning: a damaged checkpoint is skipped: {}\n", error.what());
    }
  }
  return std::nullopt;
}

std::map<std::string, at::Tensor> tensors_under(const std::map<std::string, at::Tensor>& tensors,
                                                std::string_view prefix) {
  std::map<std::string, at::Tensor> found;
  for (auto at = tensors.lower_bound(std::string(prefix)); at != tensors.end() && at->first.starts_with(prefix); ++at)
    found.emplace(at->first.substr(prefix.size()), at->second);
  return found;
}

void add_under(std::map<std::string, at::Tensor>& tensors, std::string_view prefix,
               const std::map<std::string, at::Tensor>& added) {
  for (const auto& [name, t] : added) tensors.insert_or_assign(std::string(prefix) + name, t);
}

}  // namespace unbend
