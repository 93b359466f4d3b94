#include "cuda/buffer/buffer_kernels.h"
#include "cuda/build/build_device.cuh"
#include "cuda/step/step_device.cuh"

namespace swell::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPublishCtas = 64;
constexpr int kSweepThreads = 1024;
static_assert(kSweepThreads / 32 == 32, "a warp adds up the sums of all warps");
constexpr int kLookUpCtas = 8;  // of a head

unsigned CtasFor(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

__global__ void __launch_bounds__(kThreads) ClearKernel(const BufferView view) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < view.home_records) view.places[i] = kNotCached;
  if (i < view.slots) {
    view.states[i] = SlotState::kFree;
    view.owners[i] = -1;
    view.free_slots[i] = static_cast<int32_t>(i);
  }
  if (i == 0) *view.counters = {view.slots, 0, 0, 0, 0, 0, 0};
}

// --- look-up --------------------------------------------------------------------------------------------------------

// Takes a slot for a record that is not cached; kNoSlot when there is none or another list has the record, too.
__device__ __forceinline__ int32_t TakeSlot(const BufferView& view, int64_t record, int32_t free) {
  if (atomicCAS(view.places + record, kNotCached, kBeingClaimed) != kNotCached) return kNoSlot;
  const int32_t taken = atomicAdd(&view.counters->taken, 1);
  const int32_t slot = taken < free ? view.free_slots[free - 1 - taken] : kNoSlot;
  if (slot >= 0) view.owners[slot] = static_cast<int32_t>(record);
  view.places[record] = slot >= 0 ? ClaimOf(slot) : kNotCached;
  return slot;
}

// Grid [kLookUpCtas, heads]. What lives at home and is cached gets the address of its slot, what is not a slot to be
// written to, while there are free ones. Twin of BlockCache::Plan.
__global__ void __launch_bounds__(kThreads) LookUpKernel(const StepArgs args) {
  WaitForInputs();
  LetNextKernelStart();
  const int head = static_cast<int>(blockIdx.y);
  if (head >= args.size->heads) return;
  const BufferView& view = args.buffer;
  const int32_t free = view.counters->free;
  const int64_t tokens = args.list_tokens[head];
  const std::byte** list = args.addresses + args.heads[head].first_address;
  unsigned hits = 0, misses = 0, admitted = 0;
  for (int64_t i = blockIdx.x * kThreads + threadIdx.x; i < tokens; i += kLookUpCtas * kThreads) {
    const auto address = reinterpret_cast<uint64_t>(list[i]);
    if ((address & kHomeBase) == 0) continue;
    const auto record = static_cast<int64_t>(address - kHomeBase) / view.record_bytes;
    const int32_t place = *static_cast<volatile const int32_t*>(view.places + record);
    if (place >= 0) {
      list[i] = view.cache + static_cast<int64_t>(place) * view.record_bytes;
      view.states[place] = SlotState::kReferenced;
      ++hits;
      continue;
    }
    ++misses;
    const int32_t slot = place == kNotCached ? TakeSlot(view, record, free) : kNoSlot;
    list[i] = reinterpret_cast<const std::byte*>(HomeEntry(record, slot));
    admitted += slot != kNoSlot ? 1 : 0;
  }
  hits = __reduce_add_sync(kAllLanes, hits);
  misses = __reduce_add_sync(kAllLanes, misses);
  admitted = __reduce_add_sync(kAllLanes, admitted);
  if (threadIdx.x % 32 != 0) return;
  if (hits > 0) atomicAdd(&view.counters->hits, hits);
  if (misses > 0) atomicAdd(&view.counters->misses, misses);
  if (admitted > 0) atomicAdd(&view.counters->admitted, admitted);
}

// --- maintenance ----------------------------------------------------------------------------------------------------

