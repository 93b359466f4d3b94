// Where the parts of one KV head of a segment lie in its memory.
#ifndef SWELL_CUDA_STEP_SEGMENT_PLACES_H_
#define SWELL_CUDA_STEP_SEGMENT_PLACES_H_

#include <cstddef>
#include <cstdint>

#include "cuda/step/layout.h"

namespace swell::cuda {

// Bytes from the beginning of the memory, multiples of 128. The index is all behind the rows, in one piece from the
// tiles on.
struct HeadPlaces {
  size_t rows = 0;                   // token records
  size_t tiles[kLevels] = {};        // TileRecords
  size_t value_means[kLevels] = {};  // [tiles, 16, head_dim]
  size_t frames[kLevels] = {};       // Frame
  size_t offsets = 0;                // [tokens] of uint16_t
  size_t index_bytes = 0;
};

// Takes room for `tokens` and at most `clusters` of each level behind the first *bytes, which grow.
HeadPlaces PlaceHead(int32_t head_dim, int64_t tokens, const int64_t (&clusters)[kLevels], size_t* bytes);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_SEGMENT_PLACES_H_
