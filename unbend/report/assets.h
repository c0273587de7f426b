// Contents of the files that every HTML report carries; CMake makes the definitions (cmake/Embed.cmake).
#pragma once

#include <string_view>

namespace unbend::assets {

extern const std::string_view kReportCss, kReportJs, kUplotCss, kUplotJs, kUplotLicense;

}  // namespace unbend::assets
