// Turning a range of tokens into a sealed segment.
#ifndef SWELL_LIB_ENGINE_BUILD_H_
#define SWELL_LIB_ENGINE_BUILD_H_

#include <cstdint>
#include <memory>

#include "lib/engine/context.h"
#include "lib/engine/layer.h"

namespace swell {

// A segment on its way: memory is charged and allocated first, then each head is built on its own, on any thread.
class SegmentBuild {
 public:
  // Tokens [begin, end) of `layer`, sealed or not; the source must outlive this object.
  SegmentBuild(const Context& context, const SequenceConfig& config, const Layer& layer, int64_t begin, int64_t end)
      : context_(context),
        builder_(*config.builder),
        finds_tokens_(FindsTokens(config.options.index.kind)),
        layer_(layer),
        begin_(begin),
        end_(end) {}

  Status Start();
  // Every head exactly once; concurrent calls for different heads are allowed.
  Status BuildHead(int32_t head);
  // The segment, when every head was built.
  std::shared_ptr<const Segment> Finish();

 private:
  // Copies the rows of a head, in token order, into head 0 of `to`.
  void Gather(int32_t head, KvBlock& to) const;

  const Context& context_;
  const IndexBuilder& builder_;
  const bool finds_tokens_;
  const Layer& layer_;
  const int64_t begin_;
  const int64_t end_;
  std::shared_ptr<KvBlock> rows_;
  std::shared_ptr<Segment> segment_;
};

// Copies row `from_row` of a run, K and V and their scales, to row `to_row` of a head.
void CopyRow(const HeadShape& shape, const KvRun& from, int64_t from_row, KvBlock& to, int32_t head, int64_t to_row);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_BUILD_H_
