// Pyramids in safetensors files, with their configuration.
#pragma once

#include <filesystem>

#include "unbend/base/json.h"
#include "unbend/nets/pyramid.h"

namespace unbend {

struct StoredPyramid {
  Pyramid net;
  Json about;  ///< what whoever stored it had to say: classes, training, ...
};

/// Writes parameters, running statistics and, as JSON in the metadata under "unbend.pyramid", configuration and
/// `about`. Atomic. Input error for numbers that are not finite.
void save_pyramid(const std::filesystem::path& path, const Pyramid& net, const Json& about);

/// The same network, bit for bit. Input error that names the file if it is no such file, or its tensors do not fit its
/// configuration.
StoredPyramid load_pyramid(const std::filesystem::path& path);

Json to_json(const PyramidConfig& config);
PyramidConfig pyramid_config(const Json& json, const std::string& where);

}  // namespace unbend
