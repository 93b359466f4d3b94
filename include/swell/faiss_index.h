// FAISS's indexes as KeyIndexes: what the graph is compared with.
//
// In the library swell::index_faiss, which is built where FAISS and OpenMP are found; nothing else of Swell needs it,
// and it is not installed. Threads and errors as key_index.h says; Extend and Search take turns.
#ifndef SWELL_FAISS_INDEX_H_
#define SWELL_FAISS_INDEX_H_

#include <cstdint>
#include <memory>

#include "swell/index.h"
#include "swell/key_index.h"

namespace swell {

enum class FaissKind : int32_t {
  kIvfFlat = 0,  // k-means lists of float32 keys
  kIvfSq8 = 1,   // k-means lists of keys in 8 bits a dimension
  kHnsw = 2,     // hierarchical navigable small world graph, float32 keys
  kFlat = 3,     // every key, float32
};

struct FaissOptions {
  FaissKind kind = FaissKind::kIvfFlat;
  // IVF: lists, 1 to the number of keys, 0: sqrt(keys); HNSW: neighbours M, 2..128, 0: 32; flat: not used.
  int32_t size = 0;
};

// By inner product, with copies of the keys, on the calling thread. SearchEffort::pool is nprobe or efSearch.
Result<std::unique_ptr<KeyIndex>> BuildFaissIndex(const FaissOptions& options, const KeyTable& keys);
// For EngineOptions::faiss: with the default size.
Result<std::unique_ptr<KeyIndex>> BuildFaissIndexOfKind(IndexKind kind, const KeyTable& keys);

}  // namespace swell

#endif  // SWELL_FAISS_INDEX_H_
