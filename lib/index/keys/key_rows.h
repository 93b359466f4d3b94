// Rows of a KeyTable by token.
#ifndef SWELL_LIB_INDEX_KEYS_KEY_ROWS_H_
#define SWELL_LIB_INDEX_KEYS_KEY_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "swell/key_index.h"

namespace swell {

// A key as it is stored.
struct KeyRow {
  const std::byte* elements = nullptr;
  float scale = 1;  // of the elements; 1 unless they are int8
};

class KeyRows {
 public:
  explicit KeyRows(const KeyTable& table)
      : chunks_(table.chunks.data()),
        chunk_bits_(table.chunk_bits),
        row_bytes_(table.head_dim * static_cast<int64_t>(DTypeSize(table.storage))) {}

  KeyRow operator[](int64_t token) const {
    const KeyChunk& chunk = chunks_[token >> chunk_bits_];
    int64_t row = token & ((int64_t{1} << chunk_bits_) - 1);
    if (chunk.rows != nullptr) row = chunk.rows[row];
    return {static_cast<const std::byte*>(chunk.keys) + row * row_bytes_,
            chunk.scales != nullptr ? chunk.scales[row] : 1.0F};
  }

 private:
  const KeyChunk* chunks_;
  int32_t chunk_bits_;
  int64_t row_bytes_;
};

}  // namespace swell

#endif  // SWELL_LIB_INDEX_KEYS_KEY_ROWS_H_
