// Verbs of the group `unbend net`; each is one file of this folder.
#pragma once

#include <CLI/CLI.hpp>

namespace unbend {

void add_net_regions_verb(CLI::App& net);        ///< cli/net_regions.cc
void add_net_parameterize_verbs(CLI::App& net);  ///< parameterize, coordcheck, transfer
void add_net_uncertainty_verb(CLI::App& net);    ///< cli/net_uncertainty.cc

}  // namespace unbend
