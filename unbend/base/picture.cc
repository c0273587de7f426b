#include "unbend/base/picture.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <memory>

#include "unbend/base/error.h"
#include "unbend/base/files.h"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_MAX_DIMENSIONS (1 << 16)
#include <stb_image.h>

namespace unbend {

Picture decode_picture(std::span<const std::byte> file, const std::string& where, std::int64_t most) {
  require(file.size() <= std::numeric_limits<int>::max(), "{}: too large for a picture ({} bytes)", where, file.size());
  const auto* data = reinterpret_cast<const stbi_uc*>(file.data());
  const auto size = static_cast<int>(file.size());
  int width = 0, height = 0, stored = 0;
  if (stbi_info_from_memory(data, size, &width, &height, &stored) == 0)
    fail_input("{}: not a PNG or JPEG picture, or one that is too large", where);
  require(std::int64_t{width} * height <= most, "{}: {} x {} pixels are too many", where, width, height);
  const int channels = stored <= 2 ? 1 : 3;  // 2 and 4: the last one is transparency
  const std::unique_ptr<stbi_uc, decltype(&stbi_image_free)> pixels(
      stbi_load_from_memory(data, size, &width, &height, &stored, channels), stbi_image_free);
  if (!pixels) fail_input("{}: the picture is damaged ({})", where, stbi_failure_reason());
  const auto count = static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * channels;
  return {height, width, channels, {pixels.get(), pixels.get() + count}};
}

Picture read_picture(const std::filesystem::path& path) {
  const MappedFile file(path);
  return decode_picture(file.bytes(), path.string());
}

bool is_picture_name(const std::filesystem::path& path) {
  auto ending = path.extension().string();
  std::ranges::transform(ending, ending.begin(), [](unsigned char c) { return std::tolower(c); });
  return ending == ".png" || ending == ".jpg" || ending == ".jpeg";
}

}  // namespace unbend
