// A sealed segment of one layer in device memory: token records of every KV head, cluster by cluster, and their index
// in the device's layout (layout.h).
//
// Immutable; sequences that fork share it. Its memory goes with the last owner (segments of one build share one
// allocation): cudaFree waits for the work that reads it. Any thread.
#ifndef SWELL_CUDA_STEP_SEGMENT_H_
#define SWELL_CUDA_STEP_SEGMENT_H_

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cuda/step/layout.h"
#include "swell/status.h"
#include "swell/types.h"

namespace swell::cuda {

// One KV head as the CPU holds it. Rows are in the order of the clusters.
struct SegmentSource {
  KvRun rows;
  const ClusterView* levels[kLevels] = {};  // clusters and super-clusters; 0 clusters: always read exactly
};

// One KV head on the device.
struct SegmentHead {
  TokenRun rows;
  const std::byte* tiles[kLevels] = {};  // TileRecords, back to back
  const uint16_t* offsets = nullptr;     // [tokens]: row r holds token offsets[r] of the segment; null: token r
  int64_t clusters[kLevels] = {};
  int64_t largest_cluster = 0;  // tokens
  size_t index_bytes = 0;       // of the index, in one piece from the first tile on
};

class DeviceSegment {
 public:
  // `heads`: all with the same number of tokens, above 0. The current device's memory; returns when the copy is done.
  // kInvalidArgument for a head_dim other than 64, 128, 256, a storage other than f16 and bf16, or views that do not
  // fit; kResourceExhausted; kUnavailable.
  static Result<std::shared_ptr<const DeviceSegment>> Upload(const HeadShape& shape,
                                                             std::span<const SegmentSource> heads);
  // What a builder wrote: `bytes` of `memory`, whose heads have equal tokens.
  DeviceSegment(std::shared_ptr<void> memory, size_t bytes, std::vector<SegmentHead> heads)
      : memory_(std::move(memory)), bytes_(bytes), heads_(std::move(heads)) {}
  DeviceSegment(const DeviceSegment&) = delete;
  DeviceSegment& operator=(const DeviceSegment&) = delete;

  int64_t tokens() const { return heads_[0].rows.tokens; }
  const std::vector<SegmentHead>& heads() const { return heads_; }
  size_t bytes() const { return bytes_; }

 private:
  const std::shared_ptr<void> memory_;
  const size_t bytes_;
  const std::vector<SegmentHead> heads_;
};

// Bytes of a token record; of a tile record; of a frame.
size_t TokenBytes(int32_t head_dim);
size_t TileBytes(int32_t head_dim);
size_t FrameBytes(int32_t head_dim);

inline int64_t TilesOf(int64_t clusters) { return (clusters + kClusterTile - 1) / kClusterTile; }

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_SEGMENT_H_
