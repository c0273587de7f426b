#include "unbend/lm/task_source.h"

#include <torch/types.h>

#include <algorithm>

#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

/// So many places of the user's text, and depths, are told apart.
constexpr std::int64_t kPlaces = 65536;

class TaskSource : public BatchSource {
 public:
  TaskSource(const Task& task, TaskText text, const TaskOptions& options, std::int64_t rows)
      : task_(task), text_(std::move(text)), options_(options), rows_(rows), random_(options.seed) {}

  Batch next() override {
    std::vector<Probe> probes;
    std::size_t longest = 0;
    for (std::int64_t i = 0; i < rows_; ++i) {
      const auto place = static_cast<std::int64_t>(random_.below(kPlaces));
      probes.push_back(make_probe(task_, random_, text_, options_, place));
      longest = std::max(longest, probes.back().ids.size());
    }
    Batch batch{at::zeros({rows_, static_cast<std::int64_t>(longest)}, at::kLong), {}};
    batch.targets = at::full_like(batch.ids, -1);
    for (std::int64_t i = 0; i < rows_; ++i) {
      auto* ids = batch.ids.mutable_data_ptr<std::int64_t>() + i * batch.ids.size(1);
      auto* targets = batch.targets.mutable_data_ptr<std::int64_t>() + i * batch.ids.size(1);
      std::ranges::copy(probes[i].ids, ids);
      for (const auto& question : probes[i].questions) targets[question.position] = question.token;
    }
    return batch;
  }

  Json state() const override { return {{"random", random_.state()}}; }
  void restore(const Json& state) override { random_ = Random(state.at("random").get<Random::State>()); }

 private:
  const Task& task_;
  TaskText text_;
  TaskOptions options_;
  std::int64_t rows_;
  Random random_;
};

}  // namespace

std::unique_ptr<BatchSource> task_source(const Task& task, TaskText text, const TaskOptions& options,
                                         std::int64_t rows) {
  require(rows > 0, "task {}: {} rows per batch", task.name, rows);
  auto all = options;
  all.count = kPlaces;
  Random trial(options.seed);
  make_probe(task, trial, text, all, 0);
  return std::make_unique<TaskSource>(task, std::move(text), all, rows);
}

}  // namespace unbend::lm
