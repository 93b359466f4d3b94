#include "cuda/build/segment_builder.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "cuda/build/build_args.h"
#include "cuda/device/device.h"

namespace swell::cuda {
namespace {

bool Misaligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 != 0; }

Status CheckOptions(const SegmentBuilderOptions& options) {
  const HeadShape& shape = options.shape;
  if (shape.head_dim != 64 && shape.head_dim != 128 && shape.head_dim != 256) {
    return InvalidArgument("head_dim: must be 64, 128 or 256", StatusDetail::kBadSize);
  }
  if (shape.storage != DType::kFloat16 && shape.storage != DType::kBFloat16) {
    return InvalidArgument("storage: must be float16 or bfloat16", StatusDetail::kUnknownDType);
  }
  // Tasks are a dimension of a grid.
  if (options.kv_heads < 1 || options.max_segments < 1 || options.max_segments > 65535 / options.kv_heads) {
    return InvalidArgument("kv_heads, max_segments: out of range", StatusDetail::kBadSize);
  }
  if (options.cluster_tokens < 1 || options.cluster_tokens > 4096) {
    return InvalidArgument("cluster_tokens: must be 1 .. 4096", StatusDetail::kBadSize);
  }
  if (options.iterations < 1 || options.iterations > 100) {
    return InvalidArgument("iterations: must be 1 .. 100", StatusDetail::kBadSize);
  }
  return OkStatus();
}

Status CheckRows(const SegmentBuilderOptions& options, const SegmentRows& rows) {
  constexpr int64_t kMaxStride = std::numeric_limits<int64_t>::max() >> 32;
  if (rows.keys == nullptr || rows.values == nullptr) return InvalidArgument("rows: null", StatusDetail::kNullPointer);
  if (Misaligned(rows.keys) || Misaligned(rows.values) || rows.token_stride % 8 != 0 || rows.head_stride % 8 != 0) {
    return InvalidArgument("rows: not aligned to 16 bytes", StatusDetail::kMisaligned);
  }
  if (rows.token_stride < options.shape.head_dim || rows.head_stride < 0 || rows.token_stride > kMaxStride ||
      rows.head_stride > kMaxStride) {
    return InvalidArgument("rows: strides out of range", StatusDetail::kBadSize);
  }
  if (rows.segment_tokens < 1 || rows.segment_tokens > kMaxBuildTokens) {
    return InvalidArgument("segment_tokens: must be 1 .. 2048", StatusDetail::kBadSize);
  }
  if (rows.segments < 1 || rows.segments > options.max_segments) {
    return InvalidArgument("segments: must be 1 .. max_segments", StatusDetail::kBadSize);
  }
  return OkStatus();
}

// As InitialClusters of lib/index/wave/kmeans.h.
int64_t ClustersOf(int64_t tokens, int32_t cluster_tokens) {
  return std::max<int64_t>(1, (tokens + cluster_tokens / 2) / cluster_tokens);
}

Status NoMemory() {
  return Status(StatusCode::kResourceExhausted, "build: out of host memory", StatusDetail::kNoMemory);
}

}  // namespace

Result<std::unique_ptr<SegmentBuilder>> SegmentBuilder::Make(const SegmentBuilderOptions& options) try {
  SWELL_RETURN_IF_ERROR(CheckOptions(options));
  SWELL_RETURN_IF_ERROR(PrepareCluster(options.shape.head_dim));
  SWELL_RETURN_IF_ERROR(PrepareRecords(options.shape.head_dim));
  std::unique_ptr<SegmentBuilder> builder(new SegmentBuilder(options));
  const size_t tasks = static_cast<size_t>(options.kv_heads) * options.max_segments;
  const size_t sums = size_t{kClusterTile} * kTileSums * options.shape.head_dim;
  const std::pair<DeviceMemory*, size_t> arrays[] = {
      {&builder->first_rows_, tasks * (kMaxBuildClusters + 1) * sizeof(uint32_t)},
      {&builder->tile_sums_, tasks * sums * sizeof(float)}};
  for (const auto& [array, bytes] : arrays) {
    auto memory = ReserveDevice(bytes, "scratch memory of a builder");
    if (!memory.ok()) return memory.status();
    *array = *std::move(memory);
  }
  return builder;
} catch (const std::bad_alloc&) {
  return NoMemory();
}

