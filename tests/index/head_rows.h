// Rows of one head for the index tests: as stored, as runs, and as float32 and float64 see them.
#ifndef SWELL_TESTS_INDEX_HEAD_ROWS_H_
#define SWELL_TESTS_INDEX_HEAD_ROWS_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "lib/base/convert.h"
#include "swell/index.h"

namespace swell {

// Keys or values in a storage dtype.
struct StoredRows {
  std::vector<uint32_t> bytes;  // uint32_t: aligned for every dtype
  std::vector<float> scales;    // [tokens], int8 only
  std::vector<float> decoded;   // [tokens, head_dim]: what is stored, as float32

  StoredRows(DType dtype, int64_t head_dim, const std::vector<float>& rows)
      : bytes((rows.size() * DTypeSize(dtype) + 3) / 4), decoded(rows.size()) {
    const int64_t tokens = static_cast<int64_t>(rows.size()) / head_dim;
    if (dtype == DType::kInt8) scales.resize(tokens);
    for (int64_t token = 0; token < tokens; ++token) {
      const int64_t element = token * head_dim;
      std::byte* to = reinterpret_cast<std::byte*>(bytes.data()) + element * DTypeSize(dtype);
      float* scale = scales.empty() ? nullptr : &scales[token];
      const bool stored = dtype == DType::kInt8
                              ? QuantizeRow(&rows[element], head_dim, reinterpret_cast<int8_t*>(to), scale)
                              : ConvertFromFloat(&rows[element], head_dim, dtype, to);
      EXPECT_TRUE(stored) << "token " << token;
      DecodeRow(dtype, to, scale == nullptr ? 0 : *scale, head_dim, &decoded[element]);
    }
  }
};

struct HeadRows {
  HeadShape shape;
  int64_t tokens;
  StoredRows keys;
  StoredRows values;

  HeadRows(DType dtype, int32_t head_dim, const std::vector<float>& key_rows, const std::vector<float>& value_rows)
      : shape{head_dim, 1, 0, dtype},
        tokens(static_cast<int64_t>(key_rows.size()) / head_dim),
        keys(dtype, head_dim, key_rows),
        values(dtype, head_dim, value_rows) {}

  KvRun Run(int64_t first, int64_t count) const {
    const size_t offset = static_cast<size_t>(first) * shape.head_dim * DTypeSize(shape.storage);
    KvRun run;
    run.keys = reinterpret_cast<const std::byte*>(keys.bytes.data()) + offset;
    run.values = reinterpret_cast<const std::byte*>(values.bytes.data()) + offset;
    if (shape.storage == DType::kInt8) {
      run.key_scales = keys.scales.data() + first;
      run.value_scales = values.scales.data() + first;
    }
    run.first_token = first;
    run.tokens = count;
    return run;
  }
  std::vector<KvRun> Whole() const { return {Run(0, tokens)}; }
};

// Gaussian rows around `centres` random centres, which lie around one common offset; centres == 0: no structure.
inline std::vector<float> RandomRows(int64_t tokens, int64_t head_dim, int64_t centres, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> places(std::max<int64_t>(centres, 1) * head_dim, 0.0F);
  if (centres > 0) {
    std::vector<float> common(head_dim);
    for (float& x : common) x = 4 * normal(random);
    for (size_t i = 0; i < places.size(); ++i) places[i] = common[i % head_dim] + 2 * normal(random);
  }
  std::vector<float> rows(tokens * head_dim);
  for (int64_t token = 0; token < tokens; ++token) {
    const float* place = &places[random() % std::max<int64_t>(centres, 1) * head_dim];
    for (int64_t i = 0; i < head_dim; ++i) rows[token * head_dim + i] = place[i] + normal(random);
  }
  return rows;
}

inline HeadRows RandomHead(DType dtype, int32_t head_dim, int64_t tokens, uint32_t seed) {
  return HeadRows(dtype, head_dim, RandomRows(tokens, head_dim, tokens / 10 + 1, seed),
                  RandomRows(tokens, head_dim, 0, seed + 1));
}

inline std::unique_ptr<const IndexBuilder> MakeBuilder(const IndexOptions& options) {
  auto builder = MakeIndexBuilder(options);
  EXPECT_TRUE(builder.ok()) << builder.status().message();
  return builder.ok() ? std::move(builder).value() : nullptr;
}

inline std::unique_ptr<const SegmentIndex> BuildIndex(const IndexOptions& options, const HeadShape& shape,
                                                      const std::vector<KvRun>& runs) {
  auto index = MakeBuilder(options)->Build(shape, runs);
  EXPECT_TRUE(index.ok()) << index.status().message();
  return index.ok() ? std::move(index).value() : nullptr;
}

// Everything that an index shows, as bytes.
inline std::string Contents(const SegmentIndex& index, int64_t head_dim) {
  std::string contents;
  const auto append = [&](const auto* data, int64_t count) {
    if (count > 0) contents.append(reinterpret_cast<const char*>(data), count * sizeof(*data));
  };
  append(index.order().data(), static_cast<int64_t>(index.order().size()));
  for (const ClusterView* view : {&index.clusters(), &index.super_clusters()}) {
    if (view->clusters == 0) continue;
    const int64_t padded = (view->clusters + kClusterTile - 1) / kClusterTile * kClusterTile;
    append(view->center, head_dim);
    append(view->centroids, padded * head_dim);
    append(view->centroid_scales, padded);
    append(view->spread_profile, head_dim);
    append(view->spreads, padded);
    append(view->value_means, view->clusters * head_dim);
    append(view->value_scales, view->clusters);
    append(view->value_energies, view->clusters);
    append(view->tile_means, padded / kClusterTile * head_dim);
    append(view->tile_scales, padded / kClusterTile);
    append(view->first_rows, view->clusters + 1);
  }
  return contents;
}

}  // namespace swell

#endif  // SWELL_TESTS_INDEX_HEAD_ROWS_H_
