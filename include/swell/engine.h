// The engine: sequences of keys and values, and attention over them.
//
// Threads: every method may be called from any thread, concurrently. Calls on different sequences run in parallel. On
// the same sequence, put / truncate / release / fork are serialised; attend, search and fetch work on the snapshot that
// they find when they start. Work runs in the engine's own arena; the calling thread takes part.
//
// Errors: a failed call changes nothing in the engine, and a bad argument writes nothing at all. When memory is refused
// or output_dtype overflows on the way, rows of that item's output may have been written. In a batch each item has a
// status of its own; other items are not affected. Nothing throws, prints, aborts or exits.
#ifndef SWELL_ENGINE_H_
#define SWELL_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "swell/index.h"
#include "swell/key_index.h"
#include "swell/status.h"
#include "swell/types.h"

namespace swell {

// Shape of a model's attention; all layers are alike.
struct ModelShape {
  int32_t layers = 0;    // 1..4096
  int32_t kv_heads = 0;  // 1..1024
  int32_t group = 1;     // query heads per KV head, 1..16
  int32_t head_dim = 0;  // 16..256, multiple of 16
  float scale = 0;       // of q . k; 0: 1/sqrt(head_dim)
  DType storage = DType::kFloat16;
};

struct EngineOptions {
  ModelShape shape;
  int32_t threads = 0;             // of the arena; 0: all that this process may use
  uint64_t host_budget_bytes = 0;  // for keys, values and indexes; 0: no limit
  bool deterministic = false;  // results independent of threads and timing: put and truncate seal before they return
  // > 0: of every head, the 1st, 2nd, 4th, 8th ... and then every so many-th retrieving call is computed again exactly,
  // in the background (at once when deterministic), to calibrate the predicted error; one at a time, a call that meets
  // another one leaves its turn to the head's next. An audit under way keeps the rows it reads; 0: none.
  int64_t audit_interval = 0;
  // Builds the index over all keys of a KV head for a kind of FAISS (BuildFaissIndexOfKind of swell/faiss_index.h),
  // from any thread; empty: sequences of these kinds are refused (kUnimplemented).
  std::function<Result<std::unique_ptr<KeyIndex>>(IndexKind, const KeyTable&)> faiss;
  // Called for warnings (a background build that failed, ...), from any thread; may be empty. Must not call the engine.
  std::function<void(const std::string&)> log;
};

// A budget of its own for some heads. -1 means every layer or every KV head; later entries win.
struct BudgetOverride {
  int32_t layer = -1;
  int32_t kv_head = -1;
  float retrieve_share = 0;  // replaces RetrievalOptions::retrieve_share, (0, 1]
};

// What attention reads exactly, what it estimates, what it drops. With an index that FindsTokens the budget, at most 1
// / retrieve_above tokens, buys the best single tokens of the group's query heads in turn, each is taken out of its
// cluster, and what is left of the clusters is estimated: `unit`, `ranking`, `open_share` and `max_open_tokens` have no
// say.
struct RetrievalOptions {
  BudgetUnit unit = BudgetUnit::kTokens;
  // Clusters are read of which a token may hold more than this share of the attention mass of a query head, as far as
  // the budget below reaches; [0, 1), needs Ranking::kShare when above 0. 0: until the budget is spent.
  float retrieve_above = 0.0025F;
  float retrieve_share = 0.16F;         // (0, 1] of the clustered tokens (or clusters) of a KV head
  int64_t retrieve_tokens = 0;          // > 0: fixed number of tokens instead of the share
  int64_t max_retrieve_tokens = 16384;  // > 0: ceiling on either
  // Clusters are scored where their super-cluster is opened: (0, 1] of the clustered tokens, at least four times those
  // that are read; a super-cluster that stays closed is estimated as one cluster. 1 scores every cluster.
  float open_share = 1.0F;
  int64_t max_open_tokens = 262144;  // > 0: ceiling on the tokens that open_share opens
  float estimate_share = 1.0F;       // [0, 1] of all clusters: how many of those not read are estimated
  Ranking ranking = Ranking::kShare;
  float kappa = 2.0F;           // weight of sigma in the ranking, >= 0; docs/measurements.md, "Ablation"
  bool correct = true;          // second-order correction of the estimate
  int64_t floor_tokens = 1024;  // contexts up to so many tokens are read whole; the budget reaches as far in any case
  std::vector<BudgetOverride> overrides;
};

struct SequenceOptions {
  IndexOptions index;
  RetrievalOptions retrieval;
  int32_t sink_tokens = 4;     // first tokens, always exact; 0..1024
  int32_t window_tokens = 64;  // latest tokens, always exact; 0..65536
  int32_t seal_tokens = 512;   // tail beyond the window is sealed in runs of this many; 16..65536
  int32_t segment_tokens =
      2048;  // sealed runs are compacted to segments of this many; multiple of seal_tokens, <= 65536
};

// Named settings: "swell" (the defaults) and "retroinfer" (the paper's: 16 tokens a cluster, 1.8 % of the clusters
// read, 23.2 % estimated, the rest dropped, its ranking, no correction, no floor). kNotFound for another name.
Result<SequenceOptions> SequencePreset(const std::string& name);

// Rows of keys or values as a caller holds them: element (token, head, dim) is at
// data + token * token_stride + head * head_stride + dim, strides in elements; 0 strides mean dense [tokens, kv_heads,
// head_dim].
struct RowsView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  const float* scales = nullptr;  // [tokens, kv_heads] when dtype is kInt8
};

