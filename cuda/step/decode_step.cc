#include "cuda/step/decode_step.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "cuda/buffer/buffer_kernels.h"
#include "cuda/device/device.h"
#include "cuda/step/tail_kernels.h"

namespace swell::cuda {
namespace {

bool Misaligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 != 0; }

// Hands out arrays of a block of memory that is not there yet: first they are counted, then placed.
class Carver {
 public:
  explicit Carver(void* block) : block_(static_cast<std::byte*>(block)) {}

  template <typename T>
  T* Take(int64_t count) {
    T* place = block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + bytes_);
    bytes_ += (static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(T) + 127) / 128 * 128;
    return place;
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* block_;
  size_t bytes_ = 0;
};

Status CheckOptions(const DecodeStepOptions& options, const Sequences* sequences) {
  const HeadShape& shape = options.shape;
  if (sequences == nullptr) return InvalidArgument("sequences: null", StatusDetail::kNullPointer);
  if (shape.head_dim != sequences->options().head_dim) {
    return InvalidArgument("head_dim: differs from that of the sequences", StatusDetail::kBadSize);
  }
  if (shape.group < 1 || shape.group > kMaxGroup) {
    return InvalidArgument("group: must be 1 .. 16", StatusDetail::kBadSize);
  }
  if (shape.storage != DType::kFloat16 && shape.storage != DType::kBFloat16) {
    return InvalidArgument("storage: must be float16 or bfloat16", StatusDetail::kUnknownDType);
  }
  if (options.buffer != nullptr &&
      (options.buffer->options().head_dim != shape.head_dim || options.buffer->options().storage != shape.storage)) {
    return InvalidArgument("buffer: of another head_dim or storage", StatusDetail::kBadSize);
  }
  if (!(options.retrieval.retrieve_above >= 0) ||
      (options.retrieval.retrieve_above > 0 && options.retrieval.ranking != Ranking::kShare)) {
    return InvalidArgument("retrieval.retrieve_above: needs the ranking by shares of the mass");
  }
  if (!std::isfinite(shape.scale)) return InvalidArgument("scale: not finite", StatusDetail::kNonFinite);
  if (options.max_batch < 1 || options.max_batch > 4096 || options.cluster_tokens < 1 || options.max_tokens < 1 ||
      options.max_tokens > int64_t{1} << 36 || options.max_sequence_tokens < 1) {
    return InvalidArgument("max_batch, max_tokens, cluster_tokens: out of range", StatusDetail::kBadSize);
  }
  return OkStatus();
}

// Room for the batches that the options allow: a quarter more clusters than the mean says, and short last tiles.
PlanLimits LimitsOf(const DecodeStepOptions& options, const SequencesOptions& sequences) {
  const RetrievalOptions& retrieval = options.retrieval;
  PlanLimits limits;
  limits.heads = options.max_batch * sequences.kv_heads;
  const int64_t tile_tokens = int64_t{kClusterTile} * options.cluster_tokens;
  const int64_t tiles = options.max_tokens / tile_tokens * 5 / 4 + int64_t{32} * options.max_batch;
  limits.tiles[0] = tiles * sequences.kv_heads;
  limits.tiles[1] = (tiles / 2 + int64_t{32} * options.max_batch) * sequences.kv_heads;
  float share = retrieval.retrieve_share;
  for (const BudgetOverride& entry : retrieval.overrides) share = std::max(share, entry.retrieve_share);
  const bool bounded = retrieval.unit == BudgetUnit::kTokens && retrieval.retrieve_tokens == 0;
  const double listed = bounded ? std::min(1.0, 2.0 * share + 1.0 / 16) : 1.0;
  auto clustered = static_cast<int64_t>(std::ceil(listed * static_cast<double>(options.max_tokens)));
  if (bounded && retrieval.max_retrieve_tokens > 0) {
    clustered = std::min(clustered, options.max_batch * 2 * retrieval.max_retrieve_tokens);
  }
  const int64_t of_sequence = sequences.tail_tokens + 2 * retrieval.floor_tokens + 4 * kMaxSegmentTokens / 16;
  limits.addresses = sequences.kv_heads * (clustered + options.max_batch * of_sequence);
  limits.runs = limits.heads * 64;
  return limits;
}

template <typename T>
Status CopyArray(const std::vector<T>& from, const T* to, cudaStream_t stream) {
  if (from.empty()) return OkStatus();
  // From pageable memory: the call returns when it no longer needs `from`.
  return FromCuda(
      cudaMemcpyAsync(const_cast<T*>(to), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice, stream),
      "copy of a plan");
}

}  // namespace

