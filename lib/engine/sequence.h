// A sequence and the table that turns ids into sequences.
#ifndef SWELL_LIB_ENGINE_SEQUENCE_H_
#define SWELL_LIB_ENGINE_SEQUENCE_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "lib/engine/layer.h"
#include "swell/engine.h"
#include "swell/index.h"

namespace swell {

// What a sequence was created with; shared by its forks.
struct SequenceConfig {
  SequenceOptions options;
  std::unique_ptr<const IndexBuilder> builder;
};

struct Sequence {
  std::shared_ptr<const SequenceConfig> config;  // immutable

  std::mutex mutex;  // guards what follows
  std::condition_variable built;
  std::vector<Layer> layers;
  std::unique_ptr<LayerGraph[]> graphs;  // [layers]; null unless the kind HasKeyIndex, and after the release
  int32_t waiting = 0;                   // callers that wait to build with all threads; a background build makes way
  bool released = false;                 // its handle is gone; a build that finds this drops its result

  // A copy that stays as it is; nothing when the handle is gone. `graph`, which may be null, gets the layer's if there
  // is one.
  std::optional<Layer> Snapshot(int32_t layer, LayerGraph* graph = nullptr) {
    std::lock_guard lock(mutex);
    if (released) return std::nullopt;
    if (graph != nullptr && graphs != nullptr) *graph = graphs[layer];
    return layers[layer];
  }
};

// Slots with generations. Generations are unique in the process, so an id of another engine is recognised as foreign.
class SequenceTable {
 public:
  SequenceId Insert(std::shared_ptr<Sequence> sequence);
  // Null when the id is stale or foreign.
  std::shared_ptr<Sequence> Find(SequenceId id) const;
  std::shared_ptr<Sequence> Remove(SequenceId id);
  int64_t size() const;

 private:
  struct Slot {
    uint32_t generation = 0;
    std::shared_ptr<Sequence> sequence;
  };
  mutable std::shared_mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
};

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_SEQUENCE_H_