// Those that were handed out in the step hold their record now, unless it was forgotten. Grid [kPublishCtas].
__global__ void __launch_bounds__(kThreads) PublishKernel(const BufferView view) {
  const int32_t free = view.counters->free;
  const int32_t taken = min(view.counters->taken, free);
  for (int32_t i = blockIdx.x * kThreads + threadIdx.x; i < taken; i += kPublishCtas * kThreads) {
    const int32_t slot = view.free_slots[free - 1 - i];
    const int32_t record = view.owners[slot];
    const bool holds = view.places[record] == ClaimOf(slot);
    if (holds) view.places[record] = slot;
    view.states[slot] = holds ? SlotState::kReferenced : SlotState::kForgotten;
  }
}

// Sum over the threads before this one; *all: of all. The CTA; a barrier before the next call.
__device__ __forceinline__ int SumBefore(int value, int* sums, int* all) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += other;
  }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  const int of_warp = sums[lane];
  *all = static_cast<int>(__reduce_add_sync(kAllLanes, static_cast<unsigned>(of_warp)));
  return sum - value + static_cast<int>(__reduce_add_sync(kAllLanes, static_cast<unsigned>(lane < warp ? of_warp : 0)));
}

// Sixteen slots that lie side by side, as the hand passes them.
struct Chunk {
  alignas(16) SlotState states[kChunk];
  alignas(16) int32_t owners[kChunk];
};

// Passes the slots first .. kChunk of a chunk until `needed` are free; these go to `to`. Returns the slots passed.
__device__ __forceinline__ int PassChunk(const BufferView& view, int32_t base, int first, int needed, int32_t* to,
                                         Chunk& chunk, unsigned* evicted) {
  int end = kChunk;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < first || i >= end) continue;
    SlotState& state = chunk.states[i];
    if (state == SlotState::kReferenced) {
      state = SlotState::kIdle;
    } else if (state != SlotState::kFree) {
      if (state == SlotState::kIdle) view.places[chunk.owners[i]] = kNotCached;
      *evicted += state == SlotState::kIdle ? 1 : 0;
      state = SlotState::kFree;
      *to++ = base + i;
      if (--needed == 0) end = i + 1;
    }
  }
  return end;
}

// One CTA, after PublishKernel. The hand goes over the slots a stretch of chunks at a time and stops behind the last
// victim that is needed. Behind the slots the chunks are filled up with free ones, which are passed.
__global__ void __launch_bounds__(kSweepThreads) SweepKernel(const BufferView view) {
  __shared__ int sums[kSweepThreads / 32];
  __shared__ int32_t next_hand;
  const int thread = static_cast<int>(threadIdx.x);
  BufferCounters& counters = *view.counters;
  const int32_t chunks = (view.slots + kChunk - 1) / kChunk;
  const int stretch = min(kSweepThreads, chunks);
  int32_t left = counters.free - min(counters.taken, counters.free), hand = counters.hand;
  unsigned evicted = 0;
  // Twice round: the first may have to clear every bit.
  for (int64_t swept = 0; left < view.reserve && swept <= int64_t{2} * chunks; swept += stretch) {
    const int32_t base = (hand / kChunk + thread) % chunks * kChunk;
    const int first = thread == 0 ? hand % kChunk : thread < stretch ? 0 : kChunk;
    Chunk chunk;
    *reinterpret_cast<uint4*>(chunk.states) = *reinterpret_cast<const uint4*>(view.states + base);
    int victims = 0;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const bool victim = chunk.states[i] == SlotState::kIdle || chunk.states[i] == SlotState::kForgotten;
      victims += victim && i >= first ? 1 : 0;
    }
    int all = 0;
    const int rank = SumBefore(victims, sums, &all);
    const int needed = view.reserve - left;
    if (thread == 0) next_hand = (hand / kChunk + stretch) % chunks * kChunk;
    __syncthreads();
    if (rank < needed && first < kChunk) {
#pragma unroll
      for (int i = 0; i < kChunk / 4 && victims > 0; ++i) {
        reinterpret_cast<int4*>(chunk.owners)[i] = reinterpret_cast<const int4*>(view.owners + base)[i];
      }
      const int end = PassChunk(view, base, first, needed - rank, view.free_slots + left + rank, chunk, &evicted);
      *reinterpret_cast<uint4*>(view.states + base) = *reinterpret_cast<const uint4*>(chunk.states);
      if (rank + victims >= needed) next_hand = (base + end) % (chunks * kChunk);
    }
    __syncthreads();
    left += min(all, needed);
    hand = next_hand;
    __syncthreads();
  }
  evicted = __reduce_add_sync(kAllLanes, evicted);
  if (thread % 32 == 0 && evicted > 0) atomicAdd(&counters.evicted, evicted);
  __syncthreads();  // all have read the counters
  if (thread != 0) return;
  counters.free = left;
  counters.taken = 0;
  counters.hand = hand;
}

