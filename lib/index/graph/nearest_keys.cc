#include "lib/index/graph/nearest_keys.h"

#include <algorithm>
#include <limits>

#include "lib/index/graph/adjacency.h"
#include "lib/index/keys/products.h"

namespace swell::graph {
namespace {

// Queries and keys of one block of products: the keys stay in the second-level cache for all of the queries.
constexpr int64_t kBlockQueries = 64;
constexpr int64_t kBlockKeys = 512;

struct Scored {
  float product = 0;
  uint32_t key = 0;
  bool operator<(const Scored& other) const {
    return product != other.product ? product > other.product : key < other.key;
  }
};

// The best of a stream, in twice the room that they need: what cannot be among them is thrown out when it is full.
class Best {
 public:
  void Start(int64_t width) {
    width_ = static_cast<size_t>(width);
    threshold_ = -std::numeric_limits<float>::infinity();
    kept_.clear();
    kept_.reserve(2 * width_);
  }

  void Offer(const float* products, int64_t count, uint32_t first_key) {
    for (int64_t begin = 0; begin < count; begin += kStrip) {
      const int64_t end = std::min(begin + kStrip, count);
      if (!AnyAbove(products + begin, end - begin)) continue;
      for (int64_t i = begin; i < end; ++i) {
        if (!(products[i] > threshold_)) continue;
        kept_.push_back({products[i], first_key + static_cast<uint32_t>(i)});
        if (kept_.size() == 2 * width_) Shrink();
      }
    }
  }

  void Write(uint32_t* to) {
    std::sort(kept_.begin(), kept_.end());
    const size_t count = std::min(kept_.size(), width_);
    for (size_t i = 0; i < count; ++i) to[i] = kept_[i].key;
    std::fill(to + count, to + width_, kNoKey);
  }

 private:
  // Products that are looked at together: few of a stream are among the best, and this loop has no branch.
  static constexpr int64_t kStrip = 32;

  bool AnyAbove(const float* products, int64_t count) const {
    int32_t above = 0;
    for (int64_t i = 0; i < count; ++i) above |= products[i] > threshold_ ? 1 : 0;
    return above != 0;
  }

  void Shrink() {
    std::nth_element(kept_.begin(), kept_.begin() + static_cast<int64_t>(width_) - 1, kept_.end());
    threshold_ = kept_[width_ - 1].product;  // an equal one that comes later has a larger number: it would lose
    kept_.resize(width_);
  }

  size_t width_ = 0;
  float threshold_ = 0;
  std::vector<Scored> kept_;
};

}  // namespace

std::span<const uint32_t> KeyLists::List(int64_t list) const {
  const uint32_t* first = keys.data() + list * width;
  return {first, std::find(first, first + width, kNoKey)};
}

KeyLists FindNearestKeys(int32_t head_dim, const float* keys, const float* queries, std::span<const int64_t> visible,
                         int64_t width) {
  const auto n_queries = static_cast<int64_t>(visible.size());
  KeyLists lists{width, std::vector<uint32_t>(static_cast<size_t>(n_queries * width))};
  std::vector<float> products(kBlockQueries * kBlockKeys);
  std::vector<Best> best(kBlockQueries);
  for (int64_t first = 0; first < n_queries; first += kBlockQueries) {
    const int64_t count = std::min(kBlockQueries, n_queries - first);
    const int64_t end = *std::max_element(visible.begin() + first, visible.begin() + first + count);
    for (int64_t q = 0; q < count; ++q) best[q].Start(width);
    for (int64_t key = 0; key < end; key += kBlockKeys) {
      const int64_t n_keys = std::min(kBlockKeys, end - key);
      BlockProducts(head_dim, queries + first * head_dim, count, keys + key * head_dim, n_keys, products.data(),
                    kBlockKeys);
      for (int64_t q = 0; q < count; ++q) {
        best[q].Offer(&products[q * kBlockKeys], std::min(n_keys, visible[first + q] - key),
                      static_cast<uint32_t>(key));
      }
    }
    for (int64_t q = 0; q < count; ++q) best[q].Write(&lists.keys[(first + q) * width]);
  }
  return lists;
}

}  // namespace swell::graph
