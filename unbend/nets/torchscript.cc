#include "unbend/nets/torchscript.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <array>
#include <fstream>
#include <memory>

#include "unbend/base/error.h"

namespace unbend {
namespace {

namespace jit = torch::jit;

bool is_zip(const std::filesystem::path& path) {
  std::array<char, 2> start{};
  std::ifstream(path, std::ios::binary).read(start.data(), start.size());
  return std::string_view(start.data(), start.size()) == "PK";
}

}  // namespace

std::string first_line(std::string_view text) { return std::string(text.substr(0, text.find('\n'))); }

jit::Module load_torchscript(const std::filesystem::path& path, at::Device device) {
  require(std::filesystem::is_regular_file(path), "{}: there is no such file", path.string());
  constexpr auto kHow = "save a module by torch.jit.save(torch.jit.script(module), file)";
  require(is_zip(path), "{}: not a TorchScript file: {}", path.string(), kHow);
  try {
    auto module = jit::load(path.string(), device);
    module.eval();
    return module;
  } catch (const std::exception& error) {
    // torch.save writes archives without code: the most common mistake.
    const std::string_view why = error.what();
    if (why.find("constants.pkl") != std::string_view::npos)
      fail_input("{}: an archive without a module's code, as torch.save writes it: {}", path.string(), kHow);
    fail_input("{}: a TorchScript file that cannot be read: {}", path.string(), first_line(why));
  }
}

Function torchscript_function(const std::filesystem::path& path, at::Device device) {
  auto module = std::make_shared<jit::Module>(load_torchscript(path, device));
  for (auto parameter : module->parameters()) parameter.requires_grad_(false);
  return [module, name = path.string()](const Tensors& x) -> Tensors {
    const jit::GraphOptimizerEnabledGuard as_written(false);  // profiled graphs do not have all derivatives
    jit::IValue out;
    try {
      out = module->forward({x.begin(), x.end()});
    } catch (const std::exception& error) {
      std::string_view text = error.what();  // the reason is on the last line that says something
      while (text.ends_with('\n')) text.remove_suffix(1);
      fail_input("{}: the module does not take what it is given: {}", name, text.substr(text.rfind('\n') + 1));
    }
    if (out.isTensor()) return {out.toTensor()};
    require(out.isTuple(), "{}: the module gives a {}, not tensors", name, out.tagKind());
    Tensors all;
    for (const auto& v : out.toTupleRef().elements()) {
      require(v.isTensor(), "{}: the module gives a tuple with a {}, not tensors", name, v.tagKind());
      all.push_back(v.toTensor());
    }
    return all;
  };
}

}  // namespace unbend
