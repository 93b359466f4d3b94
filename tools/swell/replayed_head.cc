#include "tools/swell/replayed_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace swell::cli {

// Partial state and error sums of a group.
struct ReplayedHead::State {
  explicit State(const HeadShape& shape)
      : max(shape.group),
        sum(shape.group),
        out(shape.group * shape.head_dim),
        energy(shape.group),
        weight(shape.group),
        cross(shape.group * shape.head_dim),
        mass(shape.group) {
    attention::ResetState(shape.group, shape.head_dim, partial());
    attention::ResetErrors(shape, errors());
  }
  attention::PartialState partial() { return {max.data(), sum.data(), out.data()}; }
  attention::ErrorState errors() { return {energy.data(), weight.data(), cross.data(), mass.data()}; }
  std::vector<float> max, sum, out, energy, weight, cross, mass;
};

KvRun ReplayedHead::Rows(const std::vector<std::byte>& keys, const std::vector<std::byte>& values, int64_t first,
                         int64_t tokens) const {
  const auto row = shape_.head_dim * static_cast<int64_t>(DTypeSize(shape_.storage));
  KvRun run;
  run.keys = keys.data() + first * row;
  run.values = values.data() + first * row;
  run.first_token = first;
  run.tokens = tokens;
  return run;
}

Status ReplayedHead::Cluster(const SequenceOptions& options) {
  auto builder = MakeIndexBuilder(options.index);
  if (!builder.ok()) return builder.status();
  const auto row = shape_.head_dim * static_cast<int64_t>(DTypeSize(shape_.storage));
  const int64_t end = text_tokens_ - options.window_tokens;
  for (int64_t first = sinks_; end - first >= options.seal_tokens;) {
    const int64_t whole = (end - first) / options.seal_tokens * options.seal_tokens;
    const int64_t tokens = std::min<int64_t>(options.segment_tokens, whole);
    const KvRun run = Rows(keys_, values_, first, tokens);
    auto index = (*builder)->Build(shape_, {&run, 1});
    if (!index.ok()) return index.status();
    first_rows_.push_back(static_cast<int64_t>(tokens_.size()));
    for (int64_t r = 0; r < tokens; ++r) {
      const int64_t token = first + ((*index)->order().empty() ? r : (*index)->order()[r]);
      tokens_.push_back(static_cast<uint32_t>(token));
      sorted_keys_.insert(sorted_keys_.end(), &keys_[token * row], &keys_[token * row] + row);
      sorted_values_.insert(sorted_values_.end(), &values_[token * row], &values_[token * row] + row);
    }
    segments_.push_back(*std::move(index));
    first += tokens;
  }
  if (segments_.empty()) return InvalidArgument("the trace's text is too short for a cluster");
  for (const auto& segment : segments_) {
    runs_.push_back({&segment->clusters(), 0, segment->clusters().clusters});
    entries_ += attention::TileEntries(runs_.back().clusters);
  }
  return OkStatus();
}

// Fills logits_, widths_, log_mass_, sizes_ and the step's part of importance_.
void ReplayedHead::Rank(int64_t step) {
  const attention::ClusterScores scores{logits_.data(), widths_.data(), entries_};
  attention::ScoreClusters(shape_, Queries(step), runs_, scores);
  std::vector<KvRun> steady;
  AddSteadyRuns(step, &steady);
  State state(shape_);
  attention::AttendRuns(shape_, Queries(step), steady, state.partial());
  std::vector<float> log_steady(shape_.group);
  attention::LogMassOfState(shape_.group, state.partial(), log_steady.data());
  attention::RankClusters(shape_.group, runs_, scores, retrieval_.ranking, retrieval_.kappa, log_steady.data(),
                          &importance_[step * entries_], sizes_.data(), log_mass_.data());
}

void ReplayedHead::AddSteadyRuns(int64_t step, std::vector<KvRun>* runs) const {
  const int64_t clustered_end = sinks_ + tokens();
  if (sinks_ > 0) runs->push_back(Rows(keys_, values_, 0, sinks_));
  runs->push_back(Rows(keys_, values_, clustered_end, text_tokens_ + step + 1 - clustered_end));
}

