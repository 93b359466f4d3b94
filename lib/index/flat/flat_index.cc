#include "lib/index/flat/flat_index.h"

#include <new>

#include "lib/index/validate.h"

namespace swell {
namespace {

class FlatIndex final : public SegmentIndex {
 public:
  std::span<const uint16_t> order() const override { return {}; }
  const ClusterView& clusters() const override { return none_; }
  const ClusterView& super_clusters() const override { return none_; }
  size_t bytes() const override { return sizeof(*this); }

 private:
  ClusterView none_;
};

class FlatIndexBuilder final : public IndexBuilder {
 public:
  Result<std::unique_ptr<const SegmentIndex>> Build(const HeadShape& shape,
                                                    std::span<const KvRun> tokens) const override try {
    if (Result<int64_t> count = ValidateBuild(shape, tokens); !count.ok()) return count.status();
    return std::unique_ptr<const SegmentIndex>(std::make_unique<FlatIndex>());
  } catch (const std::bad_alloc&) {
    // Short enough to be kept without an allocation.
    return Status(StatusCode::kResourceExhausted, "out of memory", StatusDetail::kNoMemory);
  }

  size_t MaxBytes(const HeadShape& /*shape*/, int64_t /*tokens*/) const override { return sizeof(FlatIndex); }
};

}  // namespace

std::unique_ptr<const IndexBuilder> MakeFlatIndexBuilder() { return std::make_unique<FlatIndexBuilder>(); }

}  // namespace swell
