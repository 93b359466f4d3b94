#include "lib/engine/head_task.h"

#include <algorithm>
#include <utility>

#include "lib/engine/retrieve.h"

namespace swell {
namespace {

// Rows of one piece: enough to outweigh the merge. One query position reads rows once, so its pieces are smaller.
constexpr int64_t kTokensPerPiece = 2048;
constexpr int64_t kTokensPerMaskedPiece = 8192;

void CopyState(int64_t rows, int64_t head_dim, const attention::PartialState& from, const attention::PartialState& to) {
  std::copy_n(from.max, rows, to.max);
  std::copy_n(from.sum, rows, to.sum);
  std::copy_n(from.out, rows * head_dim, to.out);
}

// Adds the pieces that estimate what `step` does not read.
void AddEstimates(const HeadStep& step, HeadTask& task) {
  if (step.segments.empty()) return;
  task.step = &step;
  for (const RankedLevel* level : {&step.supers, &step.clusters}) {
    for (const RankedLevel::Piece& clusters : level->Pieces()) {
      HeadTask::Piece& piece = task.pieces.emplace_back();
      piece.level = level;
      piece.clusters = clusters;
    }
  }
  if (step.residuals.count() > 0) task.pieces.emplace_back().residuals = true;
}

void RunPiece(const HeadShape& shape, HeadTask& task, int64_t index) {
  const HeadTask::Piece& piece = task.pieces[index];
  const attention::PartialState state = task.State(index);
  const int64_t rows = task.n_queries * shape.group;
  if (piece.done != nullptr) {
    CopyState(rows, shape.head_dim, piece.done->State(0), state);
  } else {
    attention::ResetState(rows, shape.head_dim, state);
  }
  if (piece.masked) {
    attention::AttendCausal(shape, task.queries, task.n_queries, task.query_stride, task.first_position, piece.runs,
                            state);
  } else {
    attention::AttendRuns(shape, task.queries, piece.runs, state);
  }
  if (task.step == nullptr) return;
  const attention::ErrorState errors = task.Errors(index);
  attention::ResetErrors(shape, errors);
  if (piece.residuals) {
    task.step->residuals.AddTo(shape, task.step->retrieval->correct, state, errors);
  }
  if (piece.level == nullptr) return;
  const RankedLevel& level = *piece.level;
  attention::EstimateClusters(shape, piece.clusters.runs, level.Scores(piece.clusters),
                              level.zones.get() + piece.clusters.first_entry, level.log_mass.data(),
                              task.step->retrieval->correct, state, errors);
}

void MergePieces(const HeadShape& shape, HeadTask& task) {
  const attention::PartialState into = task.State(0);
  for (size_t i = 1; i < task.pieces.size(); ++i) {
    const attention::PartialState from = task.State(static_cast<int64_t>(i));
    if (task.step != nullptr) {
      attention::MergeErrors(shape, from.max, task.Errors(static_cast<int64_t>(i)), into.max, task.Errors(0));
    }
    attention::MergeState(task.n_queries * shape.group, shape.head_dim, from, into);
  }
}

}  // namespace

attention::PartialState HeadTask::State(int64_t piece) const {
  float* base = states_.data() + piece * rows_ * (head_dim_ + 2);
  return {base, base + rows_, base + 2 * rows_};
}

attention::ErrorState HeadTask::Errors(int64_t piece) const {
  float* base = errors_.data() + piece * group_ * (head_dim_ + 3);
  return {base, base + group_, base + 3 * group_, base + 2 * group_};
}

void HeadTask::Allocate(const HeadShape& shape) {
  if (pieces.empty()) pieces.emplace_back();
  rows_ = n_queries * shape.group;
  group_ = shape.group;
  head_dim_ = shape.head_dim;
  states_.resize(pieces.size() * static_cast<size_t>(rows_ * (head_dim_ + 2)));
  if (step != nullptr) errors_.resize(pieces.size() * static_cast<size_t>(group_ * (head_dim_ + 3)));
}

void AddPieces(const HeadShape& shape, const std::vector<KvRun>& runs, bool masked, HeadTask& task) {
  const int64_t limit = masked ? kTokensPerMaskedPiece : kTokensPerPiece;
  int64_t room = 0;
  for (const KvRun& run : runs) {
    for (int64_t row = 0; row < run.tokens;) {
      if (room == 0) {
        task.pieces.emplace_back().masked = masked;
        room = limit;
      }
      const int64_t tokens = std::min(room, run.tokens - row);
      task.pieces.back().runs.push_back(SubRun(run, row, tokens, shape));
      room -= tokens;
      row += tokens;
    }
  }
}

void AddStep(const HeadShape& shape, const HeadStep& step, HeadTask& task) {
  if (step.steady_task.pieces.empty()) {
    AddPieces(shape, step.steady, false, task);
    AddPieces(shape, step.masked, true, task);
  } else {
    task.pieces.emplace_back().done = &step.steady_task;
  }
  AddPieces(shape, step.retrieved, false, task);
  AddEstimates(step, task);
}

void RunTask(Context& context, HeadTask& task) {
  const HeadShape shape = context.head_shape();
  task.Allocate(shape);
  context.arena.ParallelFor(static_cast<int64_t>(task.pieces.size()), [&](int64_t i) { RunPiece(shape, task, i); });
  MergePieces(shape, task);
}

}  // namespace swell
