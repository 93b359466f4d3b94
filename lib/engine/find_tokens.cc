#include "lib/engine/find_tokens.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <span>

#include "lib/engine/key_graph.h"
#include "lib/engine/ranked_level.h"
#include "swell/attention.h"
#include "swell/key_index.h"

namespace swell {
namespace {

// Segments of sealed tokens that an index may lack and still be used: they are read whole.
constexpr int64_t kSegmentsLacking = 2;

// What a search of the graph takes at least, and keys compared for each candidate that is kept at most.
constexpr int64_t kLeastPool = 128;
constexpr int64_t kVisitsPerCandidate = 64;

const KeyIndex& FindIndex(const HeadStep& step, const KeyTable& table, std::unique_ptr<KeyIndex>& own) {
  if (HasKeyIndex(step.sequence->index.kind)) return step.graph->graph->head(step.head);
  auto flat = MakeFlatKeyIndex(table);
  if (!flat.ok()) throw std::bad_alloc();
  own = std::move(flat).value();
  return *own;
}

SearchEffort EffortOf(IndexKind kind, int64_t tokens, int64_t top_k) {
  SearchEffort effort;
  effort.pool = std::max(kLeastPool, top_k + top_k / 4);
  effort.visits = effort.pool * kVisitsPerCandidate;
  // Lists are as many as the root of the keys: a quarter of them is probed.
  if (kind == IndexKind::kFaissIvf) effort.pool = static_cast<int64_t>(std::sqrt(static_cast<double>(tokens))) / 4 + 1;
  return effort;
}

}  // namespace

bool BeginsAtClusters(const HeadStep& step) { return step.sequence->index.kind == IndexKind::kGraph; }

std::vector<std::vector<uint32_t>> EntryTokens(const HeadStep& step, int32_t group) {
  const RankedLevel& level = step.clusters;
  const int64_t origin = step.segments.front().rows.first_token;
  const auto entries = static_cast<size_t>(level.entries);
  const std::vector<uint32_t> sizes(entries, 1);  // clusters are counted; padding is scored below all of them
  std::vector<attention::Zone> zones(entries);
  std::vector<uint32_t> scratch(entries);
  std::vector<std::vector<uint32_t>> tokens(static_cast<size_t>(group));
  for (int32_t g = 0; g < group; ++g) {
    attention::SelectClusters(level.entries, &level.logits[g * level.entries], sizes.data(), BudgetUnit::kClusters,
                              kEntryClusters, attention::kLeastImportance, level.entries, zones.data(), scratch.data());
    ForEachRetrieved(level.runs, zones.data(), [&](size_t r, int64_t first, int64_t last) {
      const uint32_t* first_rows = level.runs[r].view->first_rows + level.runs[r].first;
      const KvRun& rows = step.segments[level.segments[r]].rows;
      for (uint32_t row = first_rows[first]; row < first_rows[last]; ++row) {
        tokens[g].push_back(static_cast<uint32_t>(rows.first_token - origin + rows.offsets[row]));
      }
    });
  }
  return tokens;
}

std::optional<int64_t> TokensKnown(const HeadStep& step) {
  const SequenceOptions& options = *step.sequence;
  const int64_t sealed = step.layer->sealed_end - options.sink_tokens;
  if (options.index.kind == IndexKind::kScan) return sealed;
  if (!HasKeyIndex(options.index.kind) || step.graph->graph == nullptr) return std::nullopt;
  if (sealed - step.graph->tokens > kSegmentsLacking * options.segment_tokens) return std::nullopt;
  return std::min(sealed, step.graph->tokens);  // tokens that it knows may be in the tail again
}

std::vector<int64_t> FindTokens(const HeadShape& shape, HeadStep& step) {
  const ClusteredSegment& last = step.segments.back();
  const int64_t origin = step.segments.front().rows.first_token;
  const int64_t known = last.rows.first_token + last.rows.tokens - origin;
  if (step.budget.tokens >= known) {
    std::vector<int64_t> all(static_cast<size_t>(known));
    std::iota(all.begin(), all.end(), origin);
    return all;
  }
  std::vector<KeyChunk> chunks;
  const KeyTable table = TableOfKeys(shape, *step.layer, *step.sequence, step.head, known, chunks);
  std::unique_ptr<KeyIndex> own;
  const KeyIndex& index = FindIndex(step, table, own);
  // Heads of a group share tokens, so each brings twice its part.
  const int64_t top_k = std::min({known, step.budget.tokens, 2 * (step.budget.tokens / shape.group + 1)});
  SearchEffort effort = EffortOf(step.sequence->index.kind, known, top_k);
  std::vector<std::vector<uint32_t>> begins;
  if (BeginsAtClusters(step)) begins = EntryTokens(step, shape.group);
  const std::vector<std::span<const uint32_t>> entries(begins.begin(), begins.end());
  effort.entries = entries;
  std::vector<FoundKey> found(static_cast<size_t>(shape.group * top_k));
  // What it may say is that memory was refused.
  if (!index.Search(table, step.queries, shape.group, top_k, effort, found.data(), &step.keys_compared).ok()) {
    throw std::bad_alloc();
  }
  std::vector<bool> taken(static_cast<size_t>(known));
  std::vector<int64_t> tokens;
  for (int64_t k = 0; k < top_k; ++k) {
    for (int32_t g = 0; g < shape.group; ++g) {
      const int64_t token = found[g * top_k + k].token;
      if (token < 0 || taken[token] || static_cast<int64_t>(tokens.size()) == step.budget.tokens) continue;
      taken[token] = true;
      tokens.push_back(origin + token);
    }
  }
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

}  // namespace swell
