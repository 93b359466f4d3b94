#include "lib/index/graph/beam.h"

#include <algorithm>

#include "lib/index/keys/products.h"

namespace swell::graph {
namespace {

// Keys that are compared together: their rows are asked for before the first one is read.
constexpr size_t kBatchKeys = 64;

void Prefetch(std::span<const Slot> slots) {
  for (size_t i = 0; i < slots.size(); i += 64 / sizeof(Slot)) __builtin_prefetch(&slots[i]);
}

}  // namespace

Beam::Beam(const KeyTable& table, const Adjacency& adjacency, int64_t pool, int64_t visits)
    : storage_(table.storage),
      head_dim_(table.head_dim),
      rows_(table),
      adjacency_(adjacency),
      pool_size_(static_cast<size_t>(pool)),
      visits_(visits) {
  pool_.reserve(pool_size_ + 1);
  neighbours_.reserve(kMaxDegree);
  batch_.reserve(kBatchKeys);
  batch_rows_.reserve(kBatchKeys);
  products_.resize(kBatchKeys);
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
  const uint64_t mark = uint64_t{1} << key % 64;
  const bool seen = (marks & mark) != 0;
  marks |= mark;
  return !seen;
}

void Beam::Offer(float score, uint32_t key) {
  const Candidate candidate(score, key);
  if (pool_.size() == pool_size_) {
    if (!(candidate < pool_.back())) return;
    pool_.pop_back();
  }
  const auto at = std::upper_bound(pool_.begin(), pool_.end(), candidate);
  next_ = std::min(next_, static_cast<size_t>(at - pool_.begin()));
  pool_.insert(at, candidate);
}

void Beam::Visit(std::span<const uint32_t> keys) {
  while (!keys.empty()) {
    batch_.clear();
    batch_rows_.clear();
    while (!keys.empty() && batch_.size() < kBatchKeys && visited_ < visits_) {
      const uint32_t key = keys.front();
      keys = keys.subspan(1);
      if (key >= keys_ || !Mark(key)) continue;
      ++visited_;
      const KeyRow row = rows_[key];
      for (int64_t byte = 0; byte < head_dim_ * static_cast<int64_t>(DTypeSize(storage_)); byte += 64) {
        __builtin_prefetch(row.elements + byte);
      }
      batch_.push_back(key);
      batch_rows_.push_back(row);
    }
    if (batch_.empty()) return;
    RowProducts(storage_, head_dim_, query_, batch_rows_, products_.data());
    for (size_t i = 0; i < batch_.size(); ++i) {
      Offer(measure_ == Measure::kDistance ? products_[i] - adjacency_.norm(batch_[i]) : products_[i], batch_[i]);
    }
  }
}

void Beam::Run() {
  while (next_ < pool_.size() && visited_ < visits_) {
    Candidate& candidate = pool_[next_++];
    if (candidate.expanded()) continue;
    candidate.set_expanded();
    if (next_ < pool_.size()) Prefetch(adjacency_.Slots(pool_[next_].key()));
    neighbours_.clear();
    for (const Slot& slot : adjacency_.Slots(candidate.key())) {
      const uint32_t key = slot.load(std::memory_order_acquire);
      if (key < keys_) neighbours_.push_back(key);
    }
    Visit(neighbours_);
  }
}

}  // namespace swell::graph
