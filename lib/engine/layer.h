// What one sequence holds of one layer: sinks, sealed segments, tail.
//
//   tokens  0 .. sinks | sealed segments, back to back | tail, up to length
//
// A Layer is a value: copying it shares every block and costs a few pointers, which is what fork and snapshots do.
// Rows below `length` never change, so a copy may be read while the original grows.
#ifndef SWELL_LIB_ENGINE_LAYER_H_
#define SWELL_LIB_ENGINE_LAYER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "swell/engine.h"
#include "swell/index.h"
#include "swell/store.h"

namespace swell {

// Tokens of one tail block: what a fork copies at most when it first writes.
constexpr int64_t kTailBlockTokens = 128;

// Sealed, immutable run of tokens: rows in the order of the index of each KV head.
struct Segment {
  int64_t first_token = 0;
  int64_t tokens = 0;
  std::shared_ptr<const KvBlock> rows;
  std::vector<std::unique_ptr<const SegmentIndex>> heads;
  // [heads][tokens]: in which row a token lies; empty unless the sequence's index finds single tokens.
  std::vector<std::vector<uint16_t>> rows_of_tokens;
  uint64_t index_bytes = 0;  // charged to the budget until destruction
  std::shared_ptr<ByteBudget> budget;

  ~Segment();
  int64_t end() const { return first_token + tokens; }
  // All rows of a head, with their token offsets.
  KvRun Run(int32_t head) const;
};

using SegmentList = std::vector<std::shared_ptr<const Segment>>;
using BlockList = std::vector<std::shared_ptr<KvBlock>>;

struct Layer {
  int64_t length = 0;                           // tokens
  int64_t sealed_end = 0;                       // first token of the tail; the number of sinks while nothing is sealed
  int64_t tail_origin = 0;                      // token of row 0 of the first tail block, <= sealed_end
  std::shared_ptr<KvBlock> sinks;               // null when there are none
  std::shared_ptr<const SegmentList> segments;  // never null; ordered, back to back from the sinks to sealed_end
  std::shared_ptr<const BlockList> tail;        // never null
  bool building = false;                        // a background build of this layer is under way
  uint64_t epoch = 0;                           // changes when tokens are cut, so that a build notices
  int64_t retry_at = 0;                         // after a failed build: length at which to try again
};

class KeyGraph;
class PrefillQueries;

// What a sequence whose kind HasKeyIndex has besides for each layer. A value like Layer.
struct LayerGraph {
  std::shared_ptr<KeyGraph> graph;          // once it is built; forks share it
  int64_t tokens = 0;                       // sealed tokens of this layer that it knows
  std::shared_ptr<PrefillQueries> queries;  // what a graph is to be drawn from; null when none is, and for FAISS
  bool given_up = false;                    // it could not be built
  bool drawing = false;                     // it is being built or extended
};

// Appends to `runs` the rows of tokens [begin, end) that are not sealed: of the sinks and of the tail.
void AppendUnsealedRuns(const Layer& layer, int32_t head, int64_t begin, int64_t end, std::vector<KvRun>* runs);

// Every row of tokens [0, end) of a head: sinks, segments (whole ones, so rows beyond `end` may be among them) and
// tail.
std::vector<KvRun> AllRuns(const Layer& layer, int32_t head, int64_t end);

// The part of `run` from row `row` on.
KvRun SubRun(const KvRun& run, int64_t row, int64_t tokens, const HeadShape& shape);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_LAYER_H_
