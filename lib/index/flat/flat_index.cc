#include "lib/index/flat/flat_index.h"

#include <new>
#include <utility>

#include "lib/index/validate.h"

namespace swell {
namespace {

class FlatIndex final : public SegmentIndex {
 public:
  std::span<const uint16_t> order() const override { return {}; }
  ClusterView clusters() const override { return {}; }
  size_t bytes() const override { return sizeof(*this); }
};

class FlatIndexBuilder final : public IndexBuilder {
 public:
  Result<std::unique_ptr<const SegmentIndex>> Build(const HeadShape& shape,
                                                    std::span<const KvRun> tokens) const override {
    if (Result<int64_t> count = ValidateBuild(shape, tokens); !count.ok()) return count.status();
    std::unique_ptr<const SegmentIndex> index(new (std::nothrow) FlatIndex);
    if (index == nullptr) {
      return Status(StatusCode::kResourceExhausted, "out of memory", StatusDetail::kNoMemory);
    }
    return index;
  }

  size_t MaxBytes(const HeadShape& /*shape*/, int64_t /*tokens*/) const override { return sizeof(FlatIndex); }
};

}  // namespace

std::unique_ptr<const IndexBuilder> MakeFlatIndexBuilder() { return std::make_unique<FlatIndexBuilder>(); }

}  // namespace swell
