#include "unbend/attention/window_cache.h"

#include <algorithm>
#include <vector>

namespace unbend {

WindowCache::WindowCache(std::int64_t batch, std::int64_t kv_heads, std::int64_t dim, const WindowOptions& options,
                         const at::TensorOptions& tensor_options)
    : options_(options),
      keys_(at::zeros({batch, kv_heads, options.sinks + options.span(), dim}, tensor_options)),
      values_(at::zeros_like(keys_)),
      positions_(at::full({options.sinks + options.span()}, -1, at::kLong)) {}

std::int64_t WindowCache::slot(std::int64_t token) const {
  return token < options_.sinks ? token : options_.sinks + (token - options_.sinks) % options_.span();
}

WindowCache::Leaving WindowCache::leaving(const at::Tensor& k, const at::Tensor& v) const {
  const std::int64_t first = options_.first(position_ - 1), tokens = options_.first(position_ + k.size(2) - 1) - first;
  // Leaving token first+i is still in the ring, or (for a long chunk) among the new tokens themselves.
  std::vector<std::int64_t> old, fresh;
  auto valid = at::zeros({tokens}, keys_.options().device(at::kCPU));
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::int64_t token = first + i;
    if (token >= options_.sinks) valid[i].fill_(1);
    if (token < position_)
      old.push_back(token >= options_.sinks ? slot(token) : 0);
    else
      fresh.push_back(token - position_);
  }
  const auto old_index = at::tensor(old, at::kLong), fresh_index = at::tensor(fresh, at::kLong);
  valid = valid.to(keys_.device());
  const auto mask = valid.view({1, 1, tokens, 1});
  const auto pick = [&](const at::Tensor& held, const at::Tensor& arriving) {
    return at::cat({held.index_select(2, old_index.to(held.device())),
                    arriving.index_select(2, fresh_index.to(held.device())).to(held.scalar_type())},
                   2) *
           mask;
  };
  return {pick(keys_, k), pick(values_, v), valid};
}

void WindowCache::remember(const at::Tensor& k, const at::Tensor& v) {
  const std::int64_t tokens = k.size(2);
  std::vector<std::int64_t> slots, sources, positions;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::int64_t token = position_ + i;
    if (token >= options_.sinks && i + options_.span() < tokens) continue;  // pushed out again within this chunk
    slots.push_back(slot(token));
    sources.push_back(i);
    positions.push_back(token);
  }
  const auto slot_index = at::tensor(slots, at::kLong), source_index = at::tensor(sources, at::kLong).to(k.device());
  positions_.index_copy_(0, slot_index, at::tensor(positions, at::kLong));
  keys_.index_copy_(2, slot_index.to(k.device()), k.index_select(2, source_index).to(keys_.scalar_type()));
  values_.index_copy_(2, slot_index.to(k.device()), v.index_select(2, source_index).to(values_.scalar_type()));
  position_ += tokens;
}

Partial WindowCache::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const std::int64_t tokens = q.size(2);
  const auto query_positions = at::arange(position_, position_ + tokens, at::kLong);
  if (position_ == 0 && tokens > 1) {
    remember(k, v);
    return window_attention(q, k, v, options_);
  }
  if (tokens == 1) {  // the token that it overwrites is the one that leaves the window
    remember(k, v);
    return window_attention_at(q, keys_, values_, query_positions, positions_, options_);
  }
  const auto keys = at::cat({keys_.to(k.scalar_type()), k}, 2), values = at::cat({values_.to(v.scalar_type()), v}, 2);
  const auto key_positions = at::cat({positions_, query_positions});
  remember(k, v);
  return window_attention_at(q, keys, values, query_positions, key_positions, options_);
}

WindowCache WindowCache::clone() const {
  WindowCache copy = *this;
  copy.keys_ = keys_.clone();
  copy.values_ = values_.clone();
  copy.positions_ = positions_.clone();
  return copy;
}

void WindowCache::pretend(std::int64_t tokens) {
  keys_.uniform_(-1, 1);
  values_.uniform_(-1, 1);
  positions_.fill_(-1);
  for (std::int64_t token = 0; token < tokens; ++token) {
    if (token >= options_.sinks && token < tokens - options_.span()) token = tokens - options_.span();
    positions_[slot(token)].fill_(token);
  }
  position_ = tokens;
}

}  // namespace unbend
