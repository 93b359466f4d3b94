// A layer's content for timing: bfloat16 keys in clusters of eight on average, random values, the index that Swell
// builds of them. Content says nothing about answers; its amounts and the work on them are real.
#ifndef SWELL_BENCH_GPU_SYNTHETIC_LAYER_H_
#define SWELL_BENCH_GPU_SYNTHETIC_LAYER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/step/device_memory.h"
#include "cuda/step/segment.h"
#include "swell/index.h"
#include "swell/types.h"

namespace swell::bench {

constexpr int32_t kKvHeads = 8;
constexpr int32_t kGroup = 4;
constexpr int32_t kHeadDim = 128;
constexpr int64_t kSegmentTokens = 2048;  // SequenceOptions::segment_tokens

// Rows [tokens, kKvHeads, kHeadDim] in device memory.
struct DeviceRows {
  cuda::DeviceMemory keys, values;
};

class SyntheticLayer {
 public:
  // Builds the index of `tokens` (a multiple of kSegmentTokens) with all processors.
  explicit SyntheticLayer(int64_t tokens);
  // A copy in device memory, segment by segment.
  std::vector<std::shared_ptr<const cuda::DeviceSegment>> Upload() const;
  // Its first `tokens`, those of a segment in another order than that of the index.
  DeviceRows UploadRows(int64_t tokens) const;
  static HeadShape Shape();
  // bfloat16 queries under which the logits of this content deviate by about two nats.
  static std::vector<uint16_t> Queries(int64_t rows, uint32_t seed) { return ToRows(QueryFloats(rows, seed)); }
  static std::vector<float> QueryFloats(int64_t rows, uint32_t seed);
  static std::vector<uint16_t> ToRows(const std::vector<float>& floats);

 private:
  struct Head {
    std::vector<uint16_t> keys, values;  // in the order of the index
    std::unique_ptr<const SegmentIndex> index;
  };
  void Fill(int64_t segment, int32_t head);
  std::vector<Head> heads_;  // [segments, kKvHeads]
};

}  // namespace swell::bench

#endif  // SWELL_BENCH_GPU_SYNTHETIC_LAYER_H_
