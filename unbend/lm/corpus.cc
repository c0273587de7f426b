#include "unbend/lm/corpus.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::lm {

std::pair<TokenFile, TokenFile> split_tail(const TokenFile& file, double fraction) {
  require(fraction > 0 && fraction < 1, "split_tail: fraction is {}, expected a number between 0 and 1", fraction);
  const auto total = static_cast<std::int64_t>(file.ids.size());
  const auto cut = total - static_cast<std::int64_t>(std::llround(fraction * static_cast<double>(total)));
  const auto part = [&](std::int64_t first, std::int64_t last) {
    TokenFile out;
    out.tokenizer = file.tokenizer;
    out.vocabulary = file.vocabulary;
    out.ids.assign(file.ids.begin() + first, file.ids.begin() + last);
    for (std::int64_t d = 0; d < file.documents(); ++d) {
      const auto end = std::min(file.starts[d + 1], last);
      if (end <= std::max(file.starts[d], first)) continue;
      out.starts.push_back(end - first);
      out.sources.push_back(file.sources[d]);
    }
    return out;
  };
  return {part(0, cut), part(cut, total)};
}

std::vector<Window> full_windows(const TokenFile& file, std::int64_t length) {
  require(length > 0, "full_windows: length is {}, expected a positive number", length);
  std::vector<Window> windows;
  for (std::int64_t d = 0; d < file.documents(); ++d)
    for (auto start = file.starts[d]; start + length <= file.starts[d + 1]; start += length)
      windows.push_back({start, length});
  return windows;
}

std::vector<Window> choose_windows(const TokenFile& file, std::int64_t length, std::int64_t count, Random& random,
                                   const std::vector<Window>& avoid) {
  auto windows = full_windows(file, length);
  std::erase_if(windows, [&](const Window& window) {
    return std::ranges::any_of(avoid, [&](const Window& other) {
      return window.start < other.start + other.length && other.start < window.start + window.length;
    });
  });
  require(count <= static_cast<std::int64_t>(windows.size()),
          "{} windows of {} tokens were asked for, the documents have {}", count, length, windows.size());
  shuffle(windows, random);
  windows.resize(count);
  std::ranges::sort(windows, {}, &Window::start);
  return windows;
}

TokenBatches::TokenBatches(std::shared_ptr<const TokenFile> file, const BatchOptions& options)
    : file_(std::move(file)), options_(options) {
  require(options_.length > 1 && options_.rows > 0 && options_.least > 0,
          "batches: length {}, rows {}, least {}: expected a length above 1 and positive numbers", options_.length,
          options_.rows, options_.least);
  require(options_.bos < file_->vocabulary, "batches: BOS {} is not in the vocabulary of {}", options_.bos,
          file_->vocabulary);
  const std::int64_t space = options_.length - (options_.bos >= 0 ? 1 : 0);
  for (std::int64_t d = 0; d < file_->documents(); ++d) {
    const auto first = file_->starts[d], last = file_->starts[d + 1] - 1;  // the last token is only ever a target
    auto start = first;
    for (; start + space <= last; start += space) sequences_.push_back({start, space, 0});
    const auto rest = last - start;
    if (rest >= options_.least) {
      const auto moved = std::max(first, last - space);
      sequences_.push_back({moved, last - moved, start - moved});
    } else {
      stats_.dropped += rest + (start == first ? 1 : 0);
    }
  }
  require(!sequences_.empty(), "batches: no document has {} tokens or more", options_.least + 1);
  stats_.sequences = static_cast<std::int64_t>(sequences_.size());
  stats_.batches = (stats_.sequences + options_.rows - 1) / options_.rows;
  for (const auto& sequence : sequences_) stats_.targets += sequence.length - sequence.context;
  shuffle();
  for (std::int64_t i = 0; i < stats_.sequences; i += options_.rows) {
    const auto rows = std::min(options_.rows, stats_.sequences - i);
    stats_.positions += rows * (order_[i].length + options_.length - space);
  }
}

// Each epoch's order depends on the seed and the epoch alone.
void TokenBatches::shuffle() {
  Random random(options_.seed);
  for (std::int64_t i = 0; i < position_.epoch; ++i) random.split();
  random = random.split();
  order_ = sequences_;
  lm::shuffle(order_, random);
  std::ranges::stable_sort(order_, std::greater(), &Sequence::length);
  batches_.clear();
  for (std::int64_t i = 0; i < stats_.sequences; i += options_.rows) batches_.push_back(i);
  lm::shuffle(batches_, random);
}

void TokenBatches::seek(Position position) {
  require(position.epoch >= 0 && position.batch >= 0 && position.batch < stats_.batches,
          "batches: position {}:{} does not exist, an epoch has {} batches", position.epoch, position.batch,
          stats_.batches);
  position_ = position;
  shuffle();
}

TokenBatch TokenBatches::next() {
  const auto first = batches_[position_.batch], rows = std::min(options_.rows, stats_.sequences - first);
  const std::int64_t lead = options_.bos >= 0 ? 1 : 0;
  TokenBatch batch{rows, order_[first].length + lead, {}, {}};  // the first is the longest
  batch.ids.assign(rows * batch.length, 0);
  batch.targets.assign(rows * batch.length, -1);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto& sequence = order_[first + row];
    const auto source = file_->ids.begin() + sequence.start;
    const auto at = row * batch.length;
    if (lead) batch.ids[at] = options_.bos;
    std::copy_n(source, sequence.length, batch.ids.begin() + at + lead);
    std::copy(source + sequence.context + 1, source + sequence.length + 1,
              batch.targets.begin() + at + lead + sequence.context);
  }
  if (++position_.batch == stats_.batches) {
    position_ = {position_.epoch + 1, 0};
    shuffle();
  }
  return batch;
}

}  // namespace unbend::lm
