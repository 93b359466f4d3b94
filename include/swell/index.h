// Indexes over the keys and values of one KV head of one segment.
//
// A builder reads the rows of a run of tokens once and returns an immutable index: in which order the rows are to be
// stored (cluster by cluster) and the meta index. Building is deterministic: the result depends on the rows and the
// options alone (and, in rounding, on whether the processor has a fused multiply-add). Builders and indexes are safe
// for concurrent use.
#ifndef SWELL_INDEX_H_
#define SWELL_INDEX_H_

#include <cstdint>
#include <memory>
#include <span>

#include "swell/status.h"
#include "swell/types.h"

namespace swell {

enum class IndexKind : int32_t {
  kFlat = 0,  // no clusters: every row is read exactly
  kWave = 1,  // k-means clusters with an 8-bit meta index (wave index, arXiv 2505.02922)
  // Clusters that are estimated, and single tokens that are read, found among all keys of a head ...
  kGraph = 2,  // ... by a graph drawn from queries (swell/key_index.h)
  kScan = 3,   // ... by comparing the query with every key: the best tokens there are, to compare others with
  // ... by FAISS, which EngineOptions::faiss brings: to compare others with
  kFaissFlat = 4,  // every key
  kFaissIvf = 5,   // k-means lists, of which a quarter is probed
  kFaissHnsw = 6,  // hierarchical navigable small world graph
};

constexpr bool IsFaiss(IndexKind kind) { return kind >= IndexKind::kFaissFlat && kind <= IndexKind::kFaissHnsw; }
// Whether an index over all keys of a KV head is built behind the sequence, and grows with it.
constexpr bool HasKeyIndex(IndexKind kind) { return kind == IndexKind::kGraph || IsFaiss(kind); }
// Whether single tokens are read in the place of whole clusters.
constexpr bool FindsTokens(IndexKind kind) { return kind == IndexKind::kScan || HasKeyIndex(kind); }

struct IndexOptions {
  IndexKind kind = IndexKind::kWave;
  int32_t cluster_tokens = 8;  // mean tokens of a cluster, 1..4096; 8 answers better than 16 at equal bytes
  int32_t iterations = 5;      // Lloyd iterations of k-means, 1..100; more change nothing measurable
};

// Immutable index of one KV head of one segment.
class SegmentIndex {
 public:
  virtual ~SegmentIndex() = default;
  // order()[r] is the offset, within the segment, of the token stored in row r; empty means row r = token r.
  virtual std::span<const uint16_t> order() const = 0;
  // The meta index; clusters == 0 when there is none. Valid as long as this object.
  virtual const ClusterView& clusters() const = 0;
  // Its upper level: super-cluster s is clusters [s * kClusterTile, (s + 1) * kClusterTile), one tile, seen as one
  // cluster.
  virtual const ClusterView& super_clusters() const = 0;
  // Bytes that this index keeps resident.
  virtual size_t bytes() const = 0;
};

class IndexBuilder {
 public:
  virtual ~IndexBuilder() = default;
  // `tokens`: rows in token order, all of shape.storage and shape.head_dim, 1..kMaxSegmentTokens in total; read only
  // during the call; `offsets` of the runs are null. kInvalidArgument on a bad shape or, with kNonFinite, when clusters
  // were to be built from NaN or Inf; kResourceExhausted when memory is refused.
  virtual Result<std::unique_ptr<const SegmentIndex>> Build(const HeadShape& shape,
                                                            std::span<const KvRun> tokens) const = 0;
  // Upper bound of SegmentIndex::bytes() for that many tokens, so that a budget can be charged first.
  virtual size_t MaxBytes(const HeadShape& shape, int64_t tokens) const = 0;
};

// kInvalidArgument names the option that is out of range.
Result<std::unique_ptr<const IndexBuilder>> MakeIndexBuilder(const IndexOptions& options);

}  // namespace swell

#endif  // SWELL_INDEX_H_
