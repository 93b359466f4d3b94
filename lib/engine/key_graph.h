// The indexes over all sealed keys of a layer: what they are built from, when they are built and extended. Those of
// FAISS are held like the graph and called by its name: all but BuildHead is the same.
//
// A graph numbers tokens from the first one behind the sinks on. It is drawn once and grows with one of the layers that
// share it; the others go on with the part that they know (LayerGraph::tokens).
#ifndef SWELL_LIB_ENGINE_KEY_GRAPH_H_
#define SWELL_LIB_ENGINE_KEY_GRAPH_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/engine/context.h"
#include "lib/engine/layer.h"
#include "swell/key_index.h"

namespace swell {

// A sample of the queries of calls of several positions, evenly spread over the positions. Any thread.
class PrefillQueries {
 public:
  explicit PrefillQueries(const Context& context);
  ~PrefillQueries();

  // Positions first .. first + n; `queries` [n, query heads, head_dim]. Without memory it keeps what it has.
  void Add(int64_t first, int64_t n, const float* queries) noexcept;
  bool empty() const;
  // Those of a KV head's group [count, head_dim], and their positions. Throws std::bad_alloc.
  void OfHead(int32_t head, std::vector<float>& queries, std::vector<int64_t>& positions) const;

 private:
  void Thin();

  const HeadShape shape_;
  const int64_t row_floats_;  // of one position
  const size_t most_;         // positions
  const std::shared_ptr<ByteBudget> budget_;
  mutable std::mutex mutex_;
  int64_t stride_ = 1;  // positions that are a multiple of it are kept
  std::vector<int64_t> positions_;
  std::vector<float> rows_;  // [positions, row_floats]
};

class KeyGraph {
 public:
  // Takes `heads`, built over the same tokens each.
  KeyGraph(std::vector<std::unique_ptr<KeyIndex>> heads, std::shared_ptr<ByteBudget> budget)
      : heads_(std::move(heads)), budget_(std::move(budget)), claimed_(heads_.front()->tokens()) {}
  ~KeyGraph() { budget_->Refund(charged_); }

  int32_t heads() const { return static_cast<int32_t>(heads_.size()); }
  KeyIndex& head(int32_t index) const { return *heads_[index]; }
  // Charges what the heads have grown by. False when the budget does not allow it.
  bool ChargeGrowth();
  // Tokens that are in it, or that a layer is adding.
  int64_t claimed() const { return claimed_.load(); }
  // True for the one layer that may add tokens from `from` on.
  bool Claim(int64_t from, int64_t to) { return claimed_.compare_exchange_strong(from, to); }

 private:
  std::vector<std::unique_ptr<KeyIndex>> heads_;
  std::shared_ptr<ByteBudget> budget_;
  std::atomic<int64_t> claimed_;
  uint64_t charged_ = 0;  // of the layer that builds or extends
};

// Keys of the first `tokens` sealed tokens of a head: whole segments' worth or less. The view is of `chunks` and of the
// layer. Throws std::bad_alloc.
KeyTable TableOfKeys(const HeadShape& shape, const Layer& layer, const SequenceOptions& options, int32_t head,
                     int64_t tokens, std::vector<KeyChunk>& chunks);

// Builds or extends the graph of a layer where that is due: with all threads, returning when it is there, or in the
// background. Failures leave the answers to the other index; they are counted and logged. The sequence must not be
// locked by the caller.
void DrawGraphNow(Context& context, Sequence& sequence, int32_t layer);
void DrawGraphLater(Context& context, const std::shared_ptr<Sequence>& sequence, int32_t layer);

// Of a layer without tokens. Throws std::bad_alloc.
LayerGraph NoGraphYet(const Context& context, const SequenceOptions& options);

// For a layer that is cut to `length` tokens: lets its graph go when it knows tokens that are gone. Throws
// std::bad_alloc.
void CutGraph(const Context& context, const SequenceOptions& options, int64_t length, LayerGraph& graph);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_KEY_GRAPH_H_