// Tokens of one layer of one sequence, appended at `position`, which must be the layer's present length (kOutOfOrder).
// float32, float16 and bfloat16 are converted to the storage dtype, rounding to nearest; int8 is taken as it is and
// needs int8 storage. NaN, Inf, and numbers that the storage dtype cannot hold are refused (kNonFinite).
struct PutItem {
  SequenceId sequence = SequenceId::kNone;
  int64_t position = 0;
  int64_t tokens = 0;
  RowsView keys;
  RowsView values;
};

enum class AttendMode : int32_t {
  kRetrieve = 0,  // the sequence's index and retrieval options
  kExact = 1,     // every visible token
};

// What one (query position, query head) was answered from.
struct Certificate {
  int64_t tokens_visible = 0;
  int64_t tokens_read = 0;    // exactly, by this head's KV head
  int64_t bytes_read = 0;     // keys, values and meta index, by this head's KV head
  float estimated_share = 0;  // of the softmax mass
  // Relative error of the output, |o - exact| / |exact|, predicted: 0 or at least kLeastPredictedError.
  float predicted_error = 0;
};

// Errors below are rounding, of outputs in half precision say: they are neither predicted nor told apart.
inline constexpr float kLeastPredictedError = 1e-3F;

// With IndexKind::kGraph, calls of several positions are where the graph gets its queries from; the first retrieving
// call of one position after them has it built, in the background unless EngineOptions::deterministic. Without it, and
// while it lacks more than two segments, answers are those of kWave; sealed tokens that it lacks are read otherwise.
// FAISS's indexes are built and extended likewise, and need no queries.
//
// Attention of the last `n_queries` positions of one layer of one sequence: query i sees the tokens
// 0 .. length - n_queries + i. n_queries is 1 while decoding, more for a prefill chunk or speculative tokens.
struct AttendItem {
  SequenceId sequence = SequenceId::kNone;
  int64_t n_queries = 1;
  AttendMode mode = AttendMode::kRetrieve;
  const RetrievalOptions* retrieval = nullptr;  // replaces the sequence's for this call; null: the sequence's
  const void* queries = nullptr;                // [n_queries, kv_heads * group, head_dim], dense
  DType query_dtype = DType::kFloat32;          // float32, float16 or bfloat16
  void* output = nullptr;                       // [n_queries, kv_heads * group, head_dim], dense
  DType output_dtype = DType::kFloat32;         // float32, float16 or bfloat16
  float* lse = nullptr;                         // [n_queries, kv_heads * group], natural log; may be null
  Certificate* certificates = nullptr;          // [n_queries, kv_heads * group]; may be null
};

// The best tokens of each query head among those that the index finds (all tokens for a flat index or kExact),
// by logit, best first. Unused places hold token -1 and -inf.
struct SearchItem {
  SequenceId sequence = SequenceId::kNone;
  AttendMode mode = AttendMode::kRetrieve;
  const RetrievalOptions* retrieval = nullptr;
  const void* queries = nullptr;  // [kv_heads * group, head_dim], dense
  DType query_dtype = DType::kFloat32;
  int64_t top_k = 0;          // 1..
  int64_t* tokens = nullptr;  // [kv_heads * group, top_k]
  float* logits = nullptr;    // same shape; may be null
};

