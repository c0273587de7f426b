// Pictures in PNG and JPEG files, decoded by stb_image. No tensors here, so that the fuzzer needs no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace unbend {

struct Picture {
  std::int64_t height = 0, width = 0;
  std::int64_t channels = 0;         ///< 1 (grey) or 3 (red, green, blue)
  std::vector<std::uint8_t> pixels;  ///< [height, width, channels]
};

/// PNG of every kind (16 bits are cut to 8), JPEG baseline and progressive. Transparency and the orientation that a
/// camera noted are ignored. Input error that starts with `where` for other and for damaged files, and for pictures of
/// more than `most` pixels.
Picture decode_picture(std::span<const std::byte> file, const std::string& where, std::int64_t most = 1 << 26);

Picture read_picture(const std::filesystem::path& path);

/// Whether the name ends like those of pictures: .png, .jpg, .jpeg, in capitals too.
bool is_picture_name(const std::filesystem::path& path);

}  // namespace unbend
