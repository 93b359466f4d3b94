#include <cfloat>

#include "cuda/build/build_device.cuh"
#include "cuda/device/device.h"

namespace swell::cuda {
namespace {

constexpr int kWarps = kBuildThreads / 32;
constexpr int kAhead = 4;  // rows in flight

// What is known of the tokens of a cluster or of a super-cluster, as the lanes of a warp hold it. Keys in working
// units.
template <int kHeadDim>
struct Summary {
  float mean[kLaneDims<kHeadDim>] = {};
  float variance[kLaneDims<kHeadDim>] = {};
  float value_mean[kLaneDims<kHeadDim>] = {};
  float energy = 0;  // mean of |v|^2
  int tokens = 0;
};

// Of the clusters of a tile, [cluster]: what their super-cluster is put together from.
template <int kHeadDim>
struct TileState {
  float mean[kClusterTile][kHeadDim];
  float variance[kClusterTile][kHeadDim];
  float value_mean[kClusterTile][kHeadDim];
  float energy[kClusterTile];
  int32_t tokens[kClusterTile];
};

// A task as its warps see it.
template <int kHeadDim>
struct Task {
  const uint16_t *keys, *values, *order;
  const uint32_t* first_rows;
  std::byte* memory;
  int64_t token_stride;
  float unit, scale;  // 1 / unit
  float shift[kLaneDims<kHeadDim>];
  bool is_half;

  __device__ Task(const BuildArgs& args, int task, float key_unit)
      : keys(SourceRows(args, args.keys, task)),
        values(SourceRows(args, args.values, task)),
        order(OrderOf(args, task)),
        first_rows(args.first_rows + task * (kMaxBuildClusters + 1)),
        memory(MemoryOf(args, task)),
        token_stride(args.token_stride),
        unit(key_unit),
        scale(1 / key_unit),
        is_half(args.is_half != 0) {
    const auto* frame = reinterpret_cast<const Frame<kHeadDim>*>(memory + args.places.frames[0]);
    for (int i = 0; i < kLaneDims<kHeadDim>; ++i) {
      shift[i] = frame->center[threadIdx.x % 32 * kLaneDims<kHeadDim> + i] * scale;
    }
  }

  // The lane's words of rows row .. row + kAhead of `from`, zeros from `last` on.
  __device__ void Load(const uint16_t* from, int row, int last, LaneWords<kHeadDim> (&to)[kAhead]) const {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      to[k] = {};
      if (row + k >= last) continue;
      const uint16_t* element = from + order[row + k] * token_stride + threadIdx.x % 32 * kLaneDims<kHeadDim>;
      to[k] = *reinterpret_cast<const LaneWords<kHeadDim>*>(element);
    }
  }

  // Two of the lane's elements of a key, in working units.
  __device__ float2 Key(const LaneWords<kHeadDim>& words, int pair) const {
    const float2 x = ToFloats(words.words[pair], is_half);
    return {fmaf(x.x, scale, -shift[2 * pair]), fmaf(x.y, scale, -shift[2 * pair + 1])};
  }
};

// Copies rows first .. last into their token records and sums them up. Adds to *magnitudes of the values. A warp.
template <int kHeadDim>
__device__ Summary<kHeadDim> WriteRows(const Task<kHeadDim>& task, std::byte* rows, int first, int last,
                                       uint32_t* magnitudes) {
  constexpr int kDims = kLaneDims<kHeadDim>;
  Summary<kHeadDim> summary;
  summary.tokens = last - first;
  if (first == last) return summary;
  // Sums of shares: values near the largest float have a mean, too.
  const float share = 1.0F / static_cast<float>(summary.tokens);
  LaneWords<kHeadDim> keys[kAhead], values[kAhead];
  for (int row = first; row < last; row += kAhead) {
    task.Load(task.keys, row, last, keys);
    task.Load(task.values, row, last, values);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (row + k >= last) break;
      auto* record = reinterpret_cast<LaneWords<kHeadDim>*>(rows + (row + k) * (4 * kHeadDim)) + threadIdx.x % 32;
      record[0] = keys[k];
      record[32] = values[k];
#pragma unroll
      for (int i = 0; i < kDims / 2; ++i) {
        const float2 key = task.Key(keys[k], i), value = ToFloats(values[k].words[i], task.is_half);
        summary.mean[2 * i] += key.x * share;
        summary.mean[2 * i + 1] += key.y * share;
        summary.value_mean[2 * i] += value.x * share;
        summary.value_mean[2 * i + 1] += value.y * share;
        summary.energy += value.x * share * value.x + value.y * share * value.y;
        *magnitudes = MaxMagnitude(*magnitudes, values[k].words[i]);
      }
    }
  }
  summary.energy = fminf(WarpSum(summary.energy), FLT_MAX);
  for (int row = first; row < last; row += kAhead) {
    task.Load(task.keys, row, last, keys);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (row + k >= last) break;
#pragma unroll
      for (int i = 0; i < kDims / 2; ++i) {
        const float2 key = task.Key(keys[k], i);
        const float x = key.x - summary.mean[2 * i], y = key.y - summary.mean[2 * i + 1];
        summary.variance[2 * i] += x * x;
        summary.variance[2 * i + 1] += y * y;
      }
    }
  }
  for (int i = 0; i < kDims; ++i) summary.variance[i] *= share;
  return summary;
}

