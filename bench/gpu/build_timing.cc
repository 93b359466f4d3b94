#include "bench/gpu/build_timing.h"

#include <utility>

#include "bench/gpu/timing.h"
#include "cuda/build/segment_builder.h"

namespace swell::bench {

double TimeBuild(const SyntheticLayer& content, int64_t tokens, int64_t segment_tokens) {
  const auto segments = static_cast<int32_t>(tokens / segment_tokens);
  auto builder =
      cuda::SegmentBuilder::Make({.shape = SyntheticLayer::Shape(), .kv_heads = kKvHeads, .max_segments = segments});
  Check(builder.status());
  const DeviceRows rows = content.UploadRows(tokens);
  const auto build = (*builder)->Prepare({.keys = rows.keys.get(),
                                          .values = rows.values.get(),
                                          .token_stride = int64_t{kKvHeads} * kHeadDim,
                                          .head_stride = kHeadDim,
                                          .segment_tokens = segment_tokens,
                                          .segments = segments});
  Check(build.status());
  const double us = TimeGraph([&](cudaStream_t stream) { Check((*builder)->Enqueue(*build, stream)); });
  Check((*builder)->Finish(*build, nullptr).status());
  return us / 1000;
}

}  // namespace swell::bench
