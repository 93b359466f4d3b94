// What every operation of an engine works with.
#ifndef SWELL_LIB_ENGINE_CONTEXT_H_
#define SWELL_LIB_ENGINE_CONTEXT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "lib/base/arena.h"
#include "lib/engine/audit.h"
#include "lib/engine/sequence.h"
#include "swell/engine.h"
#include "swell/store.h"

namespace swell {

struct Counters {
  std::atomic<int64_t> tokens_put{0};
  std::atomic<int64_t> attend_calls{0};
  std::atomic<int64_t> head_steps{0};
  std::atomic<int64_t> tokens_visible{0};
  std::atomic<int64_t> tokens_read{0};
  std::atomic<int64_t> bytes_read{0};
  std::atomic<int64_t> segments_sealed{0};
  std::atomic<int64_t> segments_compacted{0};
  std::atomic<int64_t> builds_failed{0};
};

struct Context {
  explicit Context(const EngineOptions& engine_options)
      : options(engine_options),
        budget(std::make_shared<ByteBudget>(engine_options.host_budget_bytes)),
        audits(engine_options.shape, engine_options.audit_interval),
        arena(engine_options.threads) {}

  const EngineOptions options;  // scale resolved
  const std::shared_ptr<ByteBudget> budget;
  SequenceTable sequences;
  Counters counters;
  AuditBook audits;
  std::atomic<bool> closing{false};  // background builds end early
  Arena arena;                       // last: its threads end before what they use

  const ModelShape& shape() const { return options.shape; }
  HeadShape head_shape() const {
    return {options.shape.head_dim, options.shape.group, options.shape.scale, options.shape.storage};
  }
  int64_t query_heads() const { return int64_t{options.shape.kv_heads} * options.shape.group; }
  // Bytes of K and V of one token of one KV head.
  int64_t token_bytes() const {
    return 2 * (options.shape.head_dim * static_cast<int64_t>(DTypeSize(options.shape.storage)) +
                (options.shape.storage == DType::kInt8 ? int64_t{sizeof(float)} : 0));
  }
  void Log(const std::string& message) const {
    if (options.log) options.log(message);
  }
  // Without memory for the text, or when the callback throws, the count in the statistics must do.
  template <typename T>
  void LogFailure(const char* what, const Result<T>& failed) const noexcept {
    try {
      Log(what + failed.status().message());
    } catch (...) {
    }
  }
};

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_CONTEXT_H_
