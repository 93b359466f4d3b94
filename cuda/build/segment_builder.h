// Builds segments on the device: k-means of the keys of every KV head, the meta index, and the token records in the
// order of the clusters. Twin of the wave index builder (lib/index/wave) for rows in device memory; the same algorithm,
// deterministic, with keys rounded to 11 bits where they are compared with centroids.
//
// Prepare allocates, Enqueue only launches kernels (it can be captured, and repeated), Finish waits and hands the
// segments over. Builds that are under way at the same time are to be enqueued on one stream: they share scratch
// memory. Not thread-safe.
#ifndef SWELL_CUDA_BUILD_SEGMENT_BUILDER_H_
#define SWELL_CUDA_BUILD_SEGMENT_BUILDER_H_

#include <driver_types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/step/device_memory.h"
#include "cuda/step/segment.h"
#include "cuda/step/segment_places.h"
#include "swell/status.h"
#include "swell/types.h"

namespace swell::cuda {

struct SegmentBuilderOptions {
  HeadShape shape;  // head_dim 64, 128 or 256; kFloat16 or kBFloat16
  int32_t kv_heads = 1;
  int32_t max_segments = 1;    // of one build
  int32_t cluster_tokens = 8;  // as in IndexOptions, but at least segment_tokens / 256
  int32_t iterations = 5;      // as in IndexOptions
};

// Rows of successive segments in device memory, which stay as they are until the build is finished. Element of a token
// and a head: token * token_stride + head * head_stride. 16-byte aligned, strides multiples of 8.
struct SegmentRows {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  int64_t segment_tokens = 0;  // 1 .. 2048
  int32_t segments = 0;
};

// A build that was prepared: where its segments will be.
struct SegmentBuild {
  SegmentRows rows;
  std::shared_ptr<void> memory;
  size_t head_bytes = 0;
  HeadPlaces places;     // of a head, from its beginning
  int32_t clusters = 0;  // of a head, to begin with
  size_t built = 0;      // place of what the kernels say of each head
};

class SegmentBuilder {
 public:
  // kInvalidArgument names what is out of range; kResourceExhausted; kUnavailable.
  static Result<std::unique_ptr<SegmentBuilder>> Make(const SegmentBuilderOptions& options);

  // Takes the memory of the segments. kInvalidArgument; kResourceExhausted; kUnavailable.
  Result<SegmentBuild> Prepare(const SegmentRows& rows) const;
  Status Enqueue(const SegmentBuild& build, cudaStream_t stream) const;
  // The segments, in order. Waits for `stream`. kInvalidArgument with kNonFinite when rows hold NaN or Inf.
  Result<std::vector<std::shared_ptr<const DeviceSegment>>> Finish(const SegmentBuild& build,
                                                                   cudaStream_t stream) const;

 private:
  explicit SegmentBuilder(const SegmentBuilderOptions& options) : options_(options) {}
  const SegmentBuilderOptions options_;
  DeviceMemory first_rows_, tile_sums_;
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUILD_SEGMENT_BUILDER_H_
