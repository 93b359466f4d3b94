#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <new>
#include <random>
#include <utility>

#include "lib/base/convert.h"
#include "lib/index/graph/beam.h"
#include "lib/index/graph/metric.h"
#include "lib/index/graph/project.h"
#include "lib/index/keys/key_table.h"
#include "swell/key_index.h"

namespace swell {
namespace graph {
namespace {

// Best keys of an entry query that a search begins with, and the entry queries of which they are taken.
constexpr int64_t kEntryKeys = 32;
constexpr int64_t kEntriesUsed = 4;
constexpr int64_t kMaxEntries = 1024;

// Candidates for the neighbours of a key that no list links, and how many keys are compared for them.
constexpr int64_t kAttachPool = 64;
constexpr int64_t kAttachVisits = 1024;

class GraphIndex final : public KeyIndex {
 public:
  // `keys` [tokens, head_dim] are the decoded keys, which become places; `queries` have length 1. Throws
  // std::bad_alloc.
  GraphIndex(const GraphOptions& options, const KeyTable& table, std::vector<float>& keys,
             const std::vector<float>& queries, const std::vector<int64_t>& visible)
      : degree_(options.degree),
        head_dim_(table.head_dim),
        storage_(table.storage),
        metric_(head_dim_, keys.data(), table.tokens, queries.data(), static_cast<int64_t>(visible.size())),
        adjacency_(table.tokens, options.degree) {
    const KeyLists lists = FindNearestKeys(head_dim_, keys.data(), queries.data(), visible,
                                           std::min<int64_t>(options.list_keys, table.tokens));
    ChooseEntries(options, keys, queries, table.tokens, static_cast<int64_t>(visible.size()));
    PlaceKeys(keys, table.tokens);
    LinkLists(lists, options.reach, head_dim_, keys.data(), table.tokens, degree_, adjacency_);
    ConnectAll(table, keys.data());
    tokens_.store(table.tokens, std::memory_order_release);
  }

  int64_t tokens() const override { return tokens_.load(std::memory_order_acquire); }
  size_t bytes() const override {
    return sizeof(*this) + adjacency_.bytes() + metric_.bytes() + entry_queries_.size() * sizeof(float) +
           (entry_keys_.size() + start_keys_.size()) * sizeof(uint32_t);
  }
  Status Extend(const KeyTable& keys) override;
  Status Search(const KeyTable& keys, const float* queries, int64_t n_queries, int64_t top_k,
                const SearchEffort& effort, FoundKey* found, int64_t* scanned) const override;

 private:
  // Places of keys [head_dim]: those of the build, or computed from the rows of the candidates at hand.
  struct Places {
    const float* all = nullptr;
    std::vector<std::pair<uint32_t, std::vector<float>>> computed;
    int32_t head_dim = 0;

    const float* operator()(uint32_t key) const {
      if (all != nullptr) return all + int64_t{key} * head_dim;
      const auto found = std::lower_bound(computed.begin(), computed.end(), key,
                                          [](const auto& entry, uint32_t value) { return entry.first < value; });
      return found->second.data();
    }
  };

  // Edges lead from here to every key.
  uint32_t root() const { return start_keys_.front(); }
  bool IsReached(uint32_t key) const { return reached_.empty() || reached_[key]; }
  void ChooseEntries(const GraphOptions& options, const std::vector<float>& keys, const std::vector<float>& queries,
                     int64_t tokens, int64_t n_queries);
  void PlaceKeys(std::vector<float>& keys, int64_t tokens);
  void ConnectAll(const KeyTable& table, const float* places);
  std::vector<float> PlaceOf(const KeyRows& rows, uint32_t key) const;
  void Attach(Beam& beam, const KeyRows& rows, uint32_t key, const float* place, const float* places, int64_t known);
  void Adopt(std::span<const Candidate> candidates, uint32_t key);
  int64_t Enter(Beam& beam, const float* query, std::vector<std::pair<float, int64_t>>& order) const;

