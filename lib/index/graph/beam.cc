#include "lib/index/graph/beam.h"

#include <algorithm>

#include "lib/index/keys/products.h"

namespace swell::graph {
namespace {

// Candidates of `sorted` before `candidate`, by a search without branches to guess: where one belongs is news each
// time.
size_t Below(std::span<const Candidate> sorted, const Candidate& candidate) {
  const Candidate* first = sorted.data();
  size_t count = sorted.size();
  while (count > 1) {
    const size_t half = count / 2;
    first = first[half - 1] < candidate ? first + half : first;
    count -= half;
  }
  return static_cast<size_t>(first - sorted.data()) + (count == 1 && *first < candidate ? 1 : 0);
}

void Prefetch(std::span<const Slot> slots) {
  for (size_t i = 0; i < slots.size(); i += 64 / sizeof(Slot)) __builtin_prefetch(&slots[i]);
}

}  // namespace

Beam::Beam(const KeyTable& table, const Adjacency& adjacency, int64_t width, int64_t pool, int64_t visits)
    : storage_(table.storage),
      head_dim_(table.head_dim),
      rows_(table),
      adjacency_(adjacency),
      width_(static_cast<size_t>(width)),
      pool_size_(static_cast<size_t>(pool)),
      visits_(visits) {
  pool_.reserve(pool_size_);
  neighbours_.reserve(kMaxDegree);
}

void Beam::Start(const float* query, Measure measure, int64_t keys) {
  query_ = query;
  measure_ = measure;
  keys_ = keys;
  visited_ = 0;
  next_ = 0;
  pool_.clear();
  marks_.assign(static_cast<size_t>(keys + 63) / 64, 0);
}

bool Beam::Mark(uint32_t key) {
  uint64_t& marks = marks_[key / 64];
  const uint64_t seen = marks >> key % 64 & 1;
  marks |= uint64_t{1} << key % 64;
  return seen == 0;
}

void Beam::Visit(std::span<const uint32_t> keys) {
  while (!keys.empty() && visited_ < visits_) {
    const size_t most = std::min({kBatchKeys, keys.size(), static_cast<size_t>(visits_ - visited_)});
    size_t count = 0;
    for (const uint32_t key : keys.first(most)) {
      batch_[count] = key;  // and kept when it is new: most guesses would be wrong
      count += key < keys_ && Mark(key) ? 1 : 0;
    }
    keys = keys.subspan(most);
    Compare(count);
  }
}

void Beam::Compare(size_t count) {
  if (count == 0) return;
  visited_ += static_cast<int64_t>(count);
  const auto row_bytes = head_dim_ * static_cast<int64_t>(DTypeSize(storage_));
  for (size_t i = 0; i < count; ++i) {
    batch_rows_[i] = rows_[batch_[i]];
    for (int64_t byte = 0; byte < row_bytes; byte += 64) __builtin_prefetch(batch_rows_[i].elements + byte);
  }
  RowProducts(storage_, head_dim_, query_, {batch_rows_.data(), count}, products_.data());
  const bool full = pool_.size() == pool_size_;
  size_t fresh = 0;
  for (size_t i = 0; i < count; ++i) {
    const float norm = measure_ == Measure::kDistance ? adjacency_.norm(batch_[i]) : 0;
    fresh_[fresh] = Candidate(products_[i] - norm, batch_[i]);
    fresh += !full || fresh_[fresh] < pool_.back() ? 1 : 0;
  }
  std::sort(fresh_.begin(), fresh_.begin() + static_cast<int64_t>(fresh));
  Merge({fresh_.data(), fresh});
}

void Beam::Merge(std::span<const Candidate> fresh) {
  size_t old = pool_.size();
  for (size_t total = old + fresh.size(); total > pool_size_; --total) {  // the worst of both fall out
    if (old > 0 && (fresh.empty() || fresh.back() < pool_[old - 1])) {
      --old;
    } else {
      fresh = fresh.first(fresh.size() - 1);
    }
  }
  pool_.resize(old + fresh.size());
  // From the back, so that what lies between two of them moves once.
  for (; !fresh.empty(); fresh = fresh.first(fresh.size() - 1)) {
    const size_t at = Below({pool_.data(), old}, fresh.back());
    std::move_backward(pool_.begin() + static_cast<int64_t>(at), pool_.begin() + static_cast<int64_t>(old),
                       pool_.begin() + static_cast<int64_t>(old + fresh.size()));
    pool_[at + fresh.size() - 1] = fresh.back();
    old = at;
  }
  next_ = std::min(next_, old);
}

void Beam::Run() {
  while (next_ < std::min(width_, pool_.size()) && visited_ < visits_) {
    Candidate& candidate = pool_[next_++];
    if (candidate.expanded()) continue;
    candidate.set_expanded();
    if (next_ < pool_.size()) Prefetch(adjacency_.Slots(pool_[next_].key()));
    neighbours_.clear();
    for (const Slot& slot : adjacency_.Slots(candidate.key())) {
      neighbours_.push_back(slot.load(std::memory_order_acquire));
    }
    Visit(neighbours_);
  }
}

}  // namespace swell::graph