// Rows of given tokens, all KV heads, in the storage dtype exactly as stored, or converted to float32.
struct FetchItem {
  SequenceId sequence = SequenceId::kNone;
  std::span<const int64_t> tokens;  // positions, any order, repeats allowed
  DType dtype = DType::kFloat32;    // the storage dtype or kFloat32
  void* keys = nullptr;             // [tokens, kv_heads, head_dim], dense; may be null
  void* values = nullptr;           // same
  float* key_scales = nullptr;      // [tokens, kv_heads]; only with dtype kInt8, then required with keys
  float* value_scales = nullptr;
};

struct SegmentInfo {
  int64_t first_token = 0;
  int64_t tokens = 0;
  int64_t clusters = 0;      // of all KV heads
  uint64_t row_bytes = 0;    // keys and values
  uint64_t index_bytes = 0;  // order and meta index
  int64_t owners = 0;        // lists of segments that hold it; forks share one until they seal or are cut
};

struct LayerInfo {
  int64_t tokens = 0;
  int64_t sealed_tokens = 0;
  int64_t tail_tokens = 0;   // sinks not included
  int64_t graph_tokens = 0;  // sealed tokens that the graph knows, or FAISS's index
  bool sealing = false;      // a background build is under way
  std::vector<SegmentInfo> segments;
};

struct EngineStats {
  int64_t sequences = 0;
  uint64_t bytes_in_use = 0;  // rows and indexes, each shared block once
  uint64_t bytes_peak = 0;
  uint64_t budget_bytes = 0;   // 0: no limit
  int64_t tokens_put = 0;      // per layer
  int64_t attend_calls = 0;    // query positions x layers
  int64_t head_steps = 0;      // query positions x layers x KV heads
  int64_t tokens_visible = 0;  // summed over head steps
  int64_t tokens_read = 0;
  int64_t bytes_read = 0;
  int64_t segments_sealed = 0;
  int64_t segments_compacted = 0;
  // Answers (query heads) that were audited, those whose error was within a factor of 2 and 3 of the predicted one, and
  // the sum of these factors, each 1 or more.
  int64_t audited_answers = 0;
  int64_t audited_within_2 = 0;
  int64_t audited_within_3 = 0;
  double audited_factor_sum = 0;
  int64_t builds_failed = 0;  // background builds given up (memory, budget); their tokens stay exact
};

class Engine {
 public:
  // kInvalidArgument names the option that is out of range.
  static Result<std::unique_ptr<Engine>> Open(const EngineOptions& options);

  virtual ~Engine() = default;  // waits for background work; no other call may be running

  virtual const ModelShape& shape() const = 0;  // scale resolved

  virtual Result<SequenceId> CreateSequence(const SequenceOptions& options) = 0;
  // O(layers): segments, sinks and tail are shared until one side writes.
  virtual Result<SequenceId> Fork(SequenceId sequence) = 0;
  // Keeps the first `tokens` tokens of every layer that has more; the cut segment is re-opened (its tokens are exact
  // again), which takes memory before it gives any back: kResourceExhausted is possible.
  virtual Status Truncate(SequenceId sequence, int64_t tokens) = 0;
  // Memory returns when the last owner of a block has gone.
  virtual Status Release(SequenceId sequence) = 0;
  // Tokens that `layer` of `sequence` holds.
  virtual Result<int64_t> Length(SequenceId sequence, int32_t layer) const = 0;

  // Batched over sequences; a sequence may stand once in a batch. `statuses` [items], one each; the return value is the
  // first that is not ok.
  virtual Status Put(int32_t layer, std::span<const PutItem> items, std::span<Status> statuses) = 0;
  virtual Status Attend(int32_t layer, std::span<const AttendItem> items, std::span<Status> statuses) = 0;
  virtual Status Search(int32_t layer, std::span<const SearchItem> items, std::span<Status> statuses) = 0;
  virtual Status Fetch(int32_t layer, std::span<const FetchItem> items, std::span<Status> statuses) = 0;

  // Seals and compacts what is due, builds or extends the indexes over all keys, and waits for what is under way.
  virtual Status WaitSealed(SequenceId sequence) = 0;

  virtual Result<LayerInfo> Inspect(SequenceId sequence, int32_t layer) const = 0;
  virtual EngineStats Stats() const = 0;
};

}  // namespace swell

#endif  // SWELL_ENGINE_H_
