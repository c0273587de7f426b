#include "unbend/lm/batch_source.h"

#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

at::Tensor matrix(const std::vector<TokenId>& ids, std::int64_t rows) {
  return at::tensor(ids, at::kInt).to(at::kLong).reshape({rows, static_cast<std::int64_t>(ids.size()) / rows});
}

class TokenSource : public BatchSource {
 public:
  TokenSource(std::shared_ptr<const TokenFile> file, const BatchOptions& options)
      : batches_(std::move(file), options) {}

  Batch next() override {
    const auto batch = batches_.next();
    return {matrix(batch.ids, batch.rows), matrix(batch.targets, batch.rows)};
  }

  Json state() const override { return {{"epoch", batches_.position().epoch}, {"batch", batches_.position().batch}}; }

  void restore(const Json& state) override {
    batches_.seek(
        {json_get<std::int64_t>(state, "epoch", "batches"), json_get<std::int64_t>(state, "batch", "batches")});
  }

 private:
  TokenBatches batches_;
};

}  // namespace

std::unique_ptr<BatchSource> batch_source(std::shared_ptr<const TokenFile> file, const BatchOptions& options) {
  return std::make_unique<TokenSource>(std::move(file), options);
}

at::Tensor window_tensor(const std::vector<std::vector<TokenId>>& rows) {
  require(!rows.empty(), "window_tensor: no windows");
  std::vector<TokenId> ids;
  for (const auto& row : rows) {
    require(row.size() == rows[0].size(), "window_tensor: windows of {} and {} tokens", rows[0].size(), row.size());
    ids.insert(ids.end(), row.begin(), row.end());
  }
  return matrix(ids, static_cast<std::int64_t>(rows.size()));
}

at::Tensor window_tensor(const TokenFile& file, const std::vector<Window>& windows) {
  std::vector<std::vector<TokenId>> rows;
  for (const auto& window : windows)
    rows.emplace_back(file.ids.begin() + window.start, file.ids.begin() + window.start + window.length);
  return window_tensor(rows);
}

at::Tensor spread_windows(const TokenFile& file, std::int64_t length, std::int64_t count) {
  const auto all = full_windows(file, length);
  require(!all.empty(), "no document has {} tokens: use shorter windows", length);
  const auto n = std::min<std::int64_t>(count, static_cast<std::int64_t>(all.size()));
  std::vector<Window> chosen;
  for (std::int64_t i = 0; i < n; ++i) chosen.push_back(all[i * static_cast<std::int64_t>(all.size()) / n]);
  return window_tensor(file, chosen);
}

at::Tensor spread_rows(const at::Tensor& windows, std::int64_t count) {
  const auto n = windows.size(0);
  if (count >= n) return windows;
  return windows.index_select(0, at::arange(count, at::kLong).mul_(n).floor_divide_(count));
}

at::Tensor behind_bos(const at::Tensor& windows, const engine::Tokenizer& tokenizer) {
  if (!tokenizer.adds_bos()) return windows;
  auto begun = windows.clone();
  begun.select(1, 0).fill_(tokenizer.bos());
  return begun;
}

}  // namespace unbend::lm