  const int32_t degree_;
  const int32_t head_dim_;
  const DType storage_;
  const Metric metric_;
  Adjacency adjacency_;
  std::vector<float> entry_queries_;  // [entries, head_dim]
  std::vector<uint32_t> entry_keys_;  // [entries, entry_width_]
  int64_t entry_width_ = 0;
  std::vector<uint32_t> start_keys_;  // where a search for a key's neighbours begins
  std::vector<bool> reached_;         // while building: keys to which edges lead from the root
  uint32_t adopter_ = 0;              // keys before it have no free adoption slot, unless they are not reached
  std::mutex extending_;
  std::atomic<int64_t> tokens_{0};
};

void GraphIndex::ChooseEntries(const GraphOptions& options, const std::vector<float>& keys,
                               const std::vector<float>& queries, int64_t tokens, int64_t n_queries) {
  entry_width_ = std::min(kEntryKeys, tokens);
  const int64_t entries = std::min<int64_t>(options.entry_queries, n_queries);
  for (int64_t i = 0; i < entries; ++i) {
    const auto query = queries.begin() + (2 * i + 1) * n_queries / (2 * entries) * head_dim_;
    entry_queries_.insert(entry_queries_.end(), query, query + head_dim_);
  }
  const std::vector<int64_t> all(static_cast<size_t>(entries), tokens);
  entry_keys_ = FindNearestKeys(head_dim_, keys.data(), entry_queries_.data(), all, entry_width_).keys;
  for (int64_t i = 0; i < entry_width_; ++i) start_keys_.push_back(static_cast<uint32_t>(i * tokens / entry_width_));
  for (int64_t i = 0; i < entries; ++i) start_keys_.push_back(entry_keys_[i * entry_width_]);
  std::sort(start_keys_.begin(), start_keys_.end());
  start_keys_.erase(std::unique(start_keys_.begin(), start_keys_.end()), start_keys_.end());
}

void GraphIndex::PlaceKeys(std::vector<float>& keys, int64_t tokens) {
  std::vector<float> place(head_dim_);
  for (int64_t token = 0; token < tokens; ++token) {
    float* key = &keys[token * head_dim_];
    metric_.Place(key, 1, place.data());
    std::copy(place.begin(), place.end(), key);
    float norm = 0;
    for (const float x : place) norm += x * x;
    adjacency_.set_norm(static_cast<uint32_t>(token), norm);
  }
}

// Makes every key one that a search can get to: those that no edge leads to are attached where they belong.
void GraphIndex::ConnectAll(const KeyTable& table, const float* places) {
  const KeyRows rows(table);
  reached_.assign(static_cast<size_t>(table.tokens), false);
  std::vector<uint32_t> open;
  const auto reach = [&](uint32_t key) {
    if (key == kNoKey || reached_[key]) return;
    reached_[key] = true;
    open.push_back(key);
  };
  const auto follow = [&] {
    while (!open.empty()) {
      const uint32_t key = open.back();
      open.pop_back();
      for (const Slot& slot : adjacency_.Slots(key)) reach(slot.load(std::memory_order_relaxed));
    }
  };
  reach(root());
  follow();
  Beam beam(table, adjacency_, kAttachPool, kAttachPool, kAttachVisits);
  for (int64_t k = 0; k < table.tokens; ++k) {
    const auto key = static_cast<uint32_t>(k);
    if (reached_[key]) continue;
    Attach(beam, rows, key, places + k * head_dim_, places, table.tokens);
    reach(key);
    follow();
  }
  reached_ = {};
}

std::vector<float> GraphIndex::PlaceOf(const KeyRows& rows, uint32_t key) const {
  std::vector<float> centred(head_dim_), place(head_dim_);
  const KeyRow row = rows[key];
  DecodeRow(storage_, row.elements, row.scale, head_dim_, centred.data());
  metric_.Centre(centred.data());
  metric_.Place(centred.data(), 1, place.data());
  return place;
}

// Links `key`, whose place and norm are known, with its neighbours among keys 0 .. known, and one of them at least with
// it. `places` are those of all keys, or null.
void GraphIndex::Attach(Beam& beam, const KeyRows& rows, uint32_t key, const float* place, const float* places,
                        int64_t known) {
  std::vector<float> approach(head_dim_);
  metric_.Approach(place, approach.data());
  beam.Start(approach.data(), Measure::kDistance, known);
  beam.Visit(start_keys_);
  beam.Run();
  Places place_of{places, {}, head_dim_};
  std::vector<Near> near;
  for (const Candidate& candidate : beam.found()) {
    if (candidate.key() == key) continue;
    if (places == nullptr) place_of.computed.emplace_back(candidate.key(), PlaceOf(rows, candidate.key()));
    near.push_back({0, candidate.key()});
  }
  std::sort(place_of.computed.begin(), place_of.computed.end());
  for (Near& candidate : near) candidate.distance = SquaredDistance(head_dim_, place, place_of(candidate.key));
  std::sort(near.begin(), near.end());
  Occlude(place_of, head_dim_, (degree_ - kAdoptionSlots) / 2, near);
  for (const Near& neighbour : near) adjacency_.Link(key, neighbour.key, false);
  bool linked = false;
  for (const Near& neighbour : near) {
    const bool took = adjacency_.Link(neighbour.key, key, false);
    linked = linked || (took && IsReached(neighbour.key));
  }
  if (!linked) Adopt(beam.found(), key);
}

// Links the nearest candidate that has a free adoption slot with `key`; when none has, any key that has.
void GraphIndex::Adopt(std::span<const Candidate> candidates, uint32_t key) {
  for (const Candidate& candidate : candidates) {
    if (candidate.key() != key && IsReached(candidate.key()) && adjacency_.Link(candidate.key(), key, true)) return;
  }
  const auto end = reached_.empty() ? key : static_cast<uint32_t>(reached_.size());
  for (uint32_t adopter = adopter_; adopter < end; ++adopter) {
    if (adopter == key || !IsReached(adopter)) continue;
    if (adjacency_.Link(adopter, key, true)) return;
    if (adopter == adopter_) ++adopter_;
  }
}

// Compares the query with the entry queries and visits the keys of those it resembles most. Returns how many it was
// compared with.
int64_t GraphIndex::Enter(Beam& beam, const float* query, std::vector<std::pair<float, int64_t>>& order) const {
  const auto entries = static_cast<int64_t>(entry_queries_.size()) / head_dim_;
  std::array<float, kMaxEntries> products;
  BlockProducts(head_dim_, query, 1, entry_queries_.data(), entries, products.data(), entries);
  order.clear();
  for (int64_t i = 0; i < entries; ++i) order.emplace_back(-products[i], i);
  const auto used = std::min(kEntriesUsed, entries);
  std::partial_sort(order.begin(), order.begin() + used, order.end());
  for (int64_t i = 0; i < used; ++i)
    beam.Visit({&entry_keys_[order[i].second * entry_width_], static_cast<size_t>(entry_width_)});
  if (entries == 0) beam.Visit(start_keys_);
  return entries;
}

Status GraphIndex::Extend(const KeyTable& keys) try {
  const std::lock_guard lock(extending_);
  SWELL_RETURN_IF_ERROR(ValidateKeyTable(keys, storage_, head_dim_, tokens()));
  const KeyRows rows(keys);
  if (!adjacency_.Grow(keys.tokens)) {
    return Status(StatusCode::kResourceExhausted, "the graph cannot take so many more keys; build it anew");
  }
  Beam beam(keys, adjacency_, kAttachPool, kAttachPool, kAttachVisits);
  for (int64_t token = tokens(); token < keys.tokens; ++token) {
    const auto key = static_cast<uint32_t>(token);
    const std::vector<float> place = PlaceOf(rows, key);
    float norm = 0;
    for (const float x : place) norm += x * x;
    adjacency_.set_norm(key, norm);
    Attach(beam, rows, key, place.data(), nullptr, token);
    tokens_.store(token + 1, std::memory_order_release);
  }
  return OkStatus();
} catch (const std::bad_alloc&) {
  return KeyIndexOutOfMemory();
}

Status GraphIndex::Search(const KeyTable& keys, const float* queries, int64_t n_queries, int64_t top_k,
                          const SearchEffort& effort, FoundKey* found, int64_t* scanned) const try {
  SWELL_RETURN_IF_ERROR(ValidateKeySearch(keys, storage_, head_dim_, 1, queries, n_queries, top_k, found));
  SWELL_RETURN_IF_ERROR(ValidateEffort(effort, n_queries));
  const int64_t known = std::min(tokens(), keys.tokens);
  const int64_t pool = std::min(known, std::max(effort.pool, top_k));
  Beam beam(keys, adjacency_, effort.pool, pool, std::min(known, effort.visits));
  std::vector<std::pair<float, int64_t>> order;
  int64_t compared = 0;
  for (int64_t q = 0; q < n_queries; ++q) {
    const float* query = queries + q * head_dim_;
    beam.Start(query, Measure::kProduct, known);
    if (!effort.entries.empty()) beam.Visit(effort.entries[q]);
    if (beam.visited() == 0) compared += Enter(beam, query, order);
    const uint32_t root_key = root();
    beam.Visit({&root_key, 1});
    beam.Run();
    compared += beam.visited();
    const std::span<const Candidate> best = beam.found();
    for (int64_t k = 0; k < top_k; ++k) {
      found[q * top_k + k] = k < static_cast<int64_t>(best.size())
                                 ? FoundKey{best[k].key(), best[k].score()}
                                 : FoundKey{-1, -std::numeric_limits<float>::infinity()};
    }
  }
  if (scanned != nullptr) *scanned += compared;
  return OkStatus();
} catch (const std::bad_alloc&) {
  return KeyIndexOutOfMemory();
}

// --- what the index is built from -----------------------------------------------------------------------------------

Status ValidateOptions(const GraphOptions& options) {
  SWELL_RETURN_IF_ERROR(CheckOption("degree", options.degree, 8, kMaxDegree));
  SWELL_RETURN_IF_ERROR(CheckOption("list_keys", options.list_keys, 4, 1024));
  SWELL_RETURN_IF_ERROR(CheckOption("reach", options.reach, 1, 64));
  SWELL_RETURN_IF_ERROR(CheckOption("entry_queries", options.entry_queries, 1, kMaxEntries));
  return CheckOption("max_queries", options.max_queries, 0, 65536);
}

// Queries that are used where the options leave it open: one for so many keys, in these bounds.
constexpr int64_t kKeysPerQuery = 8;
constexpr int64_t kLeastQueries = 1024;
constexpr int64_t kMostQueries = 16384;

// A sample of the caller's queries, each of length 1, and how many keys each sees.
struct Sample {
  std::vector<float> queries;
  std::vector<int64_t> visible;
};

Result<Sample> TakeSample(const GraphOptions& options, const KeyTable& keys, const QuerySample& queries) {
  Sample sample;
  const int64_t head_dim = keys.head_dim;
  const int64_t count = QueriesUsed(options, keys.tokens, queries.count);
  // A list is worth something when there was a choice.
  const int64_t fewest = std::min<int64_t>(keys.tokens, 2 * int64_t{options.list_keys});
  // One of each stretch, at random: the heads of a group come in turn, and an even step would skip some of them.
  std::minstd_rand random;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * queries.count / count;
    const int64_t end = (i + 1) * queries.count / count;
    const int64_t row = first + static_cast<int64_t>(random()) % (end - first);
    const float* query = queries.queries + row * head_dim;
    double norm = 0;
    for (int64_t d = 0; d < head_dim; ++d) norm += static_cast<double>(query[d]) * query[d];
    if (!std::isfinite(norm)) return InvalidArgument("queries hold NaN or Inf", StatusDetail::kNonFinite);
    const double scale = norm > 0 ? 1 / std::sqrt(norm) : 0;
    for (int64_t d = 0; d < head_dim; ++d) sample.queries.push_back(static_cast<float>(query[d] * scale));
    const int64_t sees = queries.visible == nullptr ? keys.tokens : queries.visible[row];
    sample.visible.push_back(std::clamp(sees, fewest, keys.tokens));
  }
  return sample;
}

}  // namespace
}  // namespace graph

