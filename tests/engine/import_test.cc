#include "unbend/engine/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/engine/gguf_bytes.h"
#include "tests/error_message.h"
#include "unbend/base/error.h"

namespace unbend::engine {
namespace {

using testing::HasSubstr;

/// A folder that looks like a model, and a converter that is a small script.
class Import : public testing::Test {
 protected:
  void SetUp() override {
    model.write("config.json", R"({"architectures": ["LlamaForCausalLM"]})");
    model.write("model.safetensors", "weights");
    model.write("tokenizer.json", "{}");
    valid = results.write("valid.gguf", valid_gguf().file());
    ::setenv("UNBEND_PYTHON", "/bin/sh", 1);
    converter("cp '" + valid.string() + "' \"$2\"");
  }
  void TearDown() override {
    ::unsetenv("UNBEND_PYTHON");
    ::unsetenv("UNBEND_CONVERTER");
  }

  void converter(const std::string& script) {
    ::setenv("UNBEND_CONVERTER", results.write("convert.sh", script).c_str(), 1);
  }

  std::string error(ErrorKind kind = ErrorKind::Input, const ImportOptions& options = {}) {
    const auto message = error_message([&] { import_model(model.path(), out.path() / "out.gguf", options); }, kind);
    if (message != "no error") {
      EXPECT_TRUE(std::filesystem::is_empty(out.path())) << "something half-written is left";
    }
    return message;
  }

  Folder model, results, out;
  std::filesystem::path valid;
};

TEST_F(Import, RenamesACheckedResult) {
  EXPECT_EQ(error(), "no error");
  EXPECT_EQ(Gguf::open(out.path() / "out.gguf").tensors().size(), 3u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out.path()), {}), 1);
}

TEST_F(Import, ReportsTheConvertersReason) {
  converter("echo half > \"$2\"; echo noise >&2; echo 'KeyError: rope' >&2; exit 1");
  EXPECT_THAT(error(), HasSubstr("the converter failed: KeyError: rope"));
  converter("exit 3");
  EXPECT_THAT(error(), HasSubstr("it gave no reason"));
  converter("echo not a model > \"$2\"");
  EXPECT_THAT(error(), HasSubstr("not a GGUF file"));
  converter("true");
  EXPECT_THAT(error(), HasSubstr("out.gguf"));
}

TEST_F(Import, RefusesIncompleteFolders) {
  std::filesystem::remove(model.path() / "tokenizer.json");
  EXPECT_THAT(error(), HasSubstr("no tokenizer"));
  model.write("vocab.json", "{}");
  model.write("merges.txt", "");
  EXPECT_EQ(error(), "no error");
  std::filesystem::remove(out.path() / "out.gguf");

  std::filesystem::remove(model.path() / "model.safetensors");
  EXPECT_THAT(error(), HasSubstr("no weights"));
  model.write("model.safetensors.index.json", R"({"weight_map": {"a": "a.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("the weight file 'a.safetensors' is missing"));
  model.write("model.safetensors.index.json", R"({"weight_map": {"a": "../valid.gguf"}})");
  EXPECT_THAT(error(), HasSubstr("the weight file '../valid.gguf' is missing"));
  model.write("model.safetensors.index.json", R"({"weight_map": 3})");
  EXPECT_THAT(error(), HasSubstr("'weight_map'"));

  model.write("config.json", "{}");
  EXPECT_THAT(error(), HasSubstr("neither 'architectures' nor 'model_type'"));
  model.write("config.json", "{");
  EXPECT_THAT(error(), HasSubstr("config.json"));
  std::filesystem::remove(model.path() / "config.json");
  EXPECT_THAT(error(), HasSubstr("no config.json"));
}

TEST_F(Import, RefusesCodeOfTheModel) {
  model.write("tokenizer_config.json", R"({"auto_map": {"AutoTokenizer": "evil.Tokenizer"}})");
  EXPECT_THAT(error(), HasSubstr("tokenizer_config.json: 'auto_map'"));
}

TEST_F(Import, RefusesUnknownTypesAndPlaces) {
  EXPECT_THAT(error(ErrorKind::Usage, {.type = "q9"}), HasSubstr("unknown type 'q9', use one of f32, f16, bf16, q8_0"));
  ::setenv("UNBEND_CONVERTER", "/nonexistent/convert.py", 1);
  EXPECT_THAT(error(), HasSubstr("the converter is not at /nonexistent/convert.py"));
  converter("true");
  EXPECT_THROW(import_model(model.path() / "nothing", out.path() / "out.gguf"), Error);
  EXPECT_THROW(import_model(model.path(), out.path() / "nothing" / "out.gguf"), Error);
}

}  // namespace
}  // namespace unbend::engine
