#include "unbend/engine/sequences.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "unbend/base/error.h"
#include "unbend/engine/mixer.h"

namespace unbend::engine {
namespace {

constexpr std::uint64_t kMagic = 0x33305451444e4255;  // "UBNDQT03"

struct SavedHeader {
  std::uint64_t magic;
  std::int64_t length, fixed_bytes, cell_bytes, softmax_layers, lanes;
  std::array<char, 64> owner;
};

std::array<char, 64> owner_of(std::string_view fingerprint) {
  std::array<char, 64> owner{};
  std::copy_n(fingerprint.begin(), std::min(fingerprint.size(), owner.size()), owner.begin());
  return owner;
}

std::size_t size(std::int64_t bytes) { return static_cast<std::size_t>(bytes); }

}  // namespace

Pages::Pages(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) fail_computation("no memory for {} bytes of keys and values", bytes);
  data_ = static_cast<std::byte*>(p);
}

Pages::~Pages() {
  if (data_) ::munmap(data_, bytes_);
}

void Pages::clear() {
  if (data_) ::madvise(data_, bytes_, MADV_DONTNEED);
}

Sequences::Sequences(int count, const SequenceSizes& sizes) : sizes_(sizes), all_(static_cast<std::size_t>(count)) {}

const Sequence& Sequences::at(int id) const {
  const auto i = static_cast<std::size_t>(id);
  require(id >= 0 && i < all_.size() && all_[i].used, "engine: there is no sequence {}", id);
  return all_[i];
}

Sequence& Sequences::at(int id) { return const_cast<Sequence&>(std::as_const(*this).at(id)); }

std::byte* Sequences::cache(int id, std::int64_t softmax_layer, bool values) const {
  return at(id).growing->data() + (2 * softmax_layer + (values ? 1 : 0)) * sizes_.capacity * sizes_.cell_bytes;
}

// Calls visit(offset) for the keys, then the values of each softmax layer in a sequence's growing memory.
template <class Visit>
void Sequences::for_caches(const Visit& visit) const {
  for (std::int64_t i = 0; i < 2 * sizes_.softmax_layers; ++i) visit(i * sizes_.capacity * sizes_.cell_bytes);
}

int Sequences::begin() {
  const auto free = std::find_if(all_.begin(), all_.end(), [](const Sequence& s) { return !s.used; });
  if (free == all_.end()) fail_computation("engine: all {} sequences are in use", all_.size());
  if (!free->fixed) {
    auto fixed = std::make_unique<Pages>(size(sizes_.fixed_bytes));
    free->growing = std::make_unique<Pages>(size(2 * sizes_.softmax_layers * sizes_.capacity * sizes_.cell_bytes));
    free->fixed = std::move(fixed);  // both or none
  }
  free->used = true;
  free->length = 0;
  return static_cast<int>(free - all_.begin());
}

void Sequences::end(int id) {
  auto& s = at(id);
  s.used = false;
  s.fixed->clear();
  s.growing->clear();
}

int Sequences::fork(int id) {
  const auto& from = at(id);
  const int copy = begin();
  auto& to = at(copy);
  if (sizes_.fixed_bytes) std::memcpy(to.fixed->data(), from.fixed->data(), size(sizes_.fixed_bytes));
  const auto used = size(from.length * sizes_.cell_bytes);
  for_caches(
      [&](std::int64_t offset) { std::memcpy(to.growing->data() + offset, from.growing->data() + offset, used); });
  to.length = from.length;
  return copy;
}

void Sequences::pretend(int id, std::int64_t tokens) {
  auto& s = at(id);
  require(s.length > 0, "engine: sequence {} has nothing to repeat", id);
  require(tokens > 0 && tokens <= kLongest && (sizes_.softmax_layers == 0 || tokens <= sizes_.context),
          "engine: a length of {} in a context of {}", tokens, sizes_.context);
  for_caches([&](std::int64_t offset) {
    auto* cells = s.growing->data() + offset;
    for (std::int64_t have = s.length; have < tokens; have *= 2)
      std::memcpy(cells + have * sizes_.cell_bytes, cells, size(std::min(have, tokens - have) * sizes_.cell_bytes));
  });
  s.length = tokens;
}

std::vector<std::byte> Sequences::save(int id, std::string_view owner) const {
  const auto& s = at(id);
  const SavedHeader header{kMagic,        s.length,       sizes_.fixed_bytes, sizes_.cell_bytes, sizes_.softmax_layers,
                           state_lanes(), owner_of(owner)};
  std::vector<std::byte> out(sizeof header + size(state_bytes(id)));
  std::memcpy(out.data(), &header, sizeof header);
  auto* to = out.data() + sizeof header;
  if (sizes_.fixed_bytes) std::memcpy(to, s.fixed->data(), size(sizes_.fixed_bytes));
  to += sizes_.fixed_bytes;
  const auto used = s.length * sizes_.cell_bytes;
  for_caches([&](std::int64_t offset) {
    std::memcpy(to, s.growing->data() + offset, size(used));
    to += used;
  });
  return out;
}

int Sequences::restore(std::span<const std::byte> saved, std::string_view owner) {
  SavedHeader header{};
  require(saved.size() >= sizeof header, "saved state: {} bytes are too few", saved.size());
  std::memcpy(&header, saved.data(), sizeof header);
  require(header.magic == kMagic, "saved state: not one of ours");
  require(header.owner == owner_of(owner) && header.fixed_bytes == sizes_.fixed_bytes &&
              header.cell_bytes == sizes_.cell_bytes && header.softmax_layers == sizes_.softmax_layers,
          "saved state: it belongs to another model or other options");
  require(sizes_.fixed_bytes == 0 || header.lanes == state_lanes(),
          "saved state: it comes from a machine with vectors of {} floats, this one's have {}", header.lanes,
          state_lanes());
  require(header.length >= 0 && header.length <= kLongest &&
              (sizes_.softmax_layers == 0 || header.length <= sizes_.context),
          "saved state: {} tokens do not fit a context of {}", header.length,
          sizes_.softmax_layers == 0 ? kLongest : sizes_.context);
  const auto expected = static_cast<std::uint64_t>(sizes_.fixed_bytes) +
                        static_cast<std::uint64_t>(2 * sizes_.softmax_layers * header.length * sizes_.cell_bytes);
  require(saved.size() - sizeof header == expected, "saved state: {} bytes where {} are expected",
          saved.size() - sizeof header, expected);
  const int id = begin();
  auto& s = at(id);
  const auto* from = saved.data() + sizeof header;
  if (sizes_.fixed_bytes) std::memcpy(s.fixed->data(), from, size(sizes_.fixed_bytes));
  from += sizes_.fixed_bytes;
  const auto used = header.length * sizes_.cell_bytes;
  for_caches([&](std::int64_t offset) {
    std::memcpy(s.growing->data() + offset, from, size(used));
    from += used;
  });
  s.length = header.length;
  return id;
}

std::int64_t Sequences::state_bytes(int id) const {
  return sizes_.fixed_bytes + 2 * sizes_.softmax_layers * at(id).length * sizes_.cell_bytes;
}

}  // namespace unbend::engine