Result<std::unique_ptr<ReplayedHead>> ReplayedHead::Read(const trace::Trace& trace, int64_t layer, int32_t head,
                                                         const SequenceOptions& options, int64_t error_steps) {
  const trace::TraceShape& from = trace.shape();
  const trace::TraceLayer rows = trace.layer(layer);
  std::unique_ptr<ReplayedHead> to(new ReplayedHead());
  to->shape_ = {from.head_dim, from.query_heads / from.kv_heads, from.scale, from.dtype};
  to->retrieval_ = options.retrieval;
  to->steps_ = from.decode_steps;
  to->text_tokens_ = from.prefill_tokens;
  to->sinks_ = std::min<int64_t>(options.sink_tokens, from.prefill_tokens);
  to->error_steps_ = error_steps;
  const auto row = static_cast<int64_t>(from.head_dim * DTypeSize(from.dtype));
  for (int64_t token = 0; token < from.tokens(); ++token) {
    const int64_t at = (token * from.kv_heads + head) * row;
    to->keys_.insert(to->keys_.end(), rows.keys.begin() + at, rows.keys.begin() + at + row);
    to->values_.insert(to->values_.end(), rows.values.begin() + at, rows.values.begin() + at + row);
  }
  const int64_t width = int64_t{to->shape_.group} * from.head_dim;
  for (int64_t step = 0; step < from.decode_steps; ++step) {
    const int64_t query = static_cast<int64_t>(from.prefill_positions.size()) + step;
    const auto at = rows.queries.begin() + query * from.query_heads * from.head_dim + head * width;
    to->queries_.insert(to->queries_.end(), at, at + width);
  }
  SWELL_RETURN_IF_ERROR(to->Cluster(options));
  to->importance_.resize(to->steps_ * to->entries_);
  to->sizes_.resize(to->entries_);
  to->logits_.resize(to->shape_.group * to->entries_);
  to->widths_.resize(to->shape_.group * to->runs_.size());
  to->log_mass_.resize(to->shape_.group);
  to->preferred_.resize(to->entries_);
  to->zones_.resize(to->entries_);
  to->scratch_.resize(to->entries_);
  for (int64_t step = 0; step < to->steps_; ++step) {
    to->Rank(step);
    if (step % error_steps != 0) continue;
    std::vector<KvRun> runs = {to->Rows(to->sorted_keys_, to->sorted_values_, 0, to->tokens())};
    to->AddSteadyRuns(step, &runs);
    State state(to->shape_);
    attention::AttendRuns(to->shape_, to->Queries(step), runs, state.partial());
    to->exact_.resize(to->exact_.size() + width);
    attention::FinishState(to->shape_.group, from.head_dim, state.partial(), &*(to->exact_.end() - width), nullptr);
  }
  return to;
}

std::span<const uint32_t> ReplayedHead::Select(int64_t step, float beta, const std::function<bool(uint32_t)>& cached) {
  const float* importance = &importance_[step * entries_];
  if (beta > 0) {
    std::copy_n(importance, entries_, preferred_.data());
    int64_t entry = 0;
    for (size_t s = 0; s < runs_.size(); ++s) {
      const ClusterView& view = *runs_[s].view;
      for (int64_t j = 0; j < view.clusters; ++j) {
        if (cached(tokens_[first_rows_[s] + view.first_rows[j]])) preferred_[entry + j] += beta;
      }
      entry += attention::TileEntries(view.clusters);
    }
    importance = preferred_.data();
  }
  const auto budget = static_cast<int64_t>(std::ceil(retrieval_.retrieve_share * static_cast<double>(tokens())));
  const float least = std::log(retrieval_.retrieve_above) + beta;  // of 0: kLeastImportance
  attention::SelectClusters(entries_, importance, sizes_.data(), BudgetUnit::kTokens, budget, least, entries_,
                            zones_.data(), scratch_.data());
  selected_.clear();
  retrieved_.clear();
  int64_t entry = 0;
  for (size_t s = 0; s < runs_.size(); ++s) {
    const ClusterView& view = *runs_[s].view;
    for (int64_t j = 0; j < view.clusters; ++j) {
      if (zones_[entry + j] != attention::Zone::kRetrieved) continue;
      const int64_t first = first_rows_[s] + view.first_rows[j], last = first_rows_[s] + view.first_rows[j + 1];
      selected_.insert(selected_.end(), tokens_.begin() + first, tokens_.begin() + last);
      retrieved_.push_back(Rows(sorted_keys_, sorted_values_, first, last - first));
    }
    entry += attention::TileEntries(view.clusters);
  }
  return selected_;
}

double ReplayedHead::OutputError(int64_t step) {
  Rank(step);
  std::vector<KvRun> runs = retrieved_;
  AddSteadyRuns(step, &runs);
  State state(shape_);
  attention::AttendRuns(shape_, Queries(step), runs, state.partial());
  attention::EstimateClusters(shape_, runs_, {logits_.data(), widths_.data(), entries_}, zones_.data(),
                              log_mass_.data(), retrieval_.correct, state.partial(), state.errors());
  std::vector<float> output(shape_.group * shape_.head_dim);
  attention::FinishState(shape_.group, shape_.head_dim, state.partial(), output.data(), nullptr);
  const float* exact = &exact_[step / error_steps_ * static_cast<int64_t>(output.size())];
  double sum = 0;
  for (int64_t g = 0; g < shape_.group; ++g) {
    double difference = 0, length = 0;
    for (int64_t i = g * shape_.head_dim; i < (g + 1) * shape_.head_dim; ++i) {
      difference += std::pow(double{output[i]} - double{exact[i]}, 2);
      length += std::pow(double{exact[i]}, 2);
    }
    sum += std::sqrt(difference / std::max(length, 1e-30));
  }
  return sum / shape_.group;
}

}  // namespace swell::cli
