#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "lib/index/keys/key_rows.h"
#include "lib/index/keys/key_table.h"
#include "lib/index/keys/products.h"
#include "swell/key_index.h"

namespace swell {
namespace {

constexpr int64_t kRowsPerBlock = 256;

// Higher product first, then the earlier token.
bool Better(const FoundKey& a, const FoundKey& b) {
  return a.product != b.product ? a.product > b.product : a.token < b.token;
}

class FlatKeyIndex final : public KeyIndex {
 public:
  FlatKeyIndex(DType storage, int32_t head_dim, int64_t tokens)
      : storage_(storage), head_dim_(head_dim), tokens_(tokens) {}

  int64_t tokens() const override { return tokens_.load(std::memory_order_acquire); }
  size_t bytes() const override { return sizeof(*this); }

  Status Extend(const KeyTable& keys) override try {
    SWELL_RETURN_IF_ERROR(ValidateKeyTable(keys, storage_, head_dim_, tokens()));
    int64_t before = tokens();
    while (before < keys.tokens && !tokens_.compare_exchange_weak(before, keys.tokens)) {
    }
    return OkStatus();
  } catch (const std::bad_alloc&) {
    return KeyIndexOutOfMemory();
  }

  Status Search(const KeyTable& keys, const float* queries, int64_t n_queries, int64_t top_k,
                const SearchEffort& effort, FoundKey* found, int64_t* scanned) const override try {
    SWELL_RETURN_IF_ERROR(ValidateKeySearch(keys, storage_, head_dim_, 1, queries, n_queries, top_k, found));
    SWELL_RETURN_IF_ERROR(ValidateEffort(effort, n_queries));
    const int64_t known = std::min(tokens(), keys.tokens);
    std::vector<FoundKey> best;
    for (int64_t q = 0; q < n_queries; ++q) {
      ScoreAll(keys, queries + q * head_dim_, known, best);
      const int64_t count = std::min(top_k, known);
      std::partial_sort(best.begin(), best.begin() + count, best.end(), Better);
      std::copy_n(best.begin(), count, found + q * top_k);
      std::fill(found + q * top_k + count, found + (q + 1) * top_k,
                FoundKey{-1, -std::numeric_limits<float>::infinity()});
    }
    if (scanned != nullptr) *scanned += n_queries * known;
    return OkStatus();
  } catch (const std::bad_alloc&) {
    return KeyIndexOutOfMemory();
  }

 private:
  void ScoreAll(const KeyTable& keys, const float* query, int64_t known, std::vector<FoundKey>& scored) const {
    const KeyRows rows(keys);
    std::vector<KeyRow> block;
    std::vector<float> products(kRowsPerBlock);
    scored.clear();
    for (int64_t first = 0; first < known; first += kRowsPerBlock) {
      block.clear();
      const int64_t end = std::min(first + kRowsPerBlock, known);
      for (int64_t token = first; token < end; ++token) block.push_back(rows[token]);
      RowProducts(storage_, head_dim_, query, block, products.data());
      for (int64_t token = first; token < end; ++token) scored.push_back({token, products[token - first]});
    }
  }

  const DType storage_;
  const int32_t head_dim_;
  std::atomic<int64_t> tokens_;
};

}  // namespace

Result<std::unique_ptr<KeyIndex>> MakeFlatKeyIndex(const KeyTable& keys) try {
  SWELL_RETURN_IF_ERROR(ValidateKeyTable(keys, keys.storage, keys.head_dim, 1));
  return std::unique_ptr<KeyIndex>(std::make_unique<FlatKeyIndex>(keys.storage, keys.head_dim, keys.tokens));
} catch (const std::bad_alloc&) {
  return KeyIndexOutOfMemory();
}

}  // namespace swell
