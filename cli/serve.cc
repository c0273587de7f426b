// `unbend serve`.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <thread>

#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/engine/engine.h"
#include "unbend/serve/http.h"
#include "unbend/serve/scheduler.h"

namespace unbend::cli {
namespace {

struct ServeArguments {
  ModelOptions model;
  serve::ServerOptions server;
  int sequences = 8;
  std::int64_t context = 0, queue = 64;
  bool json = false;
};

void check(const ServeArguments& a) {
  if (a.server.port < 0 || a.server.port > 65535)
    fail_usage("--port must be from 0 (any) to 65535, not {}", a.server.port);
  if (a.sequences < 1 || a.sequences > 256) fail_usage("--sequences must be from 1 to 256, not {}", a.sequences);
  if (a.queue < 0 || a.queue > 1000) fail_usage("--queue must be from 0 to 1000, not {}", a.queue);
  if (a.context < 0) fail_usage("--context must be 0 (the model's) or more, not {}", a.context);
}

/// Sockets are files: as many as the system allows without asking an administrator.
void allow_many_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 4096));
  setrlimit(RLIMIT_NOFILE, &limit);
}

void run(ServeArguments a) {
  check(a);
  if (const char* key = std::getenv("UNBEND_API_KEY"); key && a.server.api_key.empty()) a.server.api_key = key;
  if (a.server.model.empty()) a.server.model = std::filesystem::path(a.model.model).stem().string();
  allow_many_files();
#ifdef __GLIBC__
  mallopt(M_ARENA_MAX, 4);  // many threads that do little: few heaps
#endif
  sigset_t stop_signals;  // blocked before there are threads, so that all of them inherit it and only sigwait gets them
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  const auto tokenizer = engine::Tokenizer::load(a.model.model);
  engine::EngineOptions options;
  options.threads = thread_count(a.model);
  options.sequences = a.sequences;
  options.context = a.context;
  engine::Engine engine(open_engine_model(a.model), options);
  serve::Scheduler scheduler(engine, tokenizer, {.queue = static_cast<std::size_t>(a.queue)});
  a.server.threads = static_cast<std::size_t>(a.sequences + a.queue) + 32;
  serve::Server server(a.server, scheduler, engine, tokenizer);
  if (a.json)
    fmt::print("{}\n", Json{{"model", a.server.model},
                            {"address", server.address()},
                            {"sequences", a.sequences},
                            {"context", engine.options().context},
                            {"threads", options.threads}}
                           .dump(-1, ' ', false, Json::error_handler_t::replace));
  else
    fmt::print("serving {} at {} ({} sequences of {} tokens, {} threads); Ctrl-C ends\n", a.server.model,
               server.address(), a.sequences, engine.options().context, options.threads);
  std::fflush(stdout);

  std::exception_ptr failure;
  std::thread serving([&] {
    try {
      server.run();
    } catch (...) {
      failure = std::current_exception();
    }
    kill(getpid(), SIGTERM);  // whoever waits below need not any more
  });
  int signal = 0;
  sigwait(&stop_signals, &signal);
  if (!failure) {
    server.refuse();  // before the line, so that whoever reads it can count on it
    fmt::print(stderr, "[finishing {} running answers; once more to cut them off]\n", scheduler.counts().active);
    std::thread drain([&] { server.drain(); });
    sigwait(&stop_signals, &signal);
    scheduler.stop();
    drain.join();
  }
  serving.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace
}  // namespace unbend::cli

namespace unbend {

void add_serve_verb(CLI::App& app) {
  auto* verb = app.add_subcommand("serve", "answer over HTTP as OpenAI's interface does, with a chat page");
  auto a = std::make_shared<cli::ServeArguments>();
  verb->add_option("model", a->model.model, "GGUF file of a Llama-family model")->required();
  verb->add_option("--adapter", a->model.adapter, "delta of a student, made by `unbend lm convert` or `distill`");
  verb->add_option("--threads", a->model.threads, "0 = one per core")->capture_default_str();
  verb->add_option("--host", a->server.host, "address to listen on; 0.0.0.0 = the whole network")
      ->capture_default_str();
  verb->add_option("--port", a->server.port, "0 = any free one")->capture_default_str();
  verb->add_option("--sequences", a->sequences, "answers at a time, in one batch")->capture_default_str();
  verb->add_option("--context", a->context, "tokens of prompt and answer; 0 = the model's")->capture_default_str();
  verb->add_option("--queue", a->queue, "answers that may wait for a sequence; more are told to come later")
      ->capture_default_str();
  verb->add_option("--api-key", a->server.api_key, "key that clients must give (better: environment UNBEND_API_KEY)");
  verb->add_option("--name", a->server.model, "the model's name for clients (the file's, if not given)");
  verb->add_flag("--json", a->json, "say where it listens as one line of JSON");
  verb->footer(
      "Examples:\n"
      "  unbend serve model.gguf                      # then open http://127.0.0.1:8080\n"
      "  unbend serve model.gguf --adapter student.safetensors --sequences 16 --context 4096\n"
      "  UNBEND_API_KEY=secret unbend serve model.gguf --host 0.0.0.0 --port 80\n"
      "  curl localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"What is a sliding window?\"}]}'\n"
      "Endpoints and limits: docs/serve.md.");
  verb->callback([a] { cli::run(*a); });
}

}  // namespace unbend
