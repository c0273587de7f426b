#include "studies/kept.h"

#include <fmt/format.h>

#include <span>

#include "unbend/base/files.h"

namespace unbend {

KeptTrainings::KeptTrainings(const std::filesystem::path& folder, const std::string& run) {
  const auto program = sha256_file("/proc/self/exe") + run;
  folder_ = folder / sha256(std::as_bytes(std::span(program))).substr(0, 16);
}

std::filesystem::path KeptTrainings::next() { return folder_ / fmt::format("{:03}", ++count_); }

}  // namespace unbend