__global__ void __launch_bounds__(kThreads) ForgetKernel(const BufferView view, int64_t first, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int32_t place = view.places[first + i];
  // One that is on its way is dropped when it would be published.
  if (place >= 0) view.states[place] = SlotState::kForgotten;
  view.places[first + i] = kNotCached;
}

// A warp a record.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    QuantiseKernel(const BufferView view, const std::byte* rows, int64_t first, int64_t count, int is_half) {
  constexpr int kDims = kLaneDims<kHeadDim>;
  const int lane = threadIdx.x % 32;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (row >= count) return;
  const auto* from = reinterpret_cast<const LaneWords<kHeadDim>*>(rows + row * view.record_bytes) + lane;
  auto* to = reinterpret_cast<int8_t*>(const_cast<std::byte*>(view.home)) + (first + row) * view.home_record_bytes;
  float scales[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const LaneWords<kHeadDim> words = from[32 * half];
    float x[kDims], maximum = 0;
#pragma unroll
    for (int i = 0; i < kDims / 2; ++i) {
      const float2 pair = ToFloats(words.words[i], is_half != 0);
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
      maximum = fmaxf(maximum, fmaxf(fabsf(pair.x), fabsf(pair.y)));
    }
    maximum = WarpMax(maximum);
    scales[half] = maximum / 127;
    const float inverse = scales[half] > 0 ? 1 / scales[half] : 0;
    alignas(kDims) int8_t bytes[kDims];
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      bytes[i] = static_cast<int8_t>(max(-127, min(127, __float2int_rn(x[i] * inverse))));
    }
    memcpy(to + half * kHeadDim + lane * kDims, bytes, kDims);
  }
  if (lane == 0) const_cast<RowScales*>(view.scales)[first + row] = {scales[0], scales[1]};
}

// A warp a row.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    ReopenKernel(const BufferView view, const SegmentHead head, int is_half, int64_t tokens, std::byte* records) {
  constexpr int kDims = kLaneDims<kHeadDim>;
  constexpr int64_t kRecordBytes = 4 * kHeadDim;
  const int lane = threadIdx.x % 32;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (row >= head.rows.tokens) return;
  const int64_t token = head.offsets != nullptr ? head.offsets[row] : row;
  if (token >= tokens) return;
  auto* to = reinterpret_cast<LaneWords<kHeadDim>*>(records + token * kRecordBytes) + lane;
  const auto address = reinterpret_cast<uint64_t>(head.rows.rows);
  const bool at_home = (address & kHomeBase) != 0;
  const int64_t record = at_home ? static_cast<int64_t>(address - kHomeBase) / kRecordBytes + row : 0;
  const std::byte* from = at_home ? view.home + record * view.home_record_bytes : head.rows.rows + row * kRecordBytes;
  if (!at_home || view.scales == nullptr) {
    const auto* words = reinterpret_cast<const LaneWords<kHeadDim>*>(from) + lane;
    for (int half = 0; half < 2; ++half) to[32 * half] = words[32 * half];
    return;
  }
  const RowScales scales = view.scales[record];
  for (int half = 0; half < 2; ++half) {
    alignas(kDims) int8_t bytes[kDims];
    memcpy(bytes, from + half * kHeadDim + lane * kDims, kDims);
    const float scale = half == 0 ? scales.key : scales.value;
    LaneWords<kHeadDim> words;
    for (int i = 0; i < kDims / 2; ++i) {
      words.words[i] = ToHalves(scale * bytes[2 * i], scale * bytes[2 * i + 1], is_half != 0);
    }
    to[32 * half] = words;
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) RelocateKernel(std::byte* clusters, int n_clusters, std::byte* supers,
                                                           int n_supers, int64_t rows_by, int64_t index_by) {
  for (int i = threadIdx.x; i < n_clusters + n_supers; i += kThreads) {
    const bool lower = i < n_clusters;
    auto* records = reinterpret_cast<TileRecord<kHeadDim>*>(lower ? clusters : supers);
    TileRecord<kHeadDim>& record = records[lower ? i : i - n_clusters];
    const auto* frame = reinterpret_cast<const std::byte*>(record.frame) + index_by;
    record.frame = reinterpret_cast<const Frame<kHeadDim>*>(frame);
    record.value_means += index_by;
    record.content = static_cast<const std::byte*>(record.content) + (lower ? rows_by : index_by);
  }
}

}  // namespace

