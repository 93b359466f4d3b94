// Neighbours of every key, in slots that are filled and never emptied.
//
// One thread at a time writes; any number read meanwhile. A slot is an atomic: a reader sees the neighbour or kNoKey.
// Keys from the number that a reader knows on are to be skipped.
#ifndef SWELL_LIB_INDEX_GRAPH_ADJACENCY_H_
#define SWELL_LIB_INDEX_GRAPH_ADJACENCY_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

namespace swell::graph {

constexpr uint32_t kNoKey = 0xFFFFFFFFU;
constexpr int32_t kMaxDegree = 256;

// The last slots of every key are kept for keys that nobody else links to: each key that is linked this way brings as
// many and takes one, so that there is always one free.
constexpr int32_t kAdoptionSlots = 2;

using Slot = std::atomic<uint32_t>;

class Adjacency {
 public:
  // `keys` keys with `degree` slots each, all free. Throws std::bad_alloc.
  Adjacency(int64_t keys, int32_t degree);
  ~Adjacency();
  Adjacency(const Adjacency&) = delete;
  Adjacency& operator=(const Adjacency&) = delete;

  // Makes room for keys 0 .. keys; false when there are too many. Throws std::bad_alloc. Writer only.
  bool Grow(int64_t keys);

  std::span<const Slot> Slots(uint32_t key) const { return {Row(key), static_cast<size_t>(degree_)}; }
  // |place|^2 of a key; written before the key is known to any reader.
  float norm(uint32_t key) const { return *Norm(key); }
  void set_norm(uint32_t key, float norm) { *Norm(key) = norm; }

  // Puts `neighbour` into a free slot of `key` (adoption slots only when `adopt`); false when there is none. True and
  // no change when it stands there already. Writer only.
  bool Link(uint32_t key, uint32_t neighbour, bool adopt);

  size_t bytes() const;

 private:
  static constexpr int64_t kBlockKeys = 1024;
  static constexpr int64_t kBlocks = 1024;  // a million keys can be added

  struct Block {
    Block(int64_t keys, int32_t degree);
    std::unique_ptr<Slot[]> slots;
    std::unique_ptr<float[]> norms;
  };

  // The block of a key, and its number there.
  const Block& Find(uint32_t key, int64_t* at) const {
    if (key < base_keys_) {
      *at = key;
      return base_;
    }
    *at = (key - base_keys_) % kBlockKeys;
    return *blocks_[(key - base_keys_) / kBlockKeys].load(std::memory_order_acquire);
  }
  Slot* Row(uint32_t key) const {
    int64_t at = 0;
    const Block& block = Find(key, &at);
    return block.slots.get() + at * degree_;
  }
  float* Norm(uint32_t key) const {
    int64_t at = 0;
    const Block& block = Find(key, &at);
    return block.norms.get() + at;
  }

  const int64_t base_keys_;
  const int32_t degree_;
  Block base_;
  std::atomic<int64_t> grown_{0};  // blocks
  std::array<std::atomic<Block*>, kBlocks> blocks_{};
};

}  // namespace swell::graph

#endif  // SWELL_LIB_INDEX_GRAPH_ADJACENCY_H_
