#include "unbend/nets/network_file.h"
#include "unbend/nets/torchscript.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <fstream>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/base/subprocess.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

using testing::HasSubstr;

// Files made by networks.py, once.
class NetworkFile : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder();
    const auto script = std::string(UNBEND_SOURCE_DIR) + "/tests/nets/networks.py";
    const auto result = run_command({UNBEND_PYTHON, "-W", "ignore", script, folder_->path().string()});
    ASSERT_EQ(result.exit_code, 0);
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static std::filesystem::path file(const std::string& name) { return folder_->path() / name; }

 private:
  static TemporaryFolder* folder_;
};
TemporaryFolder* NetworkFile::folder_ = nullptr;

TEST_F(NetworkFile, OutputsArePyTorchs) {
  for (const std::string name : {"residual", "arithmetic", "channels", "mixed", "checked", "volume", "line"}) {
    const auto x = load_npy(file(name + ".in.npy")), y = load_npy(file(name + ".out.npy"));
    for (const std::string form : {"scripted", "traced", "frozen"}) {
      SCOPED_TRACE(name + ", " + form);
      const auto path = file(name + "." + form + ".pt");
      const auto net = read_network(path);
      EXPECT_TRUE(at::allclose(net(x), y, 1e-5, 1e-5)) << (net(x) - y).abs().max();
      EXPECT_TRUE(at::allclose(torchscript_function(path)({x})[0], y, 1e-5, 1e-5));
      const auto twice = to(net, at::kDouble)(x.to(at::kDouble));
      EXPECT_EQ(twice.scalar_type(), at::kDouble);
      EXPECT_TRUE(at::allclose(twice, y.to(at::kDouble), 1e-4, 1e-5));
    }
  }
}

TEST_F(NetworkFile, NodesAreNamedAfterModules) {
  std::vector<std::string> names;
  for (const auto& node : read_network(file("residual.scripted.pt")).nodes) names.push_back(node.name);
  EXPECT_THAT(names, testing::IsSupersetOf({"first", "norm", "act", "second", "head", "last_norm"}));
}

TEST_F(NetworkFile, FunctionsHaveDerivatives) {
  const auto path = file("residual.traced.pt");
  const auto net = read_network(path);
  const auto x = load_npy(file("residual.in.npy"));
  const auto of_net = linearize([&](const Tensors& in) { return Tensors{net(in[0])}; }, {x});
  const auto of_file = linearize(torchscript_function(path), {x});
  const Tensors u = {at::randn({2, 5}, at::make_generator<at::CPUGeneratorImpl>(1))}, v = {at::ones_like(x)};
  EXPECT_TRUE(at::allclose(of_net.jacobian.pull(u)[0], of_file.jacobian.pull(u)[0], 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(of_net.jacobian.push(v)[0], of_file.jacobian.push(v)[0], 1e-4, 1e-5));
}

TEST_F(NetworkFile, SaysWhatItCannotRead) {
  const std::pair<const char*, const char*> cases[] = {{"Product", "a product of two values"},
                                                       {"Branch", "a branch that depends on the input"},
                                                       {"Active", "dropout is active"},
                                                       {"BatchStatistics", "in module 'norm'"},
                                                       {"Gate", "save the module that gives the logits"},
                                                       {"Two", "several inputs"},
                                                       {"Noisy", "draws random numbers"},
                                                       {"Transposed", "aten::transpose"}};
  for (const auto& [name, part] : cases) {
    const auto message = error_message([&] { read_network(file(std::string("refused/") + name + ".pt")); });
    EXPECT_THAT(message, HasSubstr(part));
    EXPECT_THAT(message, HasSubstr(std::string(name) + ".pt"));
  }
  const auto where = error_message([&] { read_network(file("refused/Transposed.pt")); });
  EXPECT_THAT(where, HasSubstr("networks.py:")) << where;
  EXPECT_THAT(error_message([&] { read_network(file("missing.pt")); }), HasSubstr("no such file"));
  std::ofstream(file("text.pt")) << "no network";
  EXPECT_THAT(error_message([&] { read_network(file("text.pt")); }), HasSubstr("not a TorchScript file"));
  EXPECT_THAT(error_message([&] { read_network(file("weights.pt")); }), HasSubstr("as torch.save writes it"));
  EXPECT_THAT(error_message([&] {
                torchscript_function(file("mixed.traced.pt"))({at::ones({2, 7})});
              }),
              HasSubstr("does not take"));
}

}  // namespace
}  // namespace unbend
