// The trace reader on any bytes.
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "tools/trace/trace.h"

using swell::Result;
using swell::StatusCode;
using swell::trace::Trace;
using swell::trace::TraceLayer;
using swell::trace::TraceShape;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const Result<Trace> trace = Trace::Parse(std::vector<std::byte>(bytes, bytes + size));
  if (!trace.ok()) {
    SWELL_FUZZ_CHECK(trace.status().code() == StatusCode::kDataLoss ||
                     trace.status().code() == StatusCode::kUnimplemented);
    SWELL_FUZZ_CHECK(!trace.status().message().empty());
    return 0;
  }
  const TraceShape& shape = trace->shape();
  SWELL_FUZZ_CHECK(swell::trace::FileBytes(shape) == static_cast<int64_t>(size));
  SWELL_FUZZ_CHECK(EncodeHeader(shape).ok());
  size_t sum = 0;
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const TraceLayer layer = trace->layer(static_cast<int64_t>(i));
    SWELL_FUZZ_CHECK(static_cast<int64_t>(layer.keys.size()) == RowsBytes(shape));
    SWELL_FUZZ_CHECK(layer.values.size() == layer.keys.size());
    SWELL_FUZZ_CHECK(static_cast<int64_t>(layer.queries.size_bytes()) == QueriesBytes(shape));
    for (const auto part : {layer.keys, layer.values, std::as_bytes(layer.queries)}) {
      for (const std::byte byte : part) sum += std::to_integer<size_t>(byte);
    }
  }
  SWELL_FUZZ_CHECK(sum <= 255 * size);
  return 0;
}
