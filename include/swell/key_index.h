// Indexes over all keys of one KV head of a sequence's layer: which tokens have the largest inner products with a
// query.
//
// Unlike a SegmentIndex, which is built from one segment and says how its rows are stored, a KeyIndex spans all
// segments, knows tokens by number alone and reads keys where a KeyTable says they lie; rows may move between two
// calls.
//
// Threads: Search may run on any number of threads, also while one thread is in Extend: it sees the tokens that were
// there when it began. Concurrent calls of Extend take turns. Errors are a Status and change nothing.
#ifndef SWELL_KEY_INDEX_H_
#define SWELL_KEY_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "swell/status.h"
#include "swell/types.h"

namespace swell {

// Keys of a power of two of tokens, the last chunk of a table perhaps of fewer.
struct KeyChunk {
  const void* keys = nullptr;      // [.., head_dim], storage dtype, dense
  const float* scales = nullptr;   // [..], only for kInt8
  const uint16_t* rows = nullptr;  // token i of the chunk is row rows[i]; null: row i
};

// Where the keys of tokens 0 .. tokens lie. A view: what it shows must stay during a call.
struct KeyTable {
  DType storage = DType::kFloat16;
  int32_t head_dim = 0;
  int64_t tokens = 0;
  int32_t chunk_bits = 30;  // token t is number t % 2^chunk_bits of chunk t / 2^chunk_bits; 0..30
  std::span<const KeyChunk> chunks;
};

// How hard a search tries, where more of either finds more, and where it begins.
struct SearchEffort {
  // graph: so many of the best candidates have their edges followed; IVF: lists probed; HNSW: efSearch; flat: not used
  int64_t pool = 128;
  int64_t visits = 8192;  // graph: most keys that a query is compared with
  // graph: tokens that the search of each query begins at, [n_queries] lists or none; those that it does not know are
  // passed over, and a query that is left without any begins at keys of the sampled queries.
  std::span<const std::span<const uint32_t>> entries = {};
};

// One token that was found; q . k is not scaled. Unused places hold token -1 and -inf.
struct FoundKey {
  int64_t token = -1;
  float product = 0;
};

class KeyIndex {
 public:
  virtual ~KeyIndex() = default;
  // Tokens that Search knows.
  virtual int64_t tokens() const = 0;
  // Bytes that the index keeps resident, keys not included unless it has copies of its own.
  virtual size_t bytes() const = 0;
  // Adds tokens tokens() .. keys.tokens. When memory is refused a first part of them may have been added: tokens()
  // says. kUnimplemented where the index is built once.
  virtual Status Extend(const KeyTable& keys) = 0;
  // found [queries, top_k], best first, ties by token; `queries` [n_queries, head_dim], finite. When `keys` holds fewer
  // than tokens() tokens, those alone are searched. Adds to *scanned, which may be null, how many
  // vectors the queries were compared with.
  virtual Status Search(const KeyTable& keys, const float* queries, int64_t n_queries, int64_t top_k,
                        const SearchEffort& effort, FoundKey* found, int64_t* scanned) const = 0;
};

// Compares a query with every key.
Result<std::unique_ptr<KeyIndex>> MakeFlatKeyIndex(const KeyTable& keys);

// Graph over keys that is drawn from queries (RetrievalAttention, arXiv 2409.10516; docs/architecture.md says how).
struct GraphOptions {
  int32_t degree = 30;         // most neighbours of a key, 8..256; 4 bytes each
  int32_t list_keys = 100;     // best keys of a sampled query that are linked, 4..1024
  int32_t reach = 12;          // two keys are candidates when their ranks in a list differ by this much at most, 1..64
  int32_t entry_queries = 64;  // sampled queries that a search is compared with first, 1..1024
  int32_t max_queries = 0;     // so many of those given are used at most, 0..65536; 0: as QueriesUsed says
};

// How many of `given` queries a graph over `keys` keys is drawn from; where the options leave it open, an eighth of the
// keys: their lists then hold a key a dozen times, and more brings nothing (docs/measurements.md).
int64_t QueriesUsed(const GraphOptions& options, int64_t keys, int64_t given);

// Queries that met the keys before, those of all query heads of the group: the graph is drawn for their like.
struct QuerySample {
  const float* queries = nullptr;    // [count, head_dim], finite
  const int64_t* visible = nullptr;  // [count]: how many keys, from the first on, each one sees; null: all
  int64_t count = 0;
};

// Fewer queries give a poorer graph, none at all one that links keys by their distance. Deterministic, on the calling
// thread; takes 8 head_dim bytes of memory a key while it runs. kInvalidArgument names what is wrong, with kNonFinite
// for NaN and Inf; kResourceExhausted when memory is refused.
Result<std::unique_ptr<KeyIndex>> BuildGraphIndex(const GraphOptions& options, const KeyTable& keys,
                                                  const QuerySample& queries);

}  // namespace swell

#endif  // SWELL_KEY_INDEX_H_
