// The engine beside llama.cpp's library, same file, same threads, in turns: decoding, and reading 512 more tokens,
// after contexts of 128 to 32K tokens. The peer runs as llama-bench runs it (flash attention, float16 KV cache, its own
// repacking), over a context that it has really read; llama-bench itself, where it is built, stands beside it up to
// 2,048 tokens. Prints ratios (wall time, median of the decoded tokens), peak memory (each in a process of its own),
// bytes moved per token against the memory's bandwidth, and what a saved prompt takes.
//
//   bench_peers_lm_engine TEACHER.gguf STUDENT.gguf [THREADS [CONTEXTS [LLAMA_BENCH]]]
//
// `unbend lm export` makes the student, tools/peers.sh makes llama-bench.
#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <sstream>
#include <thread>

#include "unbend/base/error.h"
#include "unbend/base/json.h"
#include "unbend/base/subprocess.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/speed.h"
#include "unbend/report/table.h"

namespace unbend {
namespace {

constexpr int kRead = 512, kRounds = 6, kDecoded = 8;  // decoded tokens of a round

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

/// Threads of the others look for more work for a while and would share the cores with the one that is measured.
void rest() { std::this_thread::sleep_for(std::chrono::milliseconds(500)); }

/// Seconds per token, median of a round, after two tokens that wake everything up.
double decode_seconds(const Runner& r) {
  for (int k = 0; k < 2; ++k) r.add(1);
  std::vector<double> seconds;
  for (int k = 0; k < kDecoded; ++k) seconds.push_back(seconds_of([&] { r.add(1); }));
  r.back();
  return median(seconds);
}

/// How many times as fast `ours` is: median over rounds, whose two members were measured one after the other.
double ratio(const std::vector<double>& theirs, const std::vector<double>& ours) {
  std::vector<double> all;
  for (std::size_t i = 0; i < ours.size(); ++i) all.push_back(theirs[i] / ours[i]);
  return median(all);
}

engine::EngineOptions options_for(std::int64_t context, int threads) {
  engine::EngineOptions options;
  options.threads = threads;
  options.context = context + 2 * kRead;
  options.sequences = 3;
  return options;
}

/// Bytes per second that `threads` threads read of a memory that no cache holds, best of five.
double memory_bandwidth(int threads) {
  const std::vector<std::uint64_t> memory(std::size_t{1} << 26, 1);  // 512 MB
  const std::size_t part = memory.size() / static_cast<std::size_t>(threads);
  double best = 0;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(threads));
  for (int round = 0; round < 5; ++round) {
    const double seconds = seconds_of([&] {
      std::vector<std::thread> readers;
      for (std::size_t i = 0; i < sums.size(); ++i)
        readers.emplace_back([&, i] {
          const auto* const from = memory.data() + i * part;
          std::uint64_t sum = 0;
          for (std::size_t k = 0; k < part; ++k) sum += from[k];
          sums[i] = sum;
        });
      for (auto& reader : readers) reader.join();
    });
    require(sums[0] == part, "reading memory went wrong");
    best = std::max(best, static_cast<double>(memory.size() * sizeof(std::uint64_t)) / seconds);
  }
  return best;
}

/// Weights that every token reads.
std::int64_t weights_read(const engine::Model& model) {
  std::int64_t bytes = 0;
  for (const auto& tensor : model.file().tensors())
    if (tensor.name != "token_embd.weight" || model.config().tied) bytes += static_cast<std::int64_t>(tensor.bytes);
  return bytes;
}

/// Peak memory of this process, which runs one model with room for `context` tokens (child of memory_table).
std::int64_t own_peak(const std::string& who, const std::string& path, std::int64_t context, int threads) {
  if (who == "llama.cpp") {
    Peer peer(path, threads, context);  // takes its whole cache at once
    peer.add(kRead);
    peer.add(1);
  } else {
    engine::Engine e(engine::Model::open(path), options_for(context, threads));
    const auto runner = of_engine(who, e);
    runner.fill(context);
    runner.add(kRead);
    runner.add(1);
  }
  return engine::peak_resident();
}

Table memory_table(const std::string& teacher, const std::string& student, int threads,
                   const std::vector<std::int64_t>& contexts) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  Table table{"Peak memory of a process (MB)", {"context", "llama.cpp", "teacher", "ratio", "surrogate"}, {}};
  for (const auto context : contexts) {
    std::vector<double> peaks;
    for (const auto& [who, path] :
         {std::pair<std::string, std::string>{"llama.cpp", teacher}, {"teacher", teacher}, {"surrogate", student}}) {
      const auto told =
          run_command({self, "--peak", who, path, std::to_string(context), std::to_string(threads)}, {.capture = true});
      require(told.exit_code == 0, "measuring the memory of {} failed: {}", who, told.errors);
      peaks.push_back(std::stod(told.output) / 1e6);
    }
    table.rows.push_back({std::to_string(context), fmt::format("{:.1f}", peaks[0]), fmt::format("{:.1f}", peaks[1]),
                          fmt::format("{:.3f}", peaks[1] / peaks[0]), fmt::format("{:.1f}", peaks[2])});
  }
  return table;
}

