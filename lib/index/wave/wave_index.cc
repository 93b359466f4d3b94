#include "lib/index/wave/wave_index.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <utility>

#include "lib/base/convert.h"
#include "lib/index/validate.h"
#include "lib/index/wave/aligned.h"
#include "lib/index/wave/assign.h"
#include "lib/index/wave/kmeans.h"
#include "lib/index/wave/meta_index.h"
#include "lib/index/wave/row_math.h"
#include "lib/index/wave/super_clusters.h"

namespace swell {
namespace wave {
namespace {

class WaveIndex final : public SegmentIndex {
 public:
  explicit WaveIndex(MetaIndex meta) : meta_(std::move(meta)) {}
  std::span<const uint16_t> order() const override { return meta_.order(); }
  const ClusterView& clusters() const override { return meta_.clusters(); }
  const ClusterView& super_clusters() const override { return meta_.super_clusters(); }
  size_t bytes() const override { return sizeof(*this) + meta_.block_bytes(); }

 private:
  MetaIndex meta_;
};

// `count` stored rows as float32.
void DecodeRows(const HeadShape& shape, const void* rows, const float* scales, int64_t count, float* to) {
  if (shape.storage != DType::kInt8) {
    ConvertToFloat(shape.storage, rows, count * shape.head_dim, to);
    return;
  }
  for (int64_t row = 0; row < count; ++row) {
    const int64_t element = row * shape.head_dim;
    DecodeRow(DType::kInt8, static_cast<const int8_t*>(rows) + element, scales[row], shape.head_dim, to + element);
  }
}

bool AllFinite(const double* sums, int32_t head_dim) {
  return std::all_of(sums, sums + head_dim, [](double sum) { return std::isfinite(sum); });
}

// Centres `keys` at their mean, in units of about the largest magnitude: differences keep their accuracy when keys
// share a large mean, and squares neither overflow nor vanish. False when a key is not finite.
bool EnterFrame(int64_t tokens, int32_t head_dim, float* keys, KeyFrame* frame) {
  double sums[kMaxHeadDim];
  const float largest = ScanRows(keys, tokens, head_dim, sums);
  if (!AllFinite(sums, head_dim)) return false;
  // The reciprocal of the unit must be a normal float.
  const int exponent = largest > 0 ? std::clamp(std::ilogb(largest), -100, 126) : 0;
  frame->unit = std::ldexp(1.0, exponent);
  const float scale = std::ldexp(1.0F, -exponent);
  float shift[kMaxHeadDim];
  for (int32_t i = 0; i < head_dim; ++i) {
    frame->center[i] = static_cast<float>(sums[i] / static_cast<double>(tokens));
    shift[i] = frame->center[i] * scale;
  }
  CentreRows(keys, tokens, head_dim, scale, shift);
  return true;
}

Status NonFinite(const char* what) {
  return InvalidArgument(std::string("tokens: ") + what + " hold NaN or Inf", StatusDetail::kNonFinite);
}

class WaveIndexBuilder final : public IndexBuilder {
 public:
  WaveIndexBuilder(int32_t cluster_tokens, int32_t iterations)
      : cluster_tokens_(cluster_tokens), iterations_(iterations) {}

  Result<std::unique_ptr<const SegmentIndex>> Build(const HeadShape& shape,
                                                    std::span<const KvRun> tokens) const override try {
    Result<int64_t> count = ValidateBuild(shape, tokens);
    if (!count.ok()) return count.status();
    return BuildValid(shape, tokens, *count);
  } catch (const std::bad_alloc&) {
    // Short enough to be kept without an allocation.
    return Status(StatusCode::kResourceExhausted, "out of memory", StatusDetail::kNoMemory);
  }

  size_t MaxBytes(const HeadShape& shape, int64_t tokens) const override {
    if (!ValidateShape(shape).ok() || tokens < 1 || tokens > kMaxSegmentTokens) return 0;
    return sizeof(WaveIndex) + MetaIndex::BlockBytes(tokens, InitialClusters(tokens, cluster_tokens_), shape.head_dim);
  }

 private:
  Result<std::unique_ptr<const SegmentIndex>> BuildValid(const HeadShape& shape, std::span<const KvRun> runs,
                                                         int64_t tokens) const {
    const int32_t head_dim = shape.head_dim;
    const int64_t padded = RoundUp(tokens, kTokenBlock);
    const auto rows = AllocateAligned<float>(padded * head_dim);
    float* end = rows.get();
    for (const KvRun& run : runs) {
      DecodeRows(shape, run.keys, run.key_scales, run.tokens, end);
      end += run.tokens * head_dim;
    }
    std::fill(end, rows.get() + padded * head_dim, 0.0F);
    KeyFrame frame;
    if (!EnterFrame(tokens, head_dim, rows.get(), &frame)) return NonFinite("keys");
    const Clustering clustering =
        ClusterKeys(rows.get(), tokens, head_dim, InitialClusters(tokens, cluster_tokens_), iterations_);
    MetaIndex meta(GroupClusters(clustering, rows.get(), head_dim), frame, head_dim);
    meta.SetKeys(frame, rows.get());

    end = rows.get();
    for (const KvRun& run : runs) {
      DecodeRows(shape, run.values, run.value_scales, run.tokens, end);
      end += run.tokens * head_dim;
    }
    double sums[kMaxHeadDim];
    ScanRows(rows.get(), tokens, head_dim, sums);
    if (!AllFinite(sums, head_dim)) return NonFinite("values");
    meta.SetValues(rows.get());
    return std::unique_ptr<const SegmentIndex>(std::make_unique<WaveIndex>(std::move(meta)));
  }

  const int32_t cluster_tokens_;
  const int32_t iterations_;
};

}  // namespace
}  // namespace wave

std::unique_ptr<const IndexBuilder> MakeWaveIndexBuilder(int32_t cluster_tokens, int32_t iterations) {
  return std::make_unique<wave::WaveIndexBuilder>(cluster_tokens, iterations);
}

}  // namespace swell
