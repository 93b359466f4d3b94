#include "cuda/build/group_clusters.cuh"
#include "cuda/build/kmeans.cuh"
#include "cuda/device/device.h"

namespace swell::cuda {
namespace {

// Chunks of eight elements: `kRows` rows at a time, a thread for each chunk.
template <int kHeadDim>
constexpr int kChunks = kHeadDim / 8;

// Largest magnitude of the keys; false when one is not finite. The CTA.
template <int kHeadDim>
__device__ bool ScanKeys(ClusterState<kHeadDim>& state, const BuildArgs& args, const uint16_t* keys, float* largest) {
  constexpr int kRows = kBuildThreads / kChunks<kHeadDim>;
  const int chunk = threadIdx.x % kChunks<kHeadDim>;
  if (threadIdx.x == 0) state.magnitude = 0;
  __syncthreads();
  uint32_t magnitudes = 0;
#pragma unroll 8
  for (int token = threadIdx.x / kChunks<kHeadDim>; token < args.tokens; token += kRows) {
    const uint4 words = *reinterpret_cast<const uint4*>(keys + token * args.token_stride + 8 * chunk);
    magnitudes = MaxMagnitude(MaxMagnitude(magnitudes, words.x), words.y);
    magnitudes = MaxMagnitude(MaxMagnitude(magnitudes, words.z), words.w);
  }
  const uint32_t magnitude = __reduce_max_sync(kWholeWarp, max(magnitudes & 0xffffU, magnitudes >> 16));
  if (threadIdx.x % 32 == 0) atomicMax(&state.magnitude, magnitude);
  __syncthreads();
  *largest = ToFloats(state.magnitude, args.is_half != 0).x;
  return IsFinite(state.magnitude, args.is_half != 0);
}

// Mean of the keys times `scale` into state.shift; the mean itself into the frames. The CTA; a barrier after.
template <int kHeadDim>
__device__ void CentreKeys(ClusterState<kHeadDim>& state, const BuildArgs& args, const uint16_t* keys, float scale,
                           float unit, std::byte* memory) {
  constexpr int kRows = kBuildThreads / kChunks<kHeadDim>;
  const int chunk = threadIdx.x % kChunks<kHeadDim>;
  float sums[8] = {};
#pragma unroll 4
  for (int token = threadIdx.x / kChunks<kHeadDim>; token < args.tokens; token += kRows) {
    const uint4 loaded = *reinterpret_cast<const uint4*>(keys + token * args.token_stride + 8 * chunk);
    const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = ToFloats(words[i], args.is_half != 0);
      sums[2 * i] += x.x * scale;
      sums[2 * i + 1] += x.y * scale;
    }
  }
  for (int i = 0; i < 8; ++i) state.sums[threadIdx.x * 8 + i] = sums[i];
  __syncthreads();
  const int dim = threadIdx.x;
  if (dim < kHeadDim) {
    float sum = 0;
    for (int row = 0; row < kRows; ++row) sum += state.sums[row * kHeadDim + dim];
    const float mean = sum / static_cast<float>(args.tokens);
    state.shift[dim] = mean;
    for (const size_t frame : args.places.frames) {
      reinterpret_cast<Frame<kHeadDim>*>(memory + frame)->center[dim] = mean * unit;
    }
  }
}

// key * scale - shift as float16. The CTA; a barrier before and after.
template <int kHeadDim>
__device__ void WriteWorkingKeys(const ClusterState<kHeadDim>& state, const BuildArgs& args, const uint16_t* keys,
                                 float scale, __half* to) {
  constexpr int kRows = kBuildThreads / kChunks<kHeadDim>;
  const int chunk = threadIdx.x % kChunks<kHeadDim>;
#pragma unroll 4
  for (int token = threadIdx.x / kChunks<kHeadDim>; token < args.tokens; token += kRows) {
    const uint4 loaded = *reinterpret_cast<const uint4*>(keys + token * args.token_stride + 8 * chunk);
    uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = ToFloats(words[i], args.is_half != 0);
      const float* shift = state.shift + 8 * chunk + 2 * i;
      const __half2 pair = __floats2half2_rn(fmaf(x.x, scale, -shift[0]), fmaf(x.y, scale, -shift[1]));
      words[i] = reinterpret_cast<const uint32_t&>(pair);
    }
    *reinterpret_cast<uint4*>(to + token * kHeadDim + 8 * chunk) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// The order of the tokens and where the clusters begin, grouped. The CTA; a barrier before.
template <int kHeadDim>
__device__ void WriteOrder(ClusterState<kHeadDim>& state, const BuildArgs& args, int task, int clusters) {
  const int place = threadIdx.x;
  const int cluster = place < clusters ? state.grouped[place] : 0;
  const int size = place < clusters ? state.first_rows[cluster + 1] - state.first_rows[cluster] : 0;
  const int first = SumBefore(size, state.warp_sums);
  uint32_t* first_rows = args.first_rows + task * (kMaxBuildClusters + 1);
  first_rows[place] = static_cast<uint32_t>(first);
  if (place == 0) first_rows[kMaxBuildClusters] = static_cast<uint32_t>(args.tokens);
  uint16_t* order = OrderOf(args, task);
  for (int i = 0; i < size; ++i) order[first + i] = state.order[state.first_rows[cluster] + i];
  atomicMax(&state.largest, size);
}

// Grid [tasks].
template <int kHeadDim>
__global__ void __launch_bounds__(kBuildThreads, kHeadDim == 256 ? 1 : 2) ClusterKernel(const BuildArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  auto& state = *reinterpret_cast<ClusterState<kHeadDim>*>(shared);
  const int task = blockIdx.x;
  const uint16_t* keys = SourceRows(args, args.keys, task);
  std::byte* memory = MemoryOf(args, task);
  BuiltHead& built = args.built[task];
  if (threadIdx.x == 0) state.largest = 0;
  float largest = 0;
  if (!ScanKeys(state, args, keys, &largest)) {
    if (threadIdx.x == 0) built = {0, 0, 1, 1};
    return;
  }
  // Differences keep their accuracy when keys share a large mean, and squares neither overflow nor vanish.
  const int exponent = largest > 0 ? min(max(ilogbf(largest), -100), 126) : 0;
  const float scale = ldexpf(1.0F, -exponent), unit = ldexpf(1.0F, exponent);
  // The rows are written at the end: until then their place holds the working keys.
  auto* working = reinterpret_cast<__half*>(memory + args.places.rows);
  CentreKeys(state, args, keys, scale, unit, memory);
  __syncthreads();
  WriteWorkingKeys(state, args, keys, scale, working);
  __syncthreads();
  SeedCentroids(state, working, args.tokens, args.clusters);
  __syncthreads();
  for (int iteration = 0; iteration <= args.iterations; ++iteration) {
    AssignNearest(state, working, args.tokens, args.clusters);
    __syncthreads();
    GroupTokens(state, args.tokens);
    __syncthreads();
    MoveCentroids(state, working, args.clusters);  // the last time for the grouping
    __syncthreads();
  }
  const int clusters = GroupClusters(state);
  __syncthreads();
  WriteOrder(state, args, task, clusters);
  __syncthreads();
  if (threadIdx.x == 0) built = {clusters, state.largest, 1, unit};
}

template <int kHeadDim>
Status Launch(const BuildArgs& args, int32_t tasks, cudaStream_t stream) {
  ClusterKernel<kHeadDim><<<tasks, kBuildThreads, sizeof(ClusterState<kHeadDim>), stream>>>(args);
  return FromCuda(cudaGetLastError(), "clustering");
}

template <int kHeadDim>
Status Prepare() {
  return FromCuda(cudaFuncSetAttribute(ClusterKernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       sizeof(ClusterState<kHeadDim>)),
                  "shared memory of the clustering");
}

}  // namespace

Status LaunchCluster(int32_t head_dim, const BuildArgs& args, int32_t tasks, cudaStream_t stream) {
  const auto launch = head_dim == 64 ? &Launch<64> : head_dim == 128 ? &Launch<128> : &Launch<256>;
  return launch(args, tasks, stream);
}

Status PrepareCluster(int32_t head_dim) {
  return head_dim == 64 ? Prepare<64>() : head_dim == 128 ? Prepare<128>() : Prepare<256>();
}

}  // namespace swell::cuda