/// Tokens/s by llama-bench: decoding and reading after `context` tokens.
std::pair<double, double> llama_bench(const std::string& program, const std::string& model, int threads,
                                      std::int64_t context) {
  const auto told =
      run_command({program, "-m", model, "-t", std::to_string(threads), "-fa", "1", "-p", std::to_string(kRead), "-n",
                   std::to_string(3 * kDecoded), "-d", std::to_string(context), "-r", "3", "-o", "json"},
                  {.capture = true});
  require(told.exit_code == 0, "{} failed: {}", program, told.errors);
  std::pair<double, double> speeds;
  for (const auto& test : parse_json(told.output, program))
    (test.at("n_gen").get<int>() > 0 ? speeds.first : speeds.second) = test.at("avg_ts").get<double>();
  return speeds;
}

/// Speed of decoding after `context` tokens over that after 512, in turns.
double own_ratio(engine::Engine& e, std::int64_t context) {
  const auto near = of_engine("near", e), far = of_engine("far", e);
  near.fill(512), far.fill(context);
  std::vector<double> seconds[2];
  for (int round = 0; round < 4 * kRounds; ++round) {
    seconds[0].push_back(decode_seconds(near));
    seconds[1].push_back(decode_seconds(far));
  }
  return ratio(seconds[0], seconds[1]);
}

/// "128,512" as numbers.
std::vector<std::int64_t> numbers(const std::string& text) {
  std::vector<std::int64_t> all;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) all.push_back(std::stoll(part));
  require(!all.empty(), "which contexts?");
  return all;
}