Result<std::unique_ptr<DecodeStep>> DecodeStep::Make(const DecodeStepOptions& options, const Sequences* sequences) try {
  SWELL_RETURN_IF_ERROR(CheckOptions(options, sequences));
  std::unique_ptr<DecodeStep> step(new DecodeStep(options, sequences));
  int device = 0;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaGetDevice(&device), "cudaGetDevice"));
  const auto info = GetDeviceInfo(device);
  if (!info.ok()) return info.status();
  const bool two_fit = options.shape.head_dim * (options.shape.group <= 4 ? 1 : 2) <= 128;  // CTAs of a multiprocessor
  PlanOptions& planning = step->planning_;
  planning.kv_heads = sequences->options().kv_heads;
  planning.head_dim = options.shape.head_dim;
  planning.retrieval = &step->options_.retrieval;
  planning.wanted_score_parts = 4 * info->multiprocessors;
  planning.wanted_parts = (two_fit ? 2 : 1) * info->multiprocessors;
  planning.limits = LimitsOf(options, sequences->options());
  planning.limits.score_parts = planning.wanted_score_parts + planning.limits.heads;  // a head has at least one
  planning.limits.parts = planning.wanted_parts + planning.limits.heads;
  const auto ctas = SelectCtas(planning.limits.heads, options.shape.head_dim);
  if (!ctas.ok()) return ctas.status();
  StepLaunch& launch = step->launch_;
  launch.head_dim = options.shape.head_dim;
  launch.heads = planning.limits.heads;
  launch.score_parts = planning.limits.score_parts;
  launch.parts = planning.limits.parts;
  launch.select_ctas = *ctas;
  SWELL_RETURN_IF_ERROR(step->AllocatePlans());
  SWELL_RETURN_IF_ERROR(step->AllocateWorkspace());
  if (options.buffer == nullptr) return step;
  step->scratch_.buffer = options.buffer->view();
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamCreateWithFlags(&step->side_, cudaStreamNonBlocking), "cudaStreamCreate"));
  for (cudaEvent_t* event : {&step->begun_, &step->maintained_}) {
    SWELL_RETURN_IF_ERROR(FromCuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate"));
  }
  return step;
} catch (const std::bad_alloc&) {
  return Status(StatusCode::kResourceExhausted, "step: out of host memory", StatusDetail::kNoMemory);
}

