// `unbend lm generate|sample`.
#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/generate.h"

namespace unbend::cli {
namespace {

struct GenerateArguments {
  ModelOptions model;
  BackendOption backend;
  lm::GenerateOptions options;
  std::string prompt, file, system, grammar;
  bool chat = false, json = false;
};

std::string prompt_text(const GenerateArguments& a) {
  if (!a.file.empty() && !a.prompt.empty()) fail_usage("generate: give --prompt or --file, not both");
  if (!a.file.empty()) return read_file(a.file);
  if (!a.prompt.empty()) return a.prompt;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

void generate(GenerateArguments a) {
  a.backend.refuse_type(a.model);
  auto text = prompt_text(a);
  if (text.empty()) fail_usage("generate: the prompt is empty (give --prompt, --file, or text on standard input)");
  if (a.options.max_tokens < 1) fail_usage("--tokens must be at least 1, not {}", a.options.max_tokens);
  if (!a.system.empty() && !a.chat) fail_usage("generate: --system is a message of a chat: give --chat too");
  if (!a.grammar.empty()) a.options.sampler.grammar = read_file(a.grammar);
  const auto tokenizer = engine::Tokenizer::load(a.model.model);
  if (a.chat) {
    std::vector<engine::ChatMessage> messages;
    if (!a.system.empty()) messages.push_back({"system", a.system});
    messages.push_back({"user", text});
    text = tokenizer.chat(messages);
  }
  auto prompt = tokenizer.encode(text, a.chat);
  if (tokenizer.adds_bos()) prompt.insert(prompt.begin(), tokenizer.bos());
  const auto stream = [&](std::string_view piece) {
    if (a.json) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  const auto tokens = static_cast<std::int64_t>(prompt.size()) + a.options.max_tokens;
  catch_interrupts();
  lm::Generation result;
  if (a.backend.engine(a.model)) {
    engine::EngineOptions options;
    options.threads = thread_count(a.model);
    options.context = tokens;
    const auto model = open_engine_model(a.model);
    warn_beyond_context(tokens, model->config());
    engine::Engine runner(model, options);
    result = engine::generate(runner, tokenizer, prompt, a.options, stream);
  } else {
    const auto model = open_model(a.model);
    warn_beyond_context(tokens, model.decoder().config);
    result = lm::generate(model.decoder(), tokenizer, prompt, a.options, stream);
  }
  // The first token comes out of the prompt: a single one has no rate.
  Json rate;
  if (result.decode_seconds > 0) rate = static_cast<double>(result.decode_steps) / result.decode_seconds;
  if (a.json)
    return print_json({{"text", result.text},
                       {"tokens", result.ids},
                       {"reason", result.reason},
                       {"prompt_tokens", result.prompt_tokens},
                       {"prefill_seconds", result.prefill_seconds},
                       {"decode_steps", result.decode_steps},
                       {"decode_seconds", result.decode_seconds},
                       {"tokens_per_second", rate},
                       {"state_bytes", result.state_bytes}});
  fmt::print("\n");
  fmt::print(stderr, "[{} tokens of prompt in {:.2f} s, {} tokens at {}/s, {} of state, ended by: {}]\n",
             result.prompt_tokens, result.prefill_seconds, result.ids.size(),
             rate.is_null() ? "-" : fmt::format("{:.1f}", rate.get<double>()), mib(result.state_bytes), result.reason);
}

struct SampleArguments {
  ModelOptions model;
  engine::SamplerOptions sampler{.temperature = 1, .top_k = 0, .top_p = 1};
  std::string out;
  std::int64_t tokens = 100000, length = 512, batch = 16;
  bool json = false;
};

void sample(const SampleArguments& a) {
  if (a.tokens < 1 || a.length < 1)
    fail_usage("sample: --tokens {} and --length {} must be at least 1", a.tokens, a.length);
  check_folder(a.out);
  const auto model = open_model(a.model);
  const std::int64_t count = (a.tokens + a.length - 1) / a.length;
  catch_interrupts();
  Progress progress("sample", count * a.length, "tokens");
  std::int64_t tokens = 0;
  const auto texts = lm::sample_texts(model.decoder(), model.tokenizer, count, a.length, a.batch, a.sampler,
                                      [&](std::int64_t done) { progress.update(tokens = done); });
  progress.finish();
  for (std::size_t i = 0; i < texts.size(); ++i)
    if (!texts[i].empty()) write_file(std::filesystem::path(a.out) / fmt::format("{:06}.txt", i), texts[i]);
  if (a.json)
    print_json({{"out", a.out}, {"texts", texts.size()}, {"tokens", tokens}, {"seconds", progress.seconds()}});
  else
    fmt::print("{} texts, {} tokens, in {}\n", texts.size(), tokens, a.out);
}

void add_sampler_options(CLI::App& verb, engine::SamplerOptions& s) {
  verb.add_option("--temperature", s.temperature, "0 = always the most probable token")->capture_default_str();
  verb.add_option("--top-k", s.top_k, "0 = off")->capture_default_str();
  verb.add_option("--top-p", s.top_p, "1 = off")->capture_default_str();
  verb.add_option("--repeat-penalty", s.repeat_penalty, "1 = off")->capture_default_str();
  verb.add_option("--seed", s.seed, "of the random choices")->capture_default_str();
}

}  // namespace

void add_lm_text_verbs(CLI::App& lm) {
  {
    auto* verb = lm.add_subcommand("generate", "continue a text, or answer in a chat");
    auto a = std::make_shared<GenerateArguments>();
    a->model.add_to(*verb);
    a->backend.add_to(*verb);
    verb->add_option("--prompt", a->prompt, "text to continue (otherwise --file, or standard input)");
    verb->add_option("--file", a->file, "file with the text to continue");
    verb->add_flag("--chat", a->chat, "wrap the prompt in the model's chat template");
    verb->add_option("--system", a->system, "system message of the chat");
    verb->add_option("--tokens", a->options.max_tokens, "at most so many")->capture_default_str();
    verb->add_option("--stop", a->options.stop, "text that ends the answer (repeatable)");
    verb->add_flag("--ignore-end", a->options.ignore_end, "go on after the end-of-text token");
    add_sampler_options(*verb, a->options.sampler);
    verb->add_option("--grammar", a->grammar, "file with a grammar (GBNF, rule `root`) that the text must follow");
    verb->add_flag("--json", a->json, "print JSON instead of streaming text");
    verb->footer(
        "Examples:\n  unbend lm generate model.gguf --prompt 'Attention sinks are' --tokens 64 --temperature 0\n"
        "  unbend lm generate model.gguf --adapter student.safetensors --chat --prompt 'What is a sliding window?'\n"
        "  cat notes.txt | unbend lm generate model.gguf --stop '###' --json");
    verb->callback([a] { generate(*a); });
  }
  {
    auto* verb = lm.add_subcommand("sample", "make a corpus from the model's own text, to distill from");
    auto a = std::make_shared<SampleArguments>();
    a->model.add_to(*verb);
    verb->add_option("--out", a->out, "folder for the texts, one file each")->required();
    verb->add_option("--tokens", a->tokens, "about so many in all")->capture_default_str();
    verb->add_option("--length", a->length, "tokens per text, at most")->capture_default_str();
    verb->add_option("--batch", a->batch, "texts at a time")->capture_default_str();
    add_sampler_options(*verb, a->sampler);
    verb->add_flag("--json", a->json, "print JSON");
    verb->footer("Example:\n  unbend lm sample model.gguf --out corpus/ --tokens 200000 --temperature 0.9 --seed 7");
    verb->callback([a] { sample(*a); });
  }
}

}  // namespace unbend::cli
