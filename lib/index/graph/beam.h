// Best-first search over a graph of keys with a pool of bounded size and a bounded number of comparisons.
#ifndef SWELL_LIB_INDEX_GRAPH_BEAM_H_
#define SWELL_LIB_INDEX_GRAPH_BEAM_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/float_order.h"
#include "lib/index/graph/adjacency.h"
#include "lib/index/keys/key_rows.h"
#include "swell/key_index.h"

namespace swell::graph {

// A key that was compared, in one word, whose order is theirs: higher score first, then the earlier key. Keys have 31
// bits; scores are not NaN.
class Candidate {
 public:
  Candidate() = default;
  Candidate(float score, uint32_t key) : word_(uint64_t{~OrderedBits(score)} << 32 | uint64_t{key} << 1) {}

  float score() const { return FloatOfOrderedBits(~static_cast<uint32_t>(word_ >> 32)); }
  uint32_t key() const { return static_cast<uint32_t>(word_) >> 1; }
  bool expanded() const { return (word_ & 1) != 0; }
  void set_expanded() { word_ |= 1; }
  bool operator<(const Candidate& other) const { return word_ < other.word_; }

 private:
  uint64_t word_ = 0;
};

// What a score is besides the product of query and key.
enum class Measure {
  kProduct,   // q . k
  kDistance,  // q . k - norm of k: with the query of Metric::Approach, nearest first
};

// Keys that are compared together: their rows are asked for before the first one is read.
constexpr size_t kBatchKeys = 64;

// One search at a time; its memory serves many.
class Beam {
 public:
  // Keeps the best `pool` keys and follows the edges of those that are among the best `width`; compares `visits` at
  // most. All 1 or more, up to 2^24. Throws std::bad_alloc.
  Beam(const KeyTable& table, const Adjacency& adjacency, int64_t width, int64_t pool, int64_t visits);

  // Begins a search among keys 0 .. keys. Throws std::bad_alloc.
  void Start(const float* query, Measure measure, int64_t keys);
  // Compares the query with keys that it was not compared with yet, as far as `visits` allows.
  void Visit(std::span<const uint32_t> keys);
  // Follows edges until nothing better is found.
  void Run();

  std::span<const Candidate> found() const { return pool_; }  // best first
  int64_t visited() const { return visited_; }

 private:
  bool Mark(uint32_t key);                       // false when it was marked before
  void Compare(size_t count);                    // the keys of batch_
  void Merge(std::span<const Candidate> fresh);  // sorted, into the pool

  const DType storage_;
  const int32_t head_dim_;
  const KeyRows rows_;
  const Adjacency& adjacency_;
  const size_t width_;
  const size_t pool_size_;
  const int64_t visits_;

  const float* query_ = nullptr;
  Measure measure_ = Measure::kProduct;
  int64_t keys_ = 0;
  int64_t visited_ = 0;
  size_t next_ = 0;                   // candidates before it are expanded
  std::vector<Candidate> pool_;       // sorted
  std::vector<uint64_t> marks_;       // a bit of each key
  std::vector<uint32_t> neighbours_;  // of the key that is expanded
  std::array<uint32_t, kBatchKeys> batch_;
  std::array<KeyRow, kBatchKeys> batch_rows_;
  std::array<float, kBatchKeys> products_;
  std::array<Candidate, kBatchKeys> fresh_;  // those of them that are for the pool
};

}  // namespace swell::graph

#endif  // SWELL_LIB_INDEX_GRAPH_BEAM_H_
