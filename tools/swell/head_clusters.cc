#include "tools/swell/head_clusters.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "swell/engine.h"

namespace swell::cli {

Result<HeadClusters> HeadClusters::Build(const KeyTable& keys) {
  const SequenceOptions defaults;
  const auto builder = MakeIndexBuilder(defaults.index);
  if (!builder.ok()) return builder.status();
  HeadClusters result;
  result.shape_ = {keys.head_dim, 1, 1.0F, keys.storage};
  result.segment_tokens_ = defaults.segment_tokens;
  const auto* rows = static_cast<const std::byte*>(keys.chunks[0].keys);
  const auto row_bytes = keys.head_dim * static_cast<int64_t>(DTypeSize(keys.storage));
  for (int64_t first = 0; first < keys.tokens; first += defaults.segment_tokens) {
    KvRun run;
    run.keys = run.values = rows + first * row_bytes;  // clusters are of keys; whatever values there are will do
    run.tokens = std::min<int64_t>(defaults.segment_tokens, keys.tokens - first);
    auto index = (*builder)->Build(result.shape_, {&run, 1});
    if (!index.ok()) return index.status();
    const ClusterView& view = (*index)->clusters();
    result.runs_.push_back({&view, 0, view.clusters});
    result.sizes_.insert(result.sizes_.end(), static_cast<size_t>(view.clusters), 1);
    result.sizes_.resize(static_cast<size_t>(attention::TileEntries(static_cast<int64_t>(result.sizes_.size()))));
    result.segments_.push_back(std::move(index).value());
  }
  result.logits_.resize(result.sizes_.size());
  result.widths_.resize(result.runs_.size());
  result.zones_.resize(result.sizes_.size());
  result.scratch_.resize(result.sizes_.size());
  return result;
}

int64_t HeadClusters::clusters() const {
  int64_t sum = 0;
  for (const ClusterRun& run : runs_) sum += run.clusters;
  return sum;
}

void HeadClusters::AppendBest(const float* query, int64_t count, std::vector<uint32_t>& tokens) {
  const auto entries = static_cast<int64_t>(sizes_.size());
  attention::ScoreClusters(shape_, query, runs_, {logits_.data(), widths_.data(), entries});
  attention::SelectClusters(entries, logits_.data(), sizes_.data(), BudgetUnit::kClusters, count,
                            attention::kLeastImportance, entries, zones_.data(), scratch_.data());
  int64_t first_entry = 0;
  for (size_t s = 0; s < segments_.size(); ++s) {
    const uint32_t* first_rows = runs_[s].view->first_rows;
    const auto first_token = static_cast<uint32_t>(static_cast<int64_t>(s) * segment_tokens_);
    for (int64_t cluster = 0; cluster < runs_[s].clusters; ++cluster) {
      if (zones_[first_entry + cluster] != attention::Zone::kRetrieved) continue;
      for (uint32_t row = first_rows[cluster]; row < first_rows[cluster + 1]; ++row) {
        tokens.push_back(first_token + segments_[s]->order()[row]);
      }
    }
    first_entry += attention::TileEntries(runs_[s].clusters);
  }
}

}  // namespace swell::cli
