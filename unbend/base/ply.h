// Point clouds in PLY files (Turk, 1994): the numbers of each vertex. Faces and all else are passed over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unbend {

struct PlyVertices {
  std::vector<std::string> properties;  ///< names in the order of the file: "x", "y", "z", ...; without lists
  std::int64_t count = 0;
  std::vector<double> values;  ///< [count, properties]
};

/// Format 1.0, ASCII or binary of both byte orders. Input error that starts with `where` and names the line or the
/// offset for a damaged file, for one without vertices and for numbers that are missing.
PlyVertices parse_ply(std::span<const std::byte> file, std::string_view where);
PlyVertices read_ply(const std::filesystem::path& path);

}  // namespace unbend