// QuantizeSigned of lib/index/wave/row_math.h over the lanes of a warp.
template <int kDims>
__device__ float Quantize(const float (&x)[kDims], float unit, int8_t (&to)[kDims]) {
  float maximum = 0;
  for (int i = 0; i < kDims; ++i) maximum = fmaxf(maximum, fabsf(x[i]));
  maximum = WarpMax(maximum);
  const double scale = fmin(static_cast<double>(maximum) * unit / 127, static_cast<double>(FLT_MAX) / 128);
  const float step = maximum / 127;
  const bool vanishes = scale < static_cast<double>(FLT_MIN) || step < FLT_MIN;
  const float inverse = vanishes ? 0 : 1 / step;
  for (int i = 0; i < kDims; ++i) to[i] = static_cast<int8_t>(min(__float2int_rn(x[i] * inverse), 127));
  return vanishes ? 0 : static_cast<float>(scale);
}

// A lane's bytes of a row, side by side.
template <int kDims>
__device__ void StoreBytes(const int8_t (&bytes)[kDims], int8_t* row) {
  for (int i = 0; i < kDims; ++i) row[threadIdx.x % 32 * kDims + i] = bytes[i];
}

// Writes all that a record holds of its cluster number `place`. A warp.
template <int kHeadDim>
__device__ void WriteCluster(const Summary<kHeadDim>& summary, float unit, TileRecord<kHeadDim>& record,
                             int8_t* value_means, int place) {
  constexpr int kDims = kLaneDims<kHeadDim>;
  const int lane = threadIdx.x % 32;
  int8_t bytes[kDims];
  const float scale = Quantize(summary.mean, unit, bytes);
  for (int i = 0; i < kDims; ++i) {
    const int dim = lane * kDims + i;
    record.centroids[dim / 32][place / 2 * 4 + dim % 32 / 8][dim % 8 / 4 * 8 + place % 2 * 4 + dim % 4] = bytes[i];
  }
  float variance = 0;
  for (int i = 0; i < kDims; ++i) variance += summary.variance[i];
  variance = WarpSum(variance);
  const float value_scale = Quantize(summary.value_mean, 1, bytes);
  StoreBytes(bytes, value_means + place * kHeadDim);
  if (lane != 0) return;
  record.scales[place] = scale;
  record.spreads[place] = fminf(unit * sqrtf(variance / kHeadDim), FLT_MAX);
  record.sizes[place] = static_cast<uint32_t>(summary.tokens);
  record.value_scales[place] = value_scale;
  record.energies[place] = fminf(summary.energy, FLT_MAX);
}

template <int kHeadDim>
__device__ void Keep(const Summary<kHeadDim>& summary, TileState<kHeadDim>& state, int place) {
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < kLaneDims<kHeadDim>; ++i) {
    const int dim = lane * kLaneDims<kHeadDim> + i;
    state.mean[place][dim] = summary.mean[i];
    state.variance[place][dim] = summary.variance[i];
    state.value_mean[place][dim] = summary.value_mean[i];
  }
  if (lane == 0) state.energy[place] = summary.energy;
  if (lane == 0) state.tokens[place] = summary.tokens;
}

