// The engine beside llama.cpp's library, same file, same threads, in turns: decoding, and reading 512 more tokens,
// after contexts of 128 to 32K tokens. The peer runs as llama-bench runs it (flash attention, float16 KV cache, its own
// repacking), over a context that it has really read. Prints ratios; wall time, median of the decoded tokens.
//
//   bench_peers_lm_engine TEACHER.gguf STUDENT.gguf [THREADS [LONGEST]]     (unbend lm export makes the student)
#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/speed.h"
#include "unbend/report/table.h"

namespace unbend {
namespace {

constexpr int kRead = 512, kDecoded = 24;

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

/// One program with a context: adds tokens, goes back to the context.
struct Runner {
  std::string name;
  std::function<void(std::int64_t context)> fill;
  std::function<void(int tokens)> add;  ///< in one call
  std::function<void()> back;
};

class Peer {
 public:
  Peer(const std::string& path, int threads, std::int64_t longest) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    auto model = llama_model_default_params();
    model.n_gpu_layers = 0;
    model_ = llama_model_load_from_file(path.c_str(), model);
    require(model_ != nullptr, "{}: libllama cannot load it", path);
    auto context = llama_context_default_params();
    context.n_ctx = static_cast<std::uint32_t>(longest + 2 * kRead);
    context.n_batch = context.n_ubatch = kRead;
    context.n_threads = context.n_threads_batch = threads;
    context.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    context_ = llama_init_from_model(model_, context);
    require(context_ != nullptr, "{}: libllama has no context of {} tokens", path, longest);
    auto pool = ggml_threadpool_params_default(threads);
    pool_ = ggml_threadpool_new(&pool);
    llama_attach_threadpool(context_, pool_, nullptr);
  }
  ~Peer() {
    llama_free(context_);
    ggml_threadpool_free(pool_);
    llama_model_free(model_);
  }
  void fill(std::int64_t context) {  // contexts grow
    while (length_ < context) add(static_cast<int>(std::min<std::int64_t>(kRead, context - length_)));
    context_length_ = context;
  }
  void add(int tokens) {
    std::vector<llama_token> ids(static_cast<std::size_t>(tokens), 1);
    require(llama_decode(context_, llama_batch_get_one(ids.data(), tokens)) == 0, "libllama: decoding failed");
    llama_synchronize(context_);
    length_ += tokens;
  }
  void back() {
    llama_memory_seq_rm(llama_get_memory(context_), 0, static_cast<llama_pos>(context_length_), -1);
    length_ = context_length_;
  }

 private:
  llama_model* model_ = nullptr;
  llama_context* context_ = nullptr;
  ggml_threadpool* pool_ = nullptr;
  std::int64_t length_ = 0, context_length_ = 0;
};

Runner of_engine(const std::string& name, engine::Engine& e) {
  auto sequence = std::make_shared<int>(-1);
  auto length = std::make_shared<std::int64_t>(0);
  Runner r;
  r.name = name;
  r.fill = [=, &e](std::int64_t context) {
    if (*sequence >= 0) e.end(*sequence);
    *sequence = e.begin();
    const std::vector<engine::TokenId> ids(static_cast<std::size_t>(std::min<std::int64_t>(context, kRead)), 1);
    e.run(*sequence, ids);
    e.pretend(*sequence, *length = context);
  };
  r.add = [=, &e](int tokens) {
    const std::vector<engine::TokenId> ids(static_cast<std::size_t>(tokens), 1);
    e.run(*sequence, ids);
  };
  r.back = [=, &e] { e.pretend(*sequence, *length); };
  return r;
}

void run(const std::string& teacher, const std::string& student, int threads, std::int64_t longest) {
  engine::EngineOptions options;
  options.threads = threads;
  options.context = longest + 2 * kRead;
  engine::Engine ours(engine::Model::open(teacher), options), surrogate(engine::Model::open(student), options);
  Peer peer(teacher, threads, longest);
  std::vector<Runner> all{
      {"llama.cpp", [&](std::int64_t n) { peer.fill(n); }, [&](int n) { peer.add(n); }, [&] { peer.back(); }},
      of_engine("teacher", ours),
      of_engine("surrogate", surrogate)};
  Table decode{fmt::format("Decoding, tokens/s, {} threads", threads),
               {"context", "llama.cpp", "teacher", "ratio", "surrogate", "ratio"},
               {}},
      read{"Reading 512 tokens more, tokens/s", {"context", "llama.cpp", "teacher", "ratio", "surrogate", "ratio"}, {}};
  decode.title = fmt::format("Decoding, tokens/s, {} threads", threads);
  for (const std::int64_t context : {128, 512, 2048, 8192, 16384, 32768}) {
    if (context > longest) break;
    std::vector<std::vector<double>> one(all.size()), many(all.size());
    for (auto& r : all) r.fill(context);
    for (int round = 0; round < 3; ++round)
      for (std::size_t i = 0; i < all.size(); ++i) {
        all[i].add(1);
        for (int k = 0; k < kDecoded / 3; ++k) one[i].push_back(seconds_of([&] { all[i].add(1); }));
        all[i].back();
        if (round == 0) all[i].add(kRead), all[i].back();  // warm up: graphs and buffers of this size
        many[i].push_back(seconds_of([&] { all[i].add(kRead); }));
        all[i].back();
      }
    const auto row = [&](Table& table, const std::vector<std::vector<double>>& seconds, double tokens) {
      std::vector<double> speed;
      for (const auto& s : seconds) speed.push_back(tokens / median(s));
      table.rows.push_back({std::to_string(context), fmt::format("{:.1f}", speed[0]), fmt::format("{:.1f}", speed[1]),
                            fmt::format("{:.3f}", speed[1] / speed[0]), fmt::format("{:.1f}", speed[2]),
                            fmt::format("{:.2f}", speed[2] / speed[0])});
    };
    row(decode, one, 1);
    row(read, many, kRead);
    fmt::print(stderr, "context {} done\n", context);
  }
  fmt::print("{}\n{}", to_text(decode), to_text(read));
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  try {
    if (argc < 3) unbend::fail_usage("bench_peers_lm_engine TEACHER.gguf STUDENT.gguf [THREADS [LONGEST]]");
    unbend::run(argv[1], argv[2], argc > 3 ? std::stoi(argv[3]) : 2, argc > 4 ? std::stoll(argv[4]) : 32768);
    return 0;
  } catch (const unbend::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
