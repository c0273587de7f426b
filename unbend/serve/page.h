// The chat page (page/chat.html), embedded at build time.
#pragma once

#include <string_view>

namespace unbend::serve {

extern const std::string_view kPage;

}  // namespace unbend::serve