// The super-cluster that the clusters of a tile are; adds up the tile's sums. One warp.
template <int kHeadDim>
__device__ Summary<kHeadDim> MergeTile(const TileState<kHeadDim>& state, int head_tokens, float* tile_sums) {
  Summary<kHeadDim> merged;
  for (int place = 0; place < kClusterTile; ++place) merged.tokens += state.tokens[place];
  const float share = merged.tokens > 0 ? 1.0F / static_cast<float>(merged.tokens) : 0;
  const float share_of_head = static_cast<float>(merged.tokens) / static_cast<float>(head_tokens);
  for (int place = 0; place < kClusterTile; ++place) {
    const float weight = static_cast<float>(state.tokens[place]) * share;
    for (int i = 0; i < kLaneDims<kHeadDim>; ++i) {
      const int dim = threadIdx.x % 32 * kLaneDims<kHeadDim> + i;
      merged.mean[i] += weight * state.mean[place][dim];
      merged.value_mean[i] += weight * state.value_mean[place][dim];
    }
    merged.energy += weight * state.energy[place];
  }
  for (int i = 0; i < kLaneDims<kHeadDim>; ++i) {
    const int dim = threadIdx.x % 32 * kLaneDims<kHeadDim> + i;
    float inside = 0, between = 0;
    for (int place = 0; place < kClusterTile; ++place) {
      const float weight = static_cast<float>(state.tokens[place]) * share;
      const float distance = state.mean[place][dim] - merged.mean[i];
      inside += weight * state.variance[place][dim];
      between += weight * distance * distance;
    }
    merged.variance[i] = inside + between;
    tile_sums[kClusterVariance * kHeadDim + dim] = inside * share_of_head;
    tile_sums[kSuperVariance * kHeadDim + dim] = (inside + between) * share_of_head;
    tile_sums[kValues * kHeadDim + dim] = merged.value_mean[i] * share_of_head;
  }
  return merged;
}

// Where the parts of a record lie that others hold. One thread.
template <int kHeadDim>
__device__ void WriteAddresses(const HeadPlaces& places, std::byte* memory, int level, int tile, const void* content,
                               TileRecord<kHeadDim>& record) {
  record.frame = reinterpret_cast<const Frame<kHeadDim>*>(memory + places.frames[level]);
  record.content = content;
  record.value_means = reinterpret_cast<const int8_t*>(memory + places.value_means[level]) +
                       static_cast<int64_t>(tile) * kClusterTile * kHeadDim;
}

// Grid [kClusterTile, tasks]: a CTA for each super-cluster of a head, also for those that there are not, whose places
// become padding.
template <int kHeadDim>
__global__ void __launch_bounds__(kBuildThreads) RecordKernel(const BuildArgs args) {
  using Record = TileRecord<kHeadDim>;
  extern __shared__ __align__(16) unsigned char shared[];
  auto& state = *reinterpret_cast<TileState<kHeadDim>*>(shared);
  const int tile = static_cast<int>(blockIdx.x), warp = static_cast<int>(threadIdx.x) / 32;
  BuiltHead& built = args.built[blockIdx.y];
  const int clusters = built.clusters;
  if (clusters == 0) return;
  const Task<kHeadDim> task(args, static_cast<int>(blockIdx.y), built.unit);
  const HeadPlaces& places = args.places;
  const bool exists = tile * kClusterTile < clusters;
  Record& record = reinterpret_cast<Record*>(task.memory + places.tiles[0])[tile];
  auto* value_means =
      reinterpret_cast<int8_t*>(task.memory + places.value_means[0]) + int64_t{tile} * kClusterTile * kHeadDim;
  uint32_t magnitudes = 0;
  for (int place = warp; place < kClusterTile; place += kWarps) {
    const int cluster = tile * kClusterTile + place;
    const auto first = static_cast<int>(cluster < clusters ? task.first_rows[cluster] : 0);
    const auto last = static_cast<int>(cluster + 1 < clusters ? task.first_rows[cluster + 1] : args.tokens);
    const Summary<kHeadDim> summary =
        WriteRows(task, task.memory + places.rows, first, cluster < clusters ? last : first, &magnitudes);
    if (exists) WriteCluster(summary, task.unit, record, value_means, place);
    Keep(summary, state, place);
  }
  magnitudes = __reduce_max_sync(kWholeWarp, max(magnitudes & 0xffffU, magnitudes >> 16));
  if (threadIdx.x % 32 == 0 && !IsFinite(magnitudes, task.is_half)) built.finite_values = 0;
  __syncthreads();
  if (warp != 0) return;
  float* tile_sums = args.tile_sums + (int64_t{blockIdx.y} * kClusterTile + tile) * kTileSums * kHeadDim;
  const Summary<kHeadDim> merged = MergeTile(state, args.tokens, tile_sums);
  auto& super = *reinterpret_cast<Record*>(task.memory + places.tiles[1]);
  WriteCluster(merged, task.unit, super, reinterpret_cast<int8_t*>(task.memory + places.value_means[1]), tile);
  if (!exists) return;
  int8_t bytes[kLaneDims<kHeadDim>];
  const float scale = Quantize(merged.value_mean, 1, bytes);
  StoreBytes(bytes, record.mean);
  if (threadIdx.x != 0) return;
  record.mean_scale = scale;
  const uint32_t first_row = task.first_rows[tile * kClusterTile];
  WriteAddresses(places, task.memory, 0, tile, task.memory + places.rows + int64_t{first_row} * 4 * kHeadDim, record);
}

