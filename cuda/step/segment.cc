#include "cuda/step/segment.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "cuda/device/device.h"
#include "cuda/step/device_memory.h"
#include "cuda/step/segment_places.h"

namespace swell::cuda {
namespace {

size_t Reserve(size_t count, size_t* bytes) {
  const size_t place = *bytes;
  *bytes += (count + 127) / 128 * 128;
  return place;
}

// Tile `tile` of a view: from [head_dim / 4, kClusterTile, 4] to the order of fragments.
template <int kHeadDim>
void CopyCentroids(const ClusterView& view, int64_t tile, TileRecord<kHeadDim>& to) {
  constexpr int kQuad = 4;
  const int8_t* from = view.centroids + tile * kClusterTile * kHeadDim;
  for (int step = 0; step < kHeadDim / 32; ++step) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int part = 0; part < 4; ++part) {
        const int quad = 8 * step + 2 * (lane % 4) + part / 2;
        const int cluster = 2 * (lane / 4) + part % 2;
        std::memcpy(&to.centroids[step][lane][kQuad * part], from + (quad * kClusterTile + cluster) * kQuad, kQuad);
      }
    }
  }
}

template <int kHeadDim>
void WriteLevel(const SegmentSource& source, int level, const HeadPlaces& places, std::byte* host, std::byte* device,
                SegmentHead& head) {
  using Record = TileRecord<kHeadDim>;
  const ClusterView& view = *source.levels[level];
  if (view.clusters == 0) return;
  auto* frame = reinterpret_cast<Frame<kHeadDim>*>(host + places.frames[level]);
  std::copy_n(view.center, kHeadDim, frame->center);
  std::copy_n(view.spread_profile, kHeadDim, frame->profile);
  std::memcpy(host + places.value_means[level], view.value_means, static_cast<size_t>(view.clusters) * kHeadDim);
  auto* records = reinterpret_cast<Record*>(host + places.tiles[level]);
  for (int64_t tile = 0; tile < TilesOf(view.clusters); ++tile) {
    Record& to = records[tile];
    const int64_t first = tile * kClusterTile;
    const int64_t count = std::min<int64_t>(kClusterTile, view.clusters - first);
    CopyCentroids(view, tile, to);
    std::copy_n(view.centroid_scales + first, count, to.scales);
    std::copy_n(view.spreads + first, count, to.spreads);
    std::copy_n(view.value_scales + first, count, to.value_scales);
    std::copy_n(view.value_energies + first, count, to.energies);
    for (int64_t j = 0; j < count; ++j) {
      to.sizes[j] = view.first_rows[first + j + 1] - view.first_rows[first + j];
      if (level == 0) head.largest_cluster = std::max<int64_t>(head.largest_cluster, to.sizes[j]);
    }
    std::copy_n(view.tile_means + tile * kHeadDim, kHeadDim, to.mean);
    to.mean_scale = view.tile_scales[tile];
    to.content = level == 0 ? device + places.rows + view.first_rows[first] * TokenBytes(kHeadDim)
                            : device + places.tiles[0] + static_cast<size_t>(first) * sizeof(Record);
    to.value_means = reinterpret_cast<const int8_t*>(device + places.value_means[level]) + first * kHeadDim;
    to.frame = reinterpret_cast<const Frame<kHeadDim>*>(device + places.frames[level]);
  }
  head.tiles[level] = device + places.tiles[level];
  head.clusters[level] = view.clusters;
}

template <int kHeadDim>
void WriteHead(const SegmentSource& source, const HeadPlaces& places, std::byte* host, std::byte* device,
               SegmentHead& head) {
  constexpr size_t kRowBytes = 2 * kHeadDim;
  const auto* keys = static_cast<const std::byte*>(source.rows.keys);
  const auto* values = static_cast<const std::byte*>(source.rows.values);
  std::byte* to = host + places.rows;
  for (int64_t row = 0; row < source.rows.tokens; ++row, to += 2 * kRowBytes) {
    std::memcpy(to, keys + row * kRowBytes, kRowBytes);
    std::memcpy(to + kRowBytes, values + row * kRowBytes, kRowBytes);
  }
  head.rows = {device + places.rows, source.rows.tokens};
  head.index_bytes = places.index_bytes;
  if (source.rows.offsets != nullptr) {
    std::memcpy(host + places.offsets, source.rows.offsets, static_cast<size_t>(source.rows.tokens) * sizeof(uint16_t));
    head.offsets = reinterpret_cast<const uint16_t*>(device + places.offsets);
  }
  for (int level = 0; level < kLevels; ++level) WriteLevel<kHeadDim>(source, level, places, host, device, head);
}

