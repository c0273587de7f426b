// Members of an ensemble that is still being trained, on disk.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "unbend/forecast/training.h"

namespace unbend::forecast {

/// Names the series that a member is trained on.
std::string fingerprint(const series::Collection& source);

/// Nothing if `path` is empty, does not exist, or holds another training or one on another source.
std::optional<Member> load_kept_member(const std::filesystem::path& path, const Training& training,
                                       const std::string& source);
void save_kept_member(const std::filesystem::path& path, const Member& member, const std::string& source);

}  // namespace unbend::forecast