// What all tiles of a head have in common. Grid [tasks], 32 threads.
template <int kHeadDim>
__global__ void __launch_bounds__(32) FrameKernel(const BuildArgs args) {
  constexpr int kDims = kLaneDims<kHeadDim>;
  const BuiltHead built = args.built[blockIdx.x];
  if (built.clusters == 0) return;
  std::byte* memory = MemoryOf(args, static_cast<int>(blockIdx.x));
  float sums[kTileSums][kDims] = {};
  for (int tile = 0; tile * kClusterTile < built.clusters; ++tile) {
    const float* from = args.tile_sums + (int64_t{blockIdx.x} * kClusterTile + tile) * kTileSums * kHeadDim;
    for (int sum = 0; sum < kTileSums; ++sum) {
      for (int i = 0; i < kDims; ++i) sums[sum][i] += from[sum * kHeadDim + threadIdx.x * kDims + i];
    }
  }
  for (int level = 0; level < kLevels; ++level) {
    auto& frame = *reinterpret_cast<Frame<kHeadDim>*>(memory + args.places.frames[level]);
    float total = 0;
    for (int i = 0; i < kDims; ++i) total += sums[level][i];
    total = WarpSum(total);
    for (int i = 0; i < kDims; ++i) {
      frame.profile[threadIdx.x * kDims + i] = total > 0 ? sums[level][i] * kHeadDim / total : 1;
    }
  }
  auto& super = *reinterpret_cast<TileRecord<kHeadDim>*>(memory + args.places.tiles[1]);
  int8_t bytes[kDims];
  const float scale = Quantize(sums[kValues], 1, bytes);
  StoreBytes(bytes, super.mean);
  if (threadIdx.x != 0) return;
  super.mean_scale = scale;
  WriteAddresses(args.places, memory, 1, 0, memory + args.places.tiles[0], super);
}

template <int kHeadDim>
Status Launch(const BuildArgs& args, int32_t tasks, cudaStream_t stream) {
  const dim3 grid(kClusterTile, static_cast<unsigned>(tasks));
  RecordKernel<kHeadDim><<<grid, kBuildThreads, sizeof(TileState<kHeadDim>), stream>>>(args);
  SWELL_RETURN_IF_ERROR(FromCuda(cudaGetLastError(), "records of a build"));
  FrameKernel<kHeadDim><<<static_cast<unsigned>(tasks), 32, 0, stream>>>(args);
  return FromCuda(cudaGetLastError(), "frames of a build");
}

template <int kHeadDim>
Status Prepare() {
  return FromCuda(cudaFuncSetAttribute(RecordKernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       sizeof(TileState<kHeadDim>)),
                  "shared memory of the records");
}

}  // namespace

Status LaunchRecords(int32_t head_dim, const BuildArgs& args, int32_t tasks, cudaStream_t stream) {
  const auto launch = head_dim == 64 ? &Launch<64> : head_dim == 128 ? &Launch<128> : &Launch<256>;
  return launch(args, tasks, stream);
}

Status PrepareRecords(int32_t head_dim) {
  return head_dim == 64 ? Prepare<64>() : head_dim == 128 ? Prepare<128>() : Prepare<256>();
}

}  // namespace swell::cuda