Status CheckSources(const HeadShape& shape, std::span<const SegmentSource> heads) {
  if (shape.head_dim != 64 && shape.head_dim != 128 && shape.head_dim != 256) {
    return InvalidArgument("head_dim: must be 64, 128 or 256", StatusDetail::kBadSize);
  }
  if (shape.storage != DType::kFloat16 && shape.storage != DType::kBFloat16) {
    return InvalidArgument("storage: must be float16 or bfloat16", StatusDetail::kUnknownDType);
  }
  if (heads.empty()) return InvalidArgument("heads: none", StatusDetail::kBadSize);
  for (const SegmentSource& head : heads) {
    if (head.rows.keys == nullptr || head.rows.values == nullptr || head.levels[0] == nullptr ||
        head.levels[1] == nullptr) {
      return InvalidArgument("heads: null", StatusDetail::kNullPointer);
    }
    if (head.rows.tokens != heads[0].rows.tokens || head.rows.tokens < 1 || head.rows.tokens > kMaxSegmentTokens) {
      return InvalidArgument("heads: tokens must be equal, 1 .. 65536", StatusDetail::kBadSize);
    }
    if (head.levels[1]->clusters != TilesOf(head.levels[0]->clusters)) {
      return InvalidArgument("heads: super-clusters must be the tiles of the clusters", StatusDetail::kBadSize);
    }
  }
  return OkStatus();
}

// Lays the segment out and copies it.
template <int kHeadDim>
Status WriteSegment(std::span<const SegmentSource> sources, std::shared_ptr<void>* memory, size_t* bytes,
                    std::vector<SegmentHead>* heads) {
  std::vector<HeadPlaces> places;
  for (const SegmentSource& source : sources) {
    places.push_back(
        PlaceHead(kHeadDim, source.rows.tokens, {source.levels[0]->clusters, source.levels[1]->clusters}, bytes));
  }
  const std::unique_ptr<std::byte[]> host(new std::byte[*bytes]());
  auto reserved = ReserveDevice(*bytes, "cudaMalloc of a segment");
  if (!reserved.ok()) return reserved.status();
  *memory = *std::move(reserved);
  auto* device = static_cast<std::byte*>(memory->get());
  heads->resize(sources.size());
  for (size_t h = 0; h < sources.size(); ++h) {
    WriteHead<kHeadDim>(sources[h], places[h], host.get(), device, (*heads)[h]);
  }
  SWELL_RETURN_IF_ERROR(FromCuda(cudaMemcpy(device, host.get(), *bytes, cudaMemcpyHostToDevice), "copy of a segment"));
  return FromCuda(cudaStreamSynchronize(nullptr), "copy of a segment");  // streams need not wait for the default one
}

}  // namespace

size_t TokenBytes(int32_t head_dim) { return 4 * static_cast<size_t>(head_dim); }

size_t FrameBytes(int32_t head_dim) { return 2 * sizeof(float) * static_cast<size_t>(head_dim); }

size_t TileBytes(int32_t head_dim) {
  return head_dim == 64 ? sizeof(TileRecord<64>) : head_dim == 128 ? sizeof(TileRecord<128>) : sizeof(TileRecord<256>);
}

HeadPlaces PlaceHead(int32_t head_dim, int64_t tokens, const int64_t (&clusters)[kLevels], size_t* bytes) {
  HeadPlaces places;
  places.rows = Reserve(static_cast<size_t>(tokens) * TokenBytes(head_dim), bytes);
  const size_t first = *bytes;
  for (int level = 0; level < kLevels; ++level) {
    const auto tiles = static_cast<size_t>(TilesOf(clusters[level]));
    places.tiles[level] = Reserve(tiles * TileBytes(head_dim), bytes);
    places.value_means[level] = Reserve(tiles * kClusterTile * static_cast<size_t>(head_dim), bytes);
    places.frames[level] = Reserve(FrameBytes(head_dim), bytes);
  }
  places.offsets = Reserve(static_cast<size_t>(tokens) * sizeof(uint16_t), bytes);
  places.index_bytes = *bytes - first;
  return places;
}

Result<std::shared_ptr<const DeviceSegment>> DeviceSegment::Upload(const HeadShape& shape,
                                                                   std::span<const SegmentSource> heads) try {
  SWELL_RETURN_IF_ERROR(CheckSources(shape, heads));
  std::shared_ptr<void> memory;
  size_t bytes = 0;
  std::vector<SegmentHead> on_device;
  const auto write = shape.head_dim == 64    ? &WriteSegment<64>
                     : shape.head_dim == 128 ? &WriteSegment<128>
                                             : &WriteSegment<256>;
  SWELL_RETURN_IF_ERROR(write(heads, &memory, &bytes, &on_device));
  return std::make_shared<const DeviceSegment>(std::move(memory), bytes, std::move(on_device));
} catch (const std::bad_alloc&) {
  return Status(StatusCode::kResourceExhausted, "copy of a segment: out of host memory", StatusDetail::kNoMemory);
}

}  // namespace swell::cuda
