// `unbend lm info|import|logits`.
#include <fmt/format.h>
#include <torch/types.h>

#include <map>

#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/engine/import.h"
#include "unbend/engine/reference.h"
#include "unbend/lm/export.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/npy.h"

namespace unbend::cli {
namespace {

void info(const std::string& path, const std::string& adapter, bool as_json) {
  const auto file = engine::Gguf::open(path);
  const auto config = engine::read_config(file);
  const auto tokenizer = engine::Tokenizer::load(path);
  std::map<std::string, std::int64_t> types;
  std::int64_t parameters = 0, bytes = 0;
  for (const auto& tensor : file.tensors()) {
    types[engine::type_name(tensor.type)] += tensor.elements();
    parameters += tensor.elements();
    bytes += static_cast<std::int64_t>(tensor.bytes);
  }
  const std::int64_t per_token = 2 * config.layers * config.kv_heads * config.head_dim;
  Json json{{"path", path},
            {"name", file.text("general.name", "")},
            {"sha256", file.content_hash()},
            {"parameters", parameters},
            {"weight_bytes", bytes},
            {"decoder", engine::to_json(config)},
            {"vocabulary", tokenizer.size()},
            {"chat_template", file.meta("tokenizer.chat_template") != nullptr},
            {"kv_cache_values_per_token", per_token}};
  for (const auto& [type, count] : types) json["types"][type] = count;
  const bool exported = file.meta("unbend.mixers") != nullptr;
  if (exported)
    json["student"] = {{"recipe", file.text("unbend.recipe", "")},
                       {"options", parse_json(file.text("unbend.options", "{}"), path)}};
  if (!adapter.empty()) {
    const auto delta = lm::read_delta_info(adapter);
    json["adapter"] = {{"path", adapter},
                       {"recipe", delta.recipe},
                       {"options", delta.options},
                       {"base_name", delta.base_name},
                       {"base_sha256", delta.base_hash},
                       {"fits", delta.base_hash == file.content_hash()},
                       {"training", delta.training}};
  }
  if (as_json) return print_json(json);
  fmt::print("{} ({})\n", json["name"].get<std::string>(), path);
  fmt::print("  family        {}, {} layers, {} hidden, {} heads ({} for keys and values) of {}, {} feed-forward\n",
             config.architecture, config.layers, config.hidden, config.heads, config.kv_heads, config.head_dim,
             config.ffn);
  fmt::print("  parameters    {:.1f} M in {} (", static_cast<double>(parameters) / 1e6, mib(bytes));
  const char* separator = "";
  for (const auto& [type, count] : types)
    fmt::print("{}{} {:.0f} %", std::exchange(separator, ", "), type,
               100. * static_cast<double>(count) / static_cast<double>(parameters));
  fmt::print(")\n  vocabulary    {}{}\n  context       {} tokens in training\n", tokenizer.size(),
             config.tied ? ", head tied to the embedding" : "", config.context);
  if (exported)
    fmt::print("  student       recipe {} {} (docs/gguf.md)\n", json["student"]["recipe"].get<std::string>(),
               json["student"]["options"].dump());
  else
    fmt::print("  KV cache      {} per 1,000 tokens in float16\n", mib(2000 * per_token));
  fmt::print("  sha256        {}\n", json["sha256"].get<std::string>());
  if (json.contains("adapter")) {
    const auto& a = json["adapter"];
    fmt::print("adapter {}\n  recipe        {} {}\n  base          {} ({})\n", adapter, a["recipe"].get<std::string>(),
               a["options"].dump(), a["base_name"].get<std::string>(),
               a["fits"].get<bool>() ? "this model" : "NOT this model");
  }
}

void logits(const ModelOptions& options, const std::string& ids_path, const std::string& out,
            const std::string& backend, bool as_json) {
  if (backend != "torch" && backend != "llama") fail_usage("--backend: '{}' is not torch or llama", backend);
  if (backend == "llama" && !options.adapter.empty())
    fail_usage("--backend llama runs no --adapter: merge it into the model with `unbend lm merge`, or take torch");
  if (backend == "llama" && !options.type.empty())
    fail_usage("--type {} does nothing for --backend llama, whose weights are as in the file", options.type);
  check_output(out, {ids_path, options.model, options.adapter});
  const auto ids = load_npy(ids_path);
  require(ids.dim() == 1 && ids.numel() > 0 && at::isIntegralType(ids.scalar_type(), false),
          "{}: token ids must be a non-empty list of integers, not {} {}", ids_path, toString(ids.scalar_type()),
          shape_string(ids.sizes()));
  const auto list = ids.to(at::kLong).contiguous();
  const auto report = [&](std::int64_t vocab) {
    if (as_json)
      print_json({{"out", out}, {"backend", backend}, {"tokens", list.numel()}, {"vocabulary", vocab}});
    else
      fmt::print("{}: logits [{}, {}] by {}\n", out, list.numel(), vocab, backend);
  };
  if (backend == "llama") {
    const auto file = engine::Gguf::open(options.model);
    const std::int64_t vocab = file.tensor("token_embd.weight").shape.front();
    check_indices(list, vocab, ids_path);
    const auto tokens = list.to(at::kInt);
    auto values = engine::llama_logits(
        options.model, {tokens.const_data_ptr<std::int32_t>(), static_cast<std::size_t>(tokens.numel())},
        thread_count(options));
    save_npy(out, at::from_blob(values.data(), {tokens.numel(), vocab}, at::kFloat));
    return report(vocab);
  }
  const at::NoGradGuard no_grad;
  const auto model = open_model(options);
  check_indices(list, model.teacher.config.vocab, ids_path);
  save_npy(out, model.decoder().logits(model.decoder().hidden(list.unsqueeze(0)))[0].contiguous());
  report(model.teacher.config.vocab);
}

/// Stores the student's weights, low-rank corrections added, as F32, and what is left of the delta beside them.
void merge(const std::string& path, const std::string& adapter, const std::string& out, const std::string& delta_out,
           bool as_json) {
  check_output(out, {path, adapter});
  check_output(delta_out, {path, adapter, out});
  const auto base = engine::Gguf::open(path);
  const auto teacher = lm::load_decoder(base, at::kFloat);
  const auto student = lm::load_delta(adapter, teacher, base);
  lm::write_merged(base, student, out);
  auto info = lm::read_delta_info(adapter);
  auto rest = student;
  rest.decoder = lm::merge_lora(student.decoder);
  rest.options["lora_rank"] = 0;
  rest.own.clear();
  info.base_hash = engine::Gguf::open(out).content_hash();
  lm::save_delta(delta_out, rest, info);
  if (as_json)
    print_json({{"out", out}, {"delta", delta_out}, {"sha256", info.base_hash}});
  else
    fmt::print("{}: weights of the student\n{}: the mixers that are left, for that file\n", out, delta_out);
}

void export_model(const ModelOptions& options, const std::string& type, const std::string& out, bool as_json) {
  if (options.adapter.empty()) fail_usage("export: give the student's delta with --adapter");
  if (!options.type.empty())
    fail_usage("export: --type {} does nothing, it computes in f32; --weights is the type of what is written",
               options.type);
  check_output(out, options.files());
  auto full = options;
  full.type = "f32";
  const auto model = open_model(full);
  lm::export_student(model.file, *model.student, out, type);
  const auto written = engine::Model::open(out);
  if (as_json)
    print_json({{"out", out}, {"recipe", written->recipe()}, {"sha256", written->file().content_hash()}});
  else
    fmt::print("{}: recipe {}, {}\n", out, written->recipe(),
               mib(static_cast<std::int64_t>(std::filesystem::file_size(out))));
}

}  // namespace

void add_lm_model_verbs(CLI::App& lm) {
  {
    auto* verb = lm.add_subcommand("info", "what a model (and an adapter) is");
    auto path = std::make_shared<std::string>(), adapter = std::make_shared<std::string>();
    auto json = std::make_shared<bool>();
    verb->add_option("model", *path, "GGUF file")->required();
    verb->add_option("--adapter", *adapter, "delta of a student");
    verb->add_flag("--json", *json, "print JSON");
    verb->footer(
        "Examples:\n  unbend lm info model.gguf\n  unbend lm info model.gguf --adapter student.safetensors --json");
    verb->callback([=] { info(*path, *adapter, *json); });
  }
  {
    auto* verb = lm.add_subcommand("import", "turn a Hugging Face directory into GGUF, by llama.cpp's converter");
    auto dir = std::make_shared<std::string>(), out = std::make_shared<std::string>();
    auto import = std::make_shared<engine::ImportOptions>();
    verb->add_option("dir", *dir, "directory with config.json, tokenizer and weights")->required();
    verb->add_option("--out", *out, "GGUF file to write")->required();
    verb->add_option("--type", import->type, fmt::format("{}", fmt::join(engine::import_types(), ", ")))
        ->capture_default_str();
    verb->footer("Example:\n  unbend lm import ./SmolLM2-135M --out smollm2.gguf --type f16");
    auto json = std::make_shared<bool>();
    verb->add_flag("--json", *json, "print JSON");
    verb->callback([=] {
      check_output(*out);
      import->show_output = !*json;
      engine::import_model(*dir, *out, *import);
      if (*json)
        print_json({{"out", *out}, {"type", import->type}, {"sha256", engine::Gguf::open(*out).content_hash()}});
      else
        fmt::print("{}: written\n", *out);
    });
  }
  {
    auto* verb = lm.add_subcommand("logits", "logits of given token ids, for checks from outside");
    auto model = std::make_shared<ModelOptions>();
    model->type = "f32";
    auto ids = std::make_shared<std::string>(), out = std::make_shared<std::string>(),
         backend = std::make_shared<std::string>("torch");
    model->add_to(*verb);
    verb->add_option("--ids", *ids, ".npy file of token ids [T]")->required();
    verb->add_option("--out", *out, ".npy file to write, [T, vocabulary] float32")->required();
    verb->add_option("--backend", *backend, "torch (ours) or llama (libllama)")->capture_default_str();
    verb->footer("Example:\n  unbend lm logits model.gguf --ids ids.npy --out logits.npy --backend torch");
    auto json = std::make_shared<bool>();
    verb->add_flag("--json", *json, "print JSON");
    verb->callback([=] { logits(*model, *ids, *out, *backend, *json); });
  }
  {
    auto* verb = lm.add_subcommand("export", "write a student as one GGUF file for the engine");
    auto model = std::make_shared<ModelOptions>();
    auto type = std::make_shared<std::string>("base"), out = std::make_shared<std::string>();
    auto json = std::make_shared<bool>();
    model->add_to(*verb);
    verb->add_option("--weights", *type, "type of the matrices: base (as in the model), f32, f16, q8_0, q4_1, ...")
        ->capture_default_str();
    verb->add_option("--out", *out, "GGUF file to write")->required();
    verb->add_flag("--json", *json, "print JSON");
    verb->footer(
        "Examples:\n  unbend lm export model.gguf --adapter student.safetensors --out student.gguf\n"
        "  unbend lm export model.gguf --adapter student.safetensors --weights q8_0 --out student-q8.gguf");
    verb->callback([=] { export_model(*model, *type, *out, *json); });
  }
  {
    auto* verb = lm.add_subcommand("merge", "write the model with an adapter's weights and low-rank corrections");
    auto path = std::make_shared<std::string>(), adapter = std::make_shared<std::string>(),
         out = std::make_shared<std::string>(), delta = std::make_shared<std::string>();
    auto json = std::make_shared<bool>();
    verb->add_option("model", *path, "GGUF file")->required();
    verb->add_option("--adapter", *adapter, "delta of a student")->required();
    verb->add_option("--out", *out, "GGUF file to write, F32")->required();
    verb->add_option("--delta-out", *delta, "delta to write: the student's mixers, for the merged file")->required();
    verb->add_flag("--json", *json, "print JSON");
    verb->footer(
        "Example:\n  unbend lm merge model.gguf --adapter student.safetensors --out merged.gguf --delta-out "
        "mixers.safetensors");
    verb->callback([=] { merge(*path, *adapter, *out, *delta, *json); });
  }
}

}  // namespace unbend::cli
