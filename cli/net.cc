// The group `unbend net`.
#include "cli/net.h"

#include "cli/verbs.h"

namespace unbend {

void add_net_verbs(CLI::App& app) {
  auto* net = app.add_subcommand("net", "read and shape networks");
  net->require_subcommand(1);
  net->footer(
      "Examples:\n  unbend net uncertainty --model net.pt --input x.npy --std 0.1\n"
      "  unbend net regions --model net.pt --input x.npy --report regions.html\n"
      "  unbend net parameterize model.gguf --base-width 256 --base-depth 4");
  add_net_uncertainty_verb(*net);
  add_net_regions_verb(*net);
  add_net_parameterize_verbs(*net);
}

}  // namespace unbend