int64_t QueriesUsed(const GraphOptions& options, int64_t keys, int64_t given) {
  const int64_t by_keys = std::clamp(keys / graph::kKeysPerQuery, graph::kLeastQueries, graph::kMostQueries);
  return std::min(given, options.max_queries > 0 ? int64_t{options.max_queries} : by_keys);
}

Result<std::unique_ptr<KeyIndex>> BuildGraphIndex(const GraphOptions& options, const KeyTable& keys,
                                                  const QuerySample& queries) try {
  SWELL_RETURN_IF_ERROR(graph::ValidateOptions(options));
  SWELL_RETURN_IF_ERROR(ValidateKeyTable(keys, keys.storage, keys.head_dim, 1));
  if (queries.count < 0) return InvalidArgument("queries.count is negative", StatusDetail::kBadSize);
  if (queries.count > 0 && queries.queries == nullptr) {
    return InvalidArgument("queries.queries is null", StatusDetail::kNullPointer);
  }
  Result<graph::Sample> sample = graph::TakeSample(options, keys, queries);
  if (!sample.ok()) return sample.status();
  Result<std::vector<float>> decoded = DecodeKeys(keys);
  if (!decoded.ok()) return decoded.status();
  return std::unique_ptr<KeyIndex>(
      std::make_unique<graph::GraphIndex>(options, keys, *decoded, sample->queries, sample->visible));
} catch (const std::bad_alloc&) {
  return KeyIndexOutOfMemory();
}

}  // namespace swell