Result<SegmentBuild> SegmentBuilder::Prepare(const SegmentRows& rows) const try {
  SWELL_RETURN_IF_ERROR(CheckRows(options_, rows));
  const int64_t clusters = ClustersOf(rows.segment_tokens, options_.cluster_tokens);
  if (clusters > kMaxBuildClusters) {
    return InvalidArgument("cluster_tokens: too few for segments of this length", StatusDetail::kBadSize);
  }
  SegmentBuild build;
  build.rows = rows;
  build.clusters = static_cast<int32_t>(clusters);
  build.places =
      PlaceHead(options_.shape.head_dim, rows.segment_tokens, {clusters, TilesOf(clusters)}, &build.head_bytes);
  const size_t tasks = static_cast<size_t>(options_.kv_heads) * rows.segments;
  build.built = tasks * build.head_bytes;
  auto memory = ReserveDevice(build.built + tasks * sizeof(BuiltHead), "cudaMalloc of segments");
  if (!memory.ok()) return memory.status();
  build.memory = *std::move(memory);
  return build;
} catch (const std::bad_alloc&) {
  return NoMemory();
}

Status SegmentBuilder::Enqueue(const SegmentBuild& build, cudaStream_t stream) const {
  auto* memory = static_cast<std::byte*>(build.memory.get());
  BuildArgs args = {};
  args.keys = static_cast<const uint16_t*>(build.rows.keys);
  args.values = static_cast<const uint16_t*>(build.rows.values);
  args.token_stride = build.rows.token_stride;
  args.head_stride = build.rows.head_stride;
  args.kv_heads = options_.kv_heads;
  args.tokens = static_cast<int32_t>(build.rows.segment_tokens);
  args.clusters = build.clusters;
  args.iterations = options_.iterations;
  args.is_half = options_.shape.storage == DType::kFloat16 ? 1 : 0;
  args.memory = memory;
  args.head_bytes = build.head_bytes;
  args.places = build.places;
  args.built = reinterpret_cast<BuiltHead*>(memory + build.built);
  args.first_rows = static_cast<uint32_t*>(first_rows_.get());
  args.tile_sums = static_cast<float*>(tile_sums_.get());
  const int32_t tasks = options_.kv_heads * build.rows.segments;
  SWELL_RETURN_IF_ERROR(LaunchCluster(options_.shape.head_dim, args, tasks, stream));
  return LaunchRecords(options_.shape.head_dim, args, tasks, stream);
}

Result<std::vector<std::shared_ptr<const DeviceSegment>>> SegmentBuilder::Finish(const SegmentBuild& build,
                                                                                 cudaStream_t stream) const try {
  std::vector<BuiltHead> built(static_cast<size_t>(options_.kv_heads) * build.rows.segments);
  auto* memory = static_cast<std::byte*>(build.memory.get());
  SWELL_RETURN_IF_ERROR(FromCuda(cudaMemcpyAsync(built.data(), memory + build.built, built.size() * sizeof(BuiltHead),
                                                 cudaMemcpyDeviceToHost, stream),
                                 "copy of a build's results"));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream), "build"));
  std::vector<std::shared_ptr<const DeviceSegment>> segments;
  for (size_t task = 0; task < built.size();) {
    std::vector<SegmentHead> heads;
    for (int32_t h = 0; h < options_.kv_heads; ++h, ++task) {
      if (built[task].clusters == 0 || built[task].finite_values == 0) {
        return InvalidArgument(
            built[task].clusters == 0 ? "rows: keys hold NaN or Inf" : "rows: values hold NaN or Inf",
            StatusDetail::kNonFinite);
      }
      const std::byte* head = memory + task * build.head_bytes;
      const int64_t clusters = built[task].clusters;
      heads.push_back({.rows = {head + build.places.rows, build.rows.segment_tokens},
                       .tiles = {head + build.places.tiles[0], head + build.places.tiles[1]},
                       .offsets = reinterpret_cast<const uint16_t*>(head + build.places.offsets),
                       .clusters = {clusters, TilesOf(clusters)},
                       .largest_cluster = built[task].largest,
                       .index_bytes = build.places.index_bytes});
    }
    segments.push_back(std::make_shared<const DeviceSegment>(build.memory, heads.size() * build.head_bytes, heads));
  }
  return segments;
} catch (const std::bad_alloc&) {
  return NoMemory();
}

}  // namespace swell::cuda