Status LaunchClear(const BufferView& view, cudaStream_t stream) {
  ClearKernel<<<CtasFor(max(view.home_records, int64_t{view.slots})), kThreads, 0, stream>>>(view);
  return FromCuda(cudaGetLastError(), "clearing of a buffer");
}

Status LaunchLookUp(const StepArgs& args, const StepLaunch& launch) {
  const dim3 grid(kLookUpCtas, static_cast<unsigned>(launch.heads));
  return LaunchStep("look-up", grid, kThreads, 0, 1, true, launch.stream, LookUpKernel, args);
}

Status LaunchMaintain(const BufferView& view, cudaStream_t stream) {
  PublishKernel<<<kPublishCtas, kThreads, 0, stream>>>(view);
  SWELL_RETURN_IF_ERROR(FromCuda(cudaGetLastError(), "maintenance of a buffer"));
  SweepKernel<<<1, kSweepThreads, 0, stream>>>(view);
  return FromCuda(cudaGetLastError(), "eviction of a buffer");
}

Status LaunchForget(const BufferView& view, int64_t first, int64_t count, cudaStream_t stream) {
  ForgetKernel<<<CtasFor(count), kThreads, 0, stream>>>(view, first, count);
  return FromCuda(cudaGetLastError(), "dropping of records");
}

Status LaunchQuantise(const BufferView& view, const SegmentHead& head, int32_t head_dim, bool is_half, int64_t first,
                      cudaStream_t stream) {
  const auto kernel = head_dim == 64 ? QuantiseKernel<64> : head_dim == 128 ? QuantiseKernel<128> : QuantiseKernel<256>;
  kernel<<<CtasFor(32 * head.rows.tokens), kThreads, 0, stream>>>(view, head.rows.rows, first, head.rows.tokens,
                                                                  is_half ? 1 : 0);
  return FromCuda(cudaGetLastError(), "rows as int8");
}

Status LaunchReopen(const BufferView& view, const SegmentHead& head, int32_t head_dim, bool is_half, int64_t tokens,
                    std::byte* records, cudaStream_t stream) {
  const auto kernel = head_dim == 64 ? ReopenKernel<64> : head_dim == 128 ? ReopenKernel<128> : ReopenKernel<256>;
  kernel<<<CtasFor(32 * head.rows.tokens), kThreads, 0, stream>>>(view, head, is_half ? 1 : 0, tokens, records);
  return FromCuda(cudaGetLastError(), "rows of a segment that is cut");
}

Status LaunchRelocate(const SegmentHead& head, int32_t head_dim, int64_t rows_by, int64_t index_by,
                      cudaStream_t stream) {
  const auto kernel = head_dim == 64 ? RelocateKernel<64> : head_dim == 128 ? RelocateKernel<128> : RelocateKernel<256>;
  kernel<<<1, kThreads, 0, stream>>>(const_cast<std::byte*>(head.tiles[0]), static_cast<int>(TilesOf(head.clusters[0])),
                                     const_cast<std::byte*>(head.tiles[1]), static_cast<int>(TilesOf(head.clusters[1])),
                                     rows_by, index_by);
  return FromCuda(cudaGetLastError(), "relocation of a segment");
}

}  // namespace swell::cuda