DecodeStep::~DecodeStep() {
  if (side_ != nullptr) cudaStreamDestroy(side_);
  for (const cudaEvent_t event : {begun_, maintained_}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

Status DecodeStep::AllocatePlans() {
  plans_.resize(static_cast<size_t>(sequences_->options().layers));
  for (LayerPlan& plan : plans_) {
    const auto place = [&](Carver& carver) {
      plan.places.size = carver.Take<PlanSize>(1);
      plan.places.heads = carver.Take<HeadPlan>(planning_.limits.heads);
      for (int level = 0; level < kLevels; ++level) {
        plan.places.score_parts[level] = carver.Take<ScorePart>(planning_.limits.score_parts);
      }
      plan.places.parts = carver.Take<Part>(planning_.limits.parts);
      plan.places.runs = carver.Take<TokenRun>(planning_.limits.runs);
      plan.directory = carver.Take<void*>(planning_.limits.tiles[0] + planning_.limits.tiles[1]);
      return carver.bytes();
    };
    Carver counter(nullptr);
    auto memory = AllocateDevice(place(counter), "plan of a layer");
    if (!memory.ok()) return memory.status();
    plan.memory = *std::move(memory);
    Carver carver(plan.memory.get());
    place(carver);
    bytes_ += carver.bytes();
  }
  return OkStatus();
}

Status DecodeStep::AllocateWorkspace() {
  const int64_t group = options_.shape.group;
  const auto place = [&](Carver& carver) {
    for (int level = 0; level < kLevels; ++level) {
      const int64_t tiles = planning_.limits.tiles[level];
      LevelScores& scores = scratch_.scores[level];
      scores.logits = carver.Take<float>(tiles * group * kClusterTile);
      scores.widths = carver.Take<float>(tiles * group);
      scores.tops = carver.Take<float>(level == 0 ? tiles * group : 0);
      scores.shapes = carver.Take<ClusterShape>(tiles * kClusterTile);
      scores.contents = carver.Take<const void*>(tiles);
      scores.sums = carver.Take<PartSums>(planning_.limits.score_parts * group);
      scores.keys = carver.Take<uint32_t>(tiles * kClusterTile);
      scores.selected = carver.Take<Selection>(planning_.limits.heads);
    }
    scratch_.addresses = carver.Take<const std::byte*>(planning_.limits.addresses);
    scratch_.opened = carver.Take<const void*>(planning_.limits.tiles[0]);
    scratch_.list_tokens = carver.Take<int64_t>(planning_.limits.heads);
    scratch_.states = reinterpret_cast<float*>(carver.Take<std::byte>(
        planning_.limits.parts * static_cast<int64_t>(PartBytes(options_.shape.head_dim, options_.shape.group))));
    scratch_.arrivals = carver.Take<uint32_t>(int64_t{2} * planning_.limits.heads);
    overflow_ = carver.Take<int32_t>(1);
    return carver.bytes();
  };
  Carver counter(nullptr);
  auto memory = AllocateDevice(place(counter), "workspace of a step");
  if (!memory.ok()) return memory.status();
  workspace_ = *std::move(memory);
  Carver carver(workspace_.get());
  place(carver);
  bytes_ += carver.bytes();

  const RetrievalOptions& retrieval = options_.retrieval;
  scratch_.tails = sequences_->tails();
  scratch_.group = options_.shape.group;
  scratch_.is_half = options_.shape.storage == DType::kFloat16 ? 1 : 0;
  scratch_.scale =
      options_.shape.scale != 0 ? options_.shape.scale : 1.0F / std::sqrt(static_cast<float>(options_.shape.head_dim));
  const bool closes_some = retrieval.max_open_tokens > 0 && retrieval.max_open_tokens < options_.max_sequence_tokens;
  scratch_.rules = {.floor_tokens = retrieval.floor_tokens,
                    .kappa = retrieval.kappa,
                    .by_clusters = retrieval.unit == BudgetUnit::kClusters ? 1 : 0,
                    .by_mass = retrieval.ranking == Ranking::kMass ? 1 : 0,
                    .by_share = retrieval.ranking == Ranking::kShare ? 1 : 0,
                    .least = std::log(retrieval.retrieve_above),
                    .correct = retrieval.correct ? 1 : 0,
                    .two_level = retrieval.open_share < 1 || closes_some ? 1 : 0};
  return OkStatus();
}

Status DecodeStep::CheckLayer(int32_t layer) const {
  if (layer >= 0 && layer < sequences_->options().layers) return OkStatus();
  return InvalidArgument("layer: out of range", StatusDetail::kBadSize);
}

Status DecodeStep::SetBatch(int32_t layer, std::span<const int32_t> batch, cudaStream_t stream) try {
  SWELL_RETURN_IF_ERROR(CheckLayer(layer));
  std::vector<PlanSequence> sequences;
  for (const int32_t sequence : batch) {
    if (!sequences_->Has(sequence)) {
      return Status(StatusCode::kNotFound, "batch: names a sequence that is not there", StatusDetail::kStaleHandle);
    }
    if (std::count(batch.begin(), batch.end(), sequence) != 1) {
      return InvalidArgument("batch: names a sequence twice");  // their tail would grow twice
    }
    sequences.push_back({sequences_->segments(sequence, layer), sequences_->TailNumber(sequence, layer),
                         sequences_->options().tail_tokens});
  }
  LayerPlan& to = plans_[layer];
  PlanOptions options = planning_;
  options.layer = layer;
  auto plan = MakePlan(options, sequences, to.directory);
  if (!plan.ok()) return plan.status();
  SWELL_RETURN_IF_ERROR(CopyArray(plan->heads, to.places.heads, stream));
  for (int level = 0; level < kLevels; ++level) {
    SWELL_RETURN_IF_ERROR(CopyArray(plan->score_parts[level], to.places.score_parts[level], stream));
  }
  SWELL_RETURN_IF_ERROR(CopyArray(plan->parts, to.places.parts, stream));
  SWELL_RETURN_IF_ERROR(CopyArray(plan->runs, to.places.runs, stream));
  SWELL_RETURN_IF_ERROR(CopyArray(plan->tiles, const_cast<const void**>(to.directory), stream));
  return CopyArray(std::vector<PlanSize>{plan->size}, to.places.size, stream);
} catch (const std::bad_alloc&) {
  return Status(StatusCode::kResourceExhausted, "batch: out of host memory", StatusDetail::kNoMemory);
}

Status DecodeStep::Append(int32_t layer, const void* keys, const void* values, cudaStream_t stream) {
  SWELL_RETURN_IF_ERROR(CheckLayer(layer));
  if (keys == nullptr || values == nullptr) {
    return InvalidArgument("keys, values: null", StatusDetail::kNullPointer);
  }
  if (Misaligned(keys) || Misaligned(values)) {
    return InvalidArgument("keys, values: not 16-byte aligned", StatusDetail::kMisaligned);
  }
  const StepArgs& places = plans_[layer].places;
  return LaunchAppend(places.size, places.heads, sequences_->tails(), options_.max_batch,
                      sequences_->options().kv_heads, options_.shape.head_dim, keys, values, overflow_, stream);
}

Result<bool> DecodeStep::HasOverflowed(cudaStream_t stream) const {
  int32_t overflow = 0;
  SWELL_RETURN_IF_ERROR(FromCuda(
      cudaMemcpyAsync(&overflow, overflow_, sizeof(overflow), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync"));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize"));
  return overflow != 0;
}

StepArgs DecodeStep::Args(int32_t layer) const {
  StepArgs args = scratch_;
  const StepArgs& places = plans_[layer].places;
  args.size = places.size;
  args.heads = places.heads;
  for (int level = 0; level < kLevels; ++level) args.score_parts[level] = places.score_parts[level];
  args.parts = places.parts;
  args.runs = places.runs;
  return args;
}

Status DecodeStep::Launch(int32_t layer, const DecodeCall& call, cudaStream_t stream) {
  return LaunchStages(layer, call, 2 * kLevels + 2, stream);
}

Status DecodeStep::LaunchStages(int32_t layer, const DecodeCall& call, int stages, cudaStream_t stream) {
  SWELL_RETURN_IF_ERROR(CheckLayer(layer));
  if (call.queries == nullptr || call.output == nullptr) {
    return InvalidArgument("queries, output: null", StatusDetail::kNullPointer);
  }
  if (Misaligned(call.queries) || Misaligned(call.output)) {
    return InvalidArgument("queries, output: not 16-byte aligned", StatusDetail::kMisaligned);
  }
  StepArgs args = Args(layer);
  args.queries = call.queries;
  args.output = call.output;
  args.lse = call.lse;
  args.error = call.predicted_error;
  args.share = call.estimated_share;
  StepLaunch launch = launch_;
  launch.stream = stream;
  if (options_.buffer != nullptr) SWELL_RETURN_IF_ERROR(ForkMaintenance(stream));
  for (int level = args.rules.two_level; level >= 0; --level) {
    if (stages-- > 0) SWELL_RETURN_IF_ERROR(LaunchScore(args, launch, level, level == args.rules.two_level));
    if (level == 0 && args.buffer.preference > 0) SWELL_RETURN_IF_ERROR(AwaitMaintenance(stream));
    if (stages-- > 0) SWELL_RETURN_IF_ERROR(LaunchSelect(args, launch, level));
  }
  if (options_.buffer != nullptr) {
    SWELL_RETURN_IF_ERROR(AwaitMaintenance(stream));
    if (stages-- > 0) SWELL_RETURN_IF_ERROR(LaunchLookUp(args, launch));
  }
  return stages > 0 ? LaunchAttend(args, launch) : OkStatus();
}

// Ends the step before on the side stream; what reads the books next waits for it.
Status DecodeStep::ForkMaintenance(cudaStream_t stream) {
  SWELL_RETURN_IF_ERROR(FromCuda(cudaEventRecord(begun_, stream), "cudaEventRecord"));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamWaitEvent(side_, begun_, 0), "cudaStreamWaitEvent"));
  SWELL_RETURN_IF_ERROR(LaunchMaintain(options_.buffer->view(), side_));
  return FromCuda(cudaEventRecord(maintained_, side_), "cudaEventRecord");
}

Status DecodeStep::AwaitMaintenance(cudaStream_t stream) {
  return FromCuda(cudaStreamWaitEvent(stream, maintained_, 0), "cudaStreamWaitEvent");
}

}  // namespace swell::cuda
