// What the warps of a head's attention keep: outputs and their sums. Lane (g, t) of accumulator j = 4 i + e holds dims
// 64 i + 8 g + 2 e and + 1 of queries 2 t and 2 t + 1, which is how the transposed product dims by queries leaves them.
// With at most four queries the other four columns hold ErrorState::cross; with more it has accumulators of its own.
#ifndef SWELL_CUDA_STEP_ATTEND_STATE_CUH_
#define SWELL_CUDA_STEP_ATTEND_STATE_CUH_

#include "cuda/step/select.cuh"

namespace swell::cuda {

constexpr int kAttendWarps = 8;
constexpr int kMostEstimating = kAttendWarps - 1;  // of them; the others read tokens meanwhile
constexpr int kTokenTile = 16;                     // tokens of a warp's step
constexpr int kColumns = 8;                        // queries of a CTA at most
constexpr int kQueueRows = 64;                     // a power of two
constexpr int kTurnRows = 32;                      // that join the queue at a time, at most
constexpr float kLeastShare = 1.0F / (1 << 12);    // as in lib/attention/estimate.cc

// kBlocks: 1 for up to four queries, 2 for up to eight.
__host__ __device__ constexpr int QueriesOf(int blocks) { return 4 * blocks; }

// Sums over estimated clusters of one query, relative to exp(reference) (quadratic ones to its square).
struct EstimateSums {
  float mass;
  float energy;
  float weight;
};

// State of a warp, later of a CTA, then of a head. Row g belongs to lanes (g, .).
template <int kHeadDim, int kBlocks>
struct AttendState {
  float out[kBlocks][kHeadDim / 16][4];
  float max;               // of row g, in octaves
  float sum;               // of row g
  EstimateSums estimated;  // of row g
};

// What a state of a part is in memory: accumulators lane by lane, then the rows' scalars.
template <int kHeadDim, int kBlocks>
struct PartState {
  float4 out[kBlocks * kHeadDim / 16][32];
  float max[kColumns];
  float sum[kColumns];
  EstimateSums estimated[kColumns];
};

// Rows of mean values that wait for their product, of one warp.
struct RowQueue {
  const int8_t* rows[kQueueRows];
  __nv_bfloat16 coefficients[2 * kColumns][kQueueRows];
};

// Weight of a cluster in the output, size exp(logit + correction), and its term in the error; both 0 unless it is
// estimated.
struct ClusterWeight {
  float weight;
  float term;
};

// What an estimating warp needs beside its registers.
struct EstimateMemory {
  RowQueue queue;
  ClusterWeight own[kClusterTile][32];  // by lane, times the scale of the value: clusters whose own mean value counts
};

struct AttendMemory {
  float max[kAttendWarps][kColumns];
  float sum[kAttendWarps][kColumns];
  EstimateSums estimated[kAttendWarps][kColumns];
  bool is_last;
};

// Dynamic shared memory of a CTA: first what its estimating warps need, then the outputs of half the warps, one float4
// for each lane and sixteen dims.
__host__ __device__ constexpr int AttendSharedBytes(int head_dim, int blocks) {
  constexpr int kEstimates = kMostEstimating * static_cast<int>(sizeof(EstimateMemory));
  const int outputs = kAttendWarps / 2 * blocks * head_dim / 16 * 32 * static_cast<int>(sizeof(float4));
  return kEstimates > outputs ? kEstimates : outputs;
}

// The queries of one CTA and what all its warps know of the head.
struct Task {
  const HeadPlan* head;
  int32_t number;       // of the head
  int32_t first_query;  // of the group
  int32_t queries;
  int32_t index;  // of the part
  int32_t parts;
  int32_t estimating;  // warps of the CTA
};

// Multiplies columns 2 t and 2 t + 1 of the output by the factors of their rows.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void ScaleOutput(float factor, int lane, AttendState<kHeadDim, kBlocks>& state) {
  const float even = __shfl_sync(kAllLanes, factor, lane % 4 * 8);
  const float odd = __shfl_sync(kAllLanes, factor, lane % 4 * 8 + 4);
#pragma unroll
  for (int j = 0; j < kHeadDim / 16; ++j) {
    state.out[0][j][0] *= even;
    state.out[0][j][1] *= odd;
    state.out[0][j][2] *= even;
    state.out[0][j][3] *= odd;
  }
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_ATTEND_STATE_CUH_
