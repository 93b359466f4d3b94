#include "cuda/step/decode_step.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

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
  if (!std::isfinite(shape.scale)) return InvalidArgument("scale: not finite", StatusDetail::kNonFinite);
  if (options.max_batch < 1 || options.max_batch > 4096 || options.cluster_tokens < 1 || options.max_tokens < 1 ||
      options.max_tokens > int64_t{1} << 36 || options.max_sequence_tokens < 1) {
    return InvalidArgument("max_batch, max_tokens, cluster_tokens: out of range", StatusDetail::kBadSize);
  }
  return OkStatus();
}

// Room for the batches that the options allow: a quarter more clusters than the mean says, short last tiles and blocks.
PlanLimits LimitsOf(const DecodeStepOptions& options, const SequencesOptions& sequences, int32_t wanted_parts) {
  const RetrievalOptions& retrieval = options.retrieval;
  PlanLimits limits;
  limits.heads = options.max_batch * sequences.kv_heads;
  const int64_t tile_tokens = int64_t{kClusterTile} * options.cluster_tokens;
  const int64_t tiles = options.max_tokens / tile_tokens * 5 / 4 + 2 * kBlockTiles * options.max_batch;
  limits.tiles[0] = tiles * sequences.kv_heads;
  limits.tiles[1] = (tiles / 2 + 2 * kBlockTiles * options.max_batch) * sequences.kv_heads;
  float share = retrieval.retrieve_share;
  for (const BudgetOverride& entry : retrieval.overrides) share = std::max(share, entry.retrieve_share);
  const bool bounded = retrieval.unit == BudgetUnit::kTokens && retrieval.retrieve_tokens == 0;
  const double listed = bounded ? std::min(1.0, 2.0 * share + 1.0 / 16) : 1.0;
  const auto clustered = static_cast<int64_t>(std::ceil(listed * static_cast<double>(options.max_tokens)));
  const int64_t of_sequence = sequences.tail_tokens + 2 * retrieval.floor_tokens + 4 * kMaxSegmentTokens / 16;
  limits.addresses = sequences.kv_heads * (clustered + options.max_batch * of_sequence);
  limits.runs = limits.heads * 64;
  limits.parts = wanted_parts + limits.heads;
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
  step->wanted_parts_ = (two_fit ? 2 : 1) * info->multiprocessors;
  step->limits_ = LimitsOf(options, sequences->options(), step->wanted_parts_);
  const auto ctas = SelectCtas(step->limits_.heads, options.shape.head_dim);
  if (!ctas.ok()) return ctas.status();
  StepLaunch& launch = step->launch_;
  launch.head_dim = options.shape.head_dim;
  launch.heads = step->limits_.heads;
  launch.parts = step->limits_.parts;
  launch.multiprocessors = info->multiprocessors;
  launch.select_ctas = *ctas;
  for (int level = 0; level < kLevels; ++level) {
    launch.blocks[level] = static_cast<int32_t>(step->limits_.tiles[level] / kBlockTiles);
  }
  SWELL_RETURN_IF_ERROR(step->AllocatePlans());
  SWELL_RETURN_IF_ERROR(step->AllocateWorkspace());
  return step;
} catch (const std::bad_alloc&) {
  return Status(StatusCode::kResourceExhausted, "step: out of host memory", StatusDetail::kNoMemory);
}

DecodeStep::~DecodeStep() = default;

Status DecodeStep::AllocatePlans() {
  plans_.resize(static_cast<size_t>(sequences_->options().layers));
  for (LayerPlan& plan : plans_) {
    const auto place = [&](Carver& carver) {
      plan.places.size = carver.Take<PlanSize>(1);
      plan.places.heads = carver.Take<HeadPlan>(limits_.heads);
      for (int level = 0; level < kLevels; ++level) {
        plan.places.blocks[level] = carver.Take<ScoreBlock>(limits_.tiles[level] / kBlockTiles);
      }
      plan.places.parts = carver.Take<Part>(limits_.parts);
      plan.places.runs = carver.Take<TokenRun>(limits_.runs);
      plan.directory = carver.Take<void*>(limits_.tiles[0] + limits_.tiles[1]);
      return carver.bytes();
    };
    Carver counter(nullptr);
    auto memory = AllocateDevice(place(counter), "plan of a layer");
    if (!memory.ok()) return memory.status();
    plan.memory = *std::move(memory);
    Carver carver(plan.memory.get());
    place(carver);
  }
  return OkStatus();
}

