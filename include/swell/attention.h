// CPU attention kernels: exact, scoring, selection, estimation, merging.
//
// Every function is reentrant, allocates nothing, never throws, and dispatches at run time to the best SIMD target of
// the machine. Arguments are trusted: the engine (or whoever links this layer alone) checks shapes first. Outputs never
// overlap inputs. "Nats" are natural-log units; q . k is multiplied by HeadShape::scale inside the kernels.
#ifndef SWELL_ATTENTION_H_
#define SWELL_ATTENTION_H_

#include <cstdint>
#include <limits>
#include <span>

#include "swell/types.h"

namespace swell::attention {

// Partial attention state (m, l, o) of `rows` queries: with D = sum exp(s_i - m) and O = sum exp(s_i - m) v_i.
// A fresh state has max = -inf, sum = 0, out = 0 (ResetState). States of disjoint token sets merge in any order.
struct PartialState {
  float* max = nullptr;  // [rows]
  float* sum = nullptr;  // [rows]
  float* out = nullptr;  // [rows, head_dim], unnormalised
};

void ResetState(int64_t rows, int32_t head_dim, PartialState state);

// into += from (log-sum-exp merge; empty states are neutral).
void MergeState(int64_t rows, int32_t head_dim, const PartialState& from, PartialState into);

// log_mass[r] = max[r] + log(sum[r]), -inf for a row that saw no token.
void LogMassOfState(int64_t rows, const PartialState& state, float* log_mass);

// output[r] = out[r] / sum[r], lse[r] = max[r] + log(sum[r]); a row that saw no token gives zeros and -inf.
// `output` [rows, head_dim]; `lse` [rows] may be null.
void FinishState(int64_t rows, int32_t head_dim, const PartialState& state, float* output, float* lse);

// Exact decode attention: adds all rows of `runs` to `state` (group rows). K and V are read once for the whole group.
// `queries` [group, head_dim] float32.
void AttendRuns(const HeadShape& shape, const float* queries, std::span<const KvRun> runs, PartialState state);

// Exact causal attention of many query positions: query i sees the tokens whose position is <= first_position + i.
// `queries` [n_queries, group, head_dim] with `query_stride` floats between positions (>= group * head_dim);
// state rows are ordered [n_queries, group].
void AttendCausal(const HeadShape& shape, const float* queries, int64_t n_queries, int64_t query_stride,
                  int64_t first_position, std::span<const KvRun> runs, PartialState state);

// logits[r] = scale * q . k_r, without softmax, for search: `logits` [group, stride], stride >= tokens of the run.
void ScoreRows(const HeadShape& shape, const float* queries, const KvRun& run, float* logits, int64_t stride);

// Entries of `clusters` clusters of a run: whole tiles, so that no kernel needs to know where runs end. What is
// computed of a run is written to and read from its entries, run behind run; entries of padding hold no cluster.
constexpr int64_t TileEntries(int64_t clusters) { return (clusters + kClusterTile - 1) / kClusterTile * kClusterTile; }

// Scores of clusters under a group's queries.
struct ClusterScores {
  float* logits = nullptr;  // [group, stride]: l_gj = scale * q_g . c_j; -inf for padding
  float* widths = nullptr;  // [runs, group]: sigma_gj = spread_j * width, width = scale * sqrt(sum_d q_gd^2 profile_d)
  int64_t stride = 0;       // >= entries of all runs
};

// Fills the entries of `runs` in `scores`; callers offset the pointers for later runs.
void ScoreClusters(const HeadShape& shape, const float* queries, std::span<const ClusterRun> runs,
                   ClusterScores scores);

// importance [entries], higher is better: under kMass the mean softmax over the group, else the largest log of the
// share or softmax (types.h says of what); -inf for padding. sizes [entries]: tokens of each cluster, 0 for padding.
// log_mass [group] = log sum_j sizes[j] exp(l_gj): what the centroids say of the mass of all clusters. log_steady
// [group]: log of the mass of the tokens that are in no cluster, -inf where there are none; may be null but for kShare.
void RankClusters(int32_t group, std::span<const ClusterRun> runs, const ClusterScores& scores, Ranking ranking,
                  float kappa, const float* log_steady, float* importance, uint32_t* sizes, float* log_mass);

// What becomes of a cluster.
enum class Zone : uint8_t { kDropped = 0, kRetrieved = 1, kEstimated = 2 };

// An importance that no cluster falls short of.
inline constexpr float kLeastImportance = -std::numeric_limits<float>::infinity();

// Clusters of the retrieval zone.
struct Retrieved {
  int64_t clusters = 0;
  int64_t tokens = 0;
};

// Chooses the retrieval zone by threshold (no full sort): clusters in order of falling importance, ties by index, while
// the budget lasts. kTokens: whole clusters until `retrieve_budget` tokens are reached (the cluster that crosses the
// budget is still taken if at least half of it fits, and the first one always is when the budget is above 0);
// kClusters: that many clusters. Clusters whose importance is below `least` are not retrieved. Of
// those not retrieved the `estimate_clusters` best are estimated, the rest dropped.
// `importance`, `sizes` as RankClusters gives them; zones [entries], of no meaning for padding; `scratch` [entries].
Retrieved SelectClusters(int64_t entries, const float* importance, const uint32_t* sizes, BudgetUnit unit,
                         int64_t retrieve_budget, float least, int64_t estimate_clusters, Zone* zones,
                         uint32_t* scratch);

// What the estimate adds up besides the state, for the predicted output error of a query head (design: Jensen and
// variance of the estimated clusters). With weight w_j = s_j exp(l_j - m) correction_j and
// c_j = w_j^2 (exp(min(sigma_j^2, 2)) - 1) / s_j:  energy = sum c_j E|v|^2_j, weight = sum c_j, and cross = sum c_j
// u_j, where u_j is the cluster's mean value if its share of the mass is above 2^-8, else the mean value of all that is
// estimated: in a sum of squares the others weigh little.
struct ErrorState {
  float* energy = nullptr;  // [group]
  float* weight = nullptr;  // [group]
  float* cross = nullptr;   // [group, head_dim]
  float* mass = nullptr;    // [group]: sum w_j, the estimated part of the denominator relative to state.max
};

// Adds the estimate of every cluster whose zone is kEstimated to `state` (group rows). `correct` multiplies weights by
// exp(min(sigma^2/2, 1)). A cluster's mean value is read where its share w_j exp(m - log_mass) is above 2^-12; the
// others of a tile, together next to nothing, count with the tile's mean value. Where the processor multiplies bytes,
// the weights of mean values count in 16 bits: each within 2^-17 of the largest of the 64 or fewer that are summed.
// Zones and scores: the entries of `runs`. log_mass as RankClusters gives it for these and any other clusters, so that
// no logit is above it: the state's maximum is raised to it, and `errors`, in the scale of state.max throughout,
// rescaled.
void EstimateClusters(const HeadShape& shape, std::span<const ClusterRun> runs, const ClusterScores& scores,
                      const Zone* zones, const float* log_mass, bool correct, PartialState state, ErrorState errors);

void ResetErrors(const HeadShape& shape, ErrorState errors);

// Merges like MergeState; `from_max` and `into_max` are the [group] maxima of the two states BEFORE they are merged.
void MergeErrors(const HeadShape& shape, const float* from_max, const ErrorState& from, const float* into_max,
                 ErrorState into);

// Relative output error predicted for each query head, and the estimated share of the mass, both [group], from the
// merged state and its errors: e^2 = (energy - 2 o . cross + |o|^2 weight) / sum^2 / |o|^2, o = out / sum.
void PredictError(const HeadShape& shape, const PartialState& state, const ErrorState& errors, float* relative_error,
                  float* estimated_share);

// Name of the SIMD target that calls dispatch to, e.g. "AVX3_ZEN4"; static storage.
const char* SimdTargetName();

}  // namespace swell::attention

#endif  // SWELL_ATTENTION_H_
