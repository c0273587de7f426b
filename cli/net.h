// Verbs of the group `unbend net`; each is one file of this folder.
#pragma once

#include <CLI/CLI.hpp>

namespace unbend {

void add_net_regions_verb(CLI::App& net);  ///< cli/net_regions.cc

}  // namespace unbend