void run(const std::string& teacher, const std::string& student, int threads, const std::vector<std::int64_t>& contexts,
         const std::string& bench) {
  require(bench.empty() || std::filesystem::is_regular_file(bench), "{}: there is no such program", bench);
  require(std::ranges::is_sorted(contexts), "contexts must grow");
  const auto longest = contexts.back();
  fmt::print("{}\n", to_text(memory_table(teacher, student, threads, contexts)));
  const double bandwidth = memory_bandwidth(threads);
  const auto options = options_for(longest, threads);
  engine::Engine ours(engine::Model::open(teacher), options), surrogate(engine::Model::open(student), options);
  Peer peer(teacher, threads, longest);
  std::vector<Runner> all{
      {"llama.cpp", [&](std::int64_t n) { peer.fill(n); }, [&](int n) { peer.add(n); }, [&] { peer.back(); }},
      of_engine("teacher", ours),
      of_engine("surrogate", surrogate)};
  Table decode{fmt::format("Decoding, tokens/s, {} threads", threads),
               {"context", "llama.cpp", "teacher", "ratio", "surrogate", "ratio", "llama-bench"},
               {}},
      read{"Reading 512 tokens more, tokens/s", decode.columns, {}},
      moved{fmt::format("Bytes moved per decoded token (the memory gives {:.1f} GB/s to {} threads)", bandwidth / 1e9,
                        threads),
            {"context", "teacher MB", "GB/s", "of bandwidth", "surrogate MB", "GB/s", "of bandwidth"},
            {}},
      saved{"A saved prompt", {"context", "teacher MB", "taken up in ms", "surrogate MB", "taken up in ms"}, {}};
  for (const std::int64_t context : contexts) {
    std::vector<std::vector<double>> one(all.size()), many(all.size());
    for (auto& r : all) r.fill(context);
    for (int round = 0; round < kRounds; ++round)
      for (std::size_t i = 0; i < all.size(); ++i) {
        rest();
        one[i].push_back(decode_seconds(all[i]));
        if (round == 0) all[i].add(kRead), all[i].back();  // warm up: graphs and buffers of this size
        many[i].push_back(seconds_of([&] { all[i].add(kRead); }));
        all[i].back();
      }
    std::pair<double, double> theirs;
    if (!bench.empty() && context <= 2048) theirs = llama_bench(bench, teacher, threads, context);
    const auto row = [&](Table& table, const std::vector<std::vector<double>>& seconds, double tokens, double told) {
      const auto speed = [&](std::size_t i) { return fmt::format("{:.1f}", tokens / median(seconds[i])); };
      table.rows.push_back(
          {std::to_string(context), speed(0), speed(1), fmt::format("{:.3f}", ratio(seconds[0], seconds[1])), speed(2),
           fmt::format("{:.2f}", ratio(seconds[0], seconds[2])), told > 0 ? fmt::format("{:.1f}", told) : "-"});
    };
    row(decode, one, 1, theirs.first);
    row(read, many, kRead, theirs.second);
    std::vector<std::string> moved_row{std::to_string(context)}, saved_row = moved_row;
    for (const auto& [e, seconds] : {std::pair{&ours, &one[1]}, {&surrogate, &one[2]}}) {
      const auto state = static_cast<double>(e->state_bytes(0));
      const double bytes = static_cast<double>(weights_read(e->model())) + state, rate = bytes / median(*seconds);
      for (const auto& cell : {fmt::format("{:.1f}", bytes / 1e6), fmt::format("{:.1f}", rate / 1e9),
                               fmt::format("{:.0f} %", 100 * rate / bandwidth)})
        moved_row.push_back(cell);
      const auto bytes_saved = e->save(0);
      e->end(0);
      int again = -1;
      const double taken_up = seconds_of([&] { again = e->restore(bytes_saved); });
      require(again == 0, "a sequence was left open");
      saved_row.push_back(fmt::format("{:.2f}", static_cast<double>(bytes_saved.size()) / 1e6));
      saved_row.push_back(fmt::format("{:.1f}", 1e3 * taken_up));
    }
    moved.rows.push_back(moved_row);
    saved.rows.push_back(saved_row);
    fmt::print(stderr, "context {} done\n", context);
  }
  fmt::print("{}\n{}\n{}\n{}", to_text(decode), to_text(read), to_text(moved), to_text(saved));
  if (longest > 512)
    fmt::print("\nThe surrogate after {} tokens over itself after 512, in turns: {:.3f}\n", longest,
               own_ratio(surrogate, longest));
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    if (arguments.size() == 5 && arguments[0] == "--peak") {
      fmt::print("{}\n",
                 unbend::own_peak(arguments[1], arguments[2], std::stoll(arguments[3]), std::stoi(arguments[4])));
      return 0;
    }
    if (arguments.size() < 2)
      unbend::fail_usage("bench_peers_lm_engine TEACHER.gguf STUDENT.gguf [THREADS [CONTEXTS [LLAMA_BENCH]]]");
    const auto optional = [&](std::size_t i, const char* otherwise) {
      return arguments.size() > i ? arguments[i] : otherwise;
    };
    unbend::run(arguments[0], arguments[1], std::stoi(optional(2, "2")),
                unbend::numbers(optional(3, "128,512,2048,8192,16384,32768")), optional(4, ""));
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
