// Gathers the rows of many runs into tiles, so that short runs cost no more than long ones.
#ifndef SWELL_LIB_ATTENTION_ROW_TILE_H_
#define SWELL_LIB_ATTENTION_ROW_TILE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "swell/types.h"

namespace swell::attention {

// Tokens of one tile; a multiple of every vector length.
constexpr int64_t kTileTokens = 64;

// Rows of K and V by address; a run without values (search) leaves theirs alone. Behind the last token the addresses
// repeat its row, so that kernels may round the number of rows up.
struct RowTile {
  int64_t tokens = 0;
  const void* keys[kTileTokens];
  const void* values[kTileTokens];
  float key_scales[kTileTokens];    // int8 only
  float value_scales[kTileTokens];  // int8 only
  int64_t positions[kTileTokens];   // in the sequence; filled when asked for
};

class RowReader {
 public:
  RowReader(const HeadShape& shape, std::span<const KvRun> runs)
      : runs_(runs), row_bytes_(shape.head_dim * DTypeSize(shape.storage)), scaled_(shape.storage == DType::kInt8) {}

  // Fills `tile` with the next rows; false when there are none left.
  template <bool kPositions>
  bool Next(RowTile* tile) {
    int64_t filled = 0;
    while (filled < kTileTokens && next_run_ < runs_.size()) {
      const KvRun& run = runs_[next_run_];
      const int64_t count = std::min(kTileTokens - filled, run.tokens - next_row_);
      if (count > 0) Take<kPositions>(run, count, filled, tile);
      filled += std::max<int64_t>(count, 0);
      next_row_ += std::max<int64_t>(count, 0);
      if (next_row_ >= run.tokens) {
        next_row_ = 0;
        ++next_run_;
      }
    }
    tile->tokens = filled;
    for (int64_t pad = filled; filled > 0 && pad < kTileTokens; ++pad) {
      tile->keys[pad] = tile->keys[filled - 1];
      tile->values[pad] = tile->values[filled - 1];
      tile->key_scales[pad] = tile->value_scales[pad] = 0;
    }
    return filled > 0;
  }

 private:
  template <bool kPositions>
  void Take(const KvRun& run, int64_t count, int64_t at, RowTile* tile) const {
    PutAddresses(run.keys, count, tile->keys + at);
    if (scaled_) std::copy_n(run.key_scales + next_row_, count, tile->key_scales + at);
    if (run.values != nullptr) {
      PutAddresses(run.values, count, tile->values + at);
      if (scaled_) std::copy_n(run.value_scales + next_row_, count, tile->value_scales + at);
    }
    if constexpr (kPositions) {
      for (int64_t i = 0; i < count; ++i) tile->positions[at + i] = TokenOfRow(run, next_row_ + i);
    }
  }

  void PutAddresses(const void* rows, int64_t count, const void** to) const {
    const char* row = static_cast<const char*>(rows) + next_row_ * row_bytes_;
    for (int64_t i = 0; i < count; ++i) to[i] = row + i * row_bytes_;
  }

  std::span<const KvRun> runs_;
  int64_t row_bytes_;
  bool scaled_;
  size_t next_run_ = 0;
  int64_t next_row_ = 0;
};

}  // namespace swell::attention

#endif  // SWELL_LIB_ATTENTION_ROW_TILE_H_
