// Keys, queries and tables of them for the tests of key indexes.
#ifndef SWELL_TESTS_INDEX_KEY_WORLD_H_
#define SWELL_TESTS_INDEX_KEY_WORLD_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "swell/key_index.h"
#include "tests/index/head_rows.h"

namespace swell {

// Keys of one head in chunks of 2^chunk_bits tokens; `shuffled` chunks hold their rows in an order of their own.
struct KeyWorld {
  std::vector<std::vector<uint16_t>> orders;  // before what Arrange fills
  StoredRows rows;
  std::vector<KeyChunk> chunks;
  KeyTable table;

  KeyWorld(DType storage, int32_t head_dim, const std::vector<float>& keys, int32_t chunk_bits = 30,
           bool shuffled = false, uint32_t seed = 1)
      : rows(storage, head_dim, Arrange(keys, head_dim, chunk_bits, shuffled, seed)) {
    const int64_t tokens = static_cast<int64_t>(keys.size()) / head_dim;
    for (int64_t first = 0; first < tokens; first += int64_t{1} << chunk_bits) {
      KeyChunk& chunk = chunks.emplace_back();
      chunk.keys = reinterpret_cast<const std::byte*>(rows.bytes.data()) + first * head_dim * DTypeSize(storage);
      if (storage == DType::kInt8) chunk.scales = &rows.scales[first];
      if (shuffled) chunk.rows = orders[first >> chunk_bits].data();
    }
    table = {storage, head_dim, tokens, chunk_bits, chunks};
  }
  KeyWorld(const KeyWorld&) = delete;

  int64_t tokens() const { return table.tokens; }
  // The first `tokens` of them.
  KeyTable Prefix(int64_t tokens) const {
    KeyTable prefix = table;
    prefix.tokens = tokens;
    return prefix;
  }
  // The key of a token as it is stored.
  const float* Key(int64_t token) const {
    const int64_t first = token >> table.chunk_bits << table.chunk_bits;
    const KeyChunk& chunk = chunks[token >> table.chunk_bits];
    const int64_t row = chunk.rows != nullptr ? first + chunk.rows[token - first] : token;
    return &rows.decoded[row * table.head_dim];
  }
  double Product(const float* query, int64_t token) const {
    double sum = 0;
    for (int32_t i = 0; i < table.head_dim; ++i) sum += static_cast<double>(query[i]) * Key(token)[i];
    return sum;
  }
  // The `count` best tokens, by brute force in float64.
  std::vector<int64_t> Best(const float* query, int64_t count, int64_t tokens) const {
    std::vector<std::pair<double, int64_t>> all;
    for (int64_t token = 0; token < tokens; ++token) all.emplace_back(-Product(query, token), token);
    std::sort(all.begin(), all.end());
    std::vector<int64_t> best;
    for (int64_t i = 0; i < std::min(count, tokens); ++i) best.push_back(all[i].second);
    return best;
  }

 private:
  std::vector<float> Arrange(const std::vector<float>& keys, int32_t head_dim, int32_t chunk_bits, bool shuffled,
                             uint32_t seed) {
    if (!shuffled) return keys;
    std::mt19937 random(seed);
    std::vector<float> arranged(keys.size());
    const int64_t tokens = static_cast<int64_t>(keys.size()) / head_dim;
    for (int64_t first = 0; first < tokens; first += int64_t{1} << chunk_bits) {
      auto& order = orders.emplace_back(std::min(int64_t{1} << chunk_bits, tokens - first));
      std::iota(order.begin(), order.end(), uint16_t{0});
      std::shuffle(order.begin(), order.end(), random);
      for (size_t i = 0; i < order.size(); ++i) {
        std::copy_n(&keys[(first + static_cast<int64_t>(i)) * head_dim], head_dim,
                    &arranged[(first + order[i]) * head_dim]);
      }
    }
    return arranged;
  }
};

// Queries of another distribution than the keys: few directions, shifted, as those of attention are.
inline std::vector<float> RandomQueries(int64_t count, int32_t head_dim, uint32_t seed) {
  std::mt19937 directions(99);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  constexpr int64_t kDirections = 12;
  std::vector<float> basis(kDirections * head_dim);
  for (float& x : basis) x = normal(directions);
  std::vector<float> queries(count * head_dim, 0.5F);
  for (int64_t q = 0; q < count; ++q) {
    for (int64_t k = 0; k < kDirections; ++k) {
      const float weight = normal(random);
      for (int32_t i = 0; i < head_dim; ++i) queries[q * head_dim + i] += weight * basis[k * head_dim + i];
    }
  }
  return queries;
}

inline QuerySample Sample(const std::vector<float>& queries, int32_t head_dim) {
  return {queries.data(), nullptr, static_cast<int64_t>(queries.size()) / head_dim};
}

// Mean over the queries of the share of the `top_k` best tokens that a search finds. What is found must be right.
inline double Recall(const KeyIndex& index, const KeyWorld& world, const std::vector<float>& queries, int64_t top_k,
                     const SearchEffort& effort) {
  const int64_t head_dim = world.table.head_dim;
  const int64_t count = static_cast<int64_t>(queries.size()) / head_dim;
  std::vector<FoundKey> found(count * top_k);
  const Status status = index.Search(world.table, queries.data(), count, top_k, effort, found.data(), nullptr);
  EXPECT_TRUE(status.ok()) << status.message();
  int64_t hits = 0;
  for (int64_t q = 0; q < count; ++q) {
    const std::vector<int64_t> best = world.Best(&queries[q * head_dim], top_k, index.tokens());
    for (int64_t k = 0; k < top_k; ++k) {
      hits += std::count(best.begin(), best.end(), found[q * top_k + k].token);
    }
  }
  return static_cast<double>(hits) / static_cast<double>(count * std::min(top_k, index.tokens()));
}

}  // namespace swell

#endif  // SWELL_TESTS_INDEX_KEY_WORLD_H_
