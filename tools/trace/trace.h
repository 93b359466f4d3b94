// Traces: the keys, values and queries of some layers of a model that read and continued a text, in one file.
//
// docs/trace_format.md says what stands where. A Trace is a view of a file's bytes, which it owns or maps: large traces
// are read as they are used. Immutable: any thread may use it; copies share the bytes. A mapped file must not be
// shortened meanwhile.
#ifndef SWELL_TOOLS_TRACE_TRACE_H_
#define SWELL_TOOLS_TRACE_TRACE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "swell/status.h"
#include "swell/types.h"

namespace swell::trace {

struct TraceShape {
  DType dtype = DType::kFloat16;  // of keys and values: float32, float16 or bfloat16
  int32_t kv_heads = 0;           // 1..1024
  int32_t query_heads = 0;        // a multiple of kv_heads; head h belongs to KV head h / (query_heads / kv_heads)
  int32_t head_dim = 0;           // 16..256, multiple of 16
  float scale = 0;                // of q . k
  int64_t prefill_tokens = 0;     // of the text that was read
  int64_t decode_steps = 0;       // tokens put one by one after it

  std::vector<int64_t> layers;             // of the model, ascending
  std::vector<int64_t> prefill_positions;  // whose queries the trace has, ascending

  int64_t tokens() const { return prefill_tokens + decode_steps; }
  int64_t queries() const { return static_cast<int64_t>(prefill_positions.size()) + decode_steps; }
};

// What a file begins with, checked: kInvalidArgument names what is out of range.
Result<std::string> EncodeHeader(const TraceShape& shape);

// For a valid shape: bytes of one layer's keys (its values have as many), of its queries, and of the whole file.
int64_t RowsBytes(const TraceShape& shape);
int64_t QueriesBytes(const TraceShape& shape);
int64_t FileBytes(const TraceShape& shape);

struct TraceLayer {
  std::span<const std::byte> keys;    // [tokens, kv_heads, head_dim], rope applied
  std::span<const std::byte> values;  // the same shape
  std::span<const float> queries;     // [queries, query_heads, head_dim]: prefill_positions, then the decoded tokens
};

class Trace {
 public:
  // kNotFound, kPermissionDenied or kUnavailable when the file cannot be read; otherwise as Parse, with its name.
  static Result<Trace> Open(const std::string& path);
  // kDataLoss says what is wrong; kUnimplemented names a version that this reader does not know.
  static Result<Trace> Parse(std::vector<std::byte> file);

  const TraceShape& shape() const { return shape_; }
  TraceLayer layer(int64_t index) const;  // of shape().layers

 private:
  static Result<Trace> Parse(std::shared_ptr<const std::byte> file, size_t bytes);

  std::shared_ptr<const std::byte> file_;
  size_t header_bytes_ = 0;
  TraceShape shape_;
};

}  // namespace swell::trace

#endif  // SWELL_TOOLS_TRACE_TRACE_H_
