// Members of an ensemble that is still being trained, on disk.
#pragma once

#include <filesystem>
#include <optional>

#include "unbend/forecast/training.h"

namespace unbend::forecast {

/// Nothing if `path` is empty, does not exist, or holds another training.
std::optional<Member> load_kept_member(const std::filesystem::path& path, const Training& training);
void save_kept_member(const std::filesystem::path& path, const Member& member);

}  // namespace unbend::forecast