Status DecodeStep::AllocateWorkspace() {
  const int64_t group = options_.shape.group;
  const auto place = [&](Carver& carver) {
    for (int level = 0; level < kLevels; ++level) {
      const int64_t tiles = limits_.tiles[level];
      LevelScores& scores = scratch_.scores[level];
      scores.logits = carver.Take<float>(tiles * group * kClusterTile);
      scores.widths = carver.Take<float>(tiles * group);
      scores.sums = carver.Take<BlockSums>(tiles / kBlockTiles * group);
      scores.keys = carver.Take<uint32_t>(tiles * kClusterTile);
      scores.selected = carver.Take<Selection>(limits_.heads);
    }
    scratch_.addresses = carver.Take<const std::byte*>(limits_.addresses);
    scratch_.opened = carver.Take<const void*>(limits_.tiles[0]);
    scratch_.list_tokens = carver.Take<int64_t>(limits_.heads);
    scratch_.states = reinterpret_cast<float*>(carver.Take<std::byte>(
        limits_.parts * static_cast<int64_t>(PartBytes(options_.shape.head_dim, options_.shape.group))));
    scratch_.arrivals = carver.Take<uint32_t>(int64_t{2} * limits_.heads);
    overflow_ = carver.Take<int32_t>(1);
    return carver.bytes();
  };
  Carver counter(nullptr);
  auto memory = AllocateDevice(place(counter), "workspace of a step");
  if (!memory.ok()) return memory.status();
  workspace_ = *std::move(memory);
  Carver carver(workspace_.get());
  place(carver);

  const RetrievalOptions& retrieval = options_.retrieval;
  scratch_.tails = sequences_->tails();
  scratch_.group = options_.shape.group;
  scratch_.is_half = options_.shape.storage == DType::kFloat16 ? 1 : 0;
  scratch_.scale =
      options_.shape.scale != 0 ? options_.shape.scale : 1.0F / std::sqrt(static_cast<float>(options_.shape.head_dim));
  scratch_.two_level = retrieval.open_share < 1 || (retrieval.max_open_tokens > 0 &&
                                                    retrieval.max_open_tokens < options_.max_sequence_tokens)
                           ? 1
                           : 0;
  scratch_.budget = {.retrieve_tokens = retrieval.retrieve_tokens,
                     .max_retrieve_tokens = retrieval.max_retrieve_tokens,
                     .floor_tokens = retrieval.floor_tokens,
                     .max_open_tokens = retrieval.max_open_tokens,
                     .open_share = retrieval.open_share,
                     .estimate_share = retrieval.estimate_share,
                     .kappa = retrieval.kappa,
                     .by_clusters = retrieval.unit == BudgetUnit::kClusters ? 1 : 0,
                     .by_mass = retrieval.ranking == Ranking::kMass ? 1 : 0,
                     .correct = retrieval.correct ? 1 : 0};
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
  PlanOptions options;
  options.kv_heads = sequences_->options().kv_heads;
  options.head_dim = options_.shape.head_dim;
  options.layer = layer;
  options.wanted_parts = wanted_parts_;
  options.retrieval = &options_.retrieval;
  options.limits = limits_;
  auto plan = MakePlan(options, sequences, to.directory);
  if (!plan.ok()) return plan.status();
  SWELL_RETURN_IF_ERROR(CopyArray(plan->heads, to.places.heads, stream));
  for (int level = 0; level < kLevels; ++level) {
    SWELL_RETURN_IF_ERROR(CopyArray(plan->blocks[level], to.places.blocks[level], stream));
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
  for (int level = 0; level < kLevels; ++level) args.blocks[level] = places.blocks[level];
  args.parts = places.parts;
  args.runs = places.runs;
  return args;
}

Status DecodeStep::Launch(int32_t layer, const DecodeCall& call, cudaStream_t stream) {
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
  for (int level = args.two_level; level >= 0; --level) {
    SWELL_RETURN_IF_ERROR(LaunchScore(args, launch, level, level == args.two_level));
    SWELL_RETURN_IF_ERROR(LaunchSelect(args, launch, level));
  }
  return LaunchAttend(args, launch);
}

}  // namespace swell::cuda
