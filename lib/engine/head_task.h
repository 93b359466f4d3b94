// The work of one KV head for a block of query positions, cut into pieces that run in parallel and merge in a fixed
// order, so that the result does not depend on the number of threads.
#ifndef SWELL_LIB_ENGINE_HEAD_TASK_H_
#define SWELL_LIB_ENGINE_HEAD_TASK_H_

#include <cstdint>
#include <span>
#include <vector>

#include "lib/engine/context.h"
#include "lib/engine/ranked_level.h"
#include "swell/attention.h"

namespace swell {

// Query rows (positions x group) that one exact task works on.
constexpr int64_t kQueryRowsPerTask = 192;

struct HeadStep;

struct HeadTask {
  int64_t n_queries = 1;
  int64_t first_position = 0;      // of the first query
  const float* queries = nullptr;  // [n_queries, group, head_dim], query_stride floats between positions
  int64_t query_stride = 0;

  struct Piece {
    std::vector<KvRun> runs;             // exact, or
    const HeadTask* done = nullptr;      // what another task has found, or
    const RankedLevel* level = nullptr;  // estimate of a part of it
    RankedLevel::Piece clusters;
    bool residuals = false;  // estimate of the clusters of which some tokens are read
    bool masked = false;     // some rows may lie beyond a query's position
  };
  std::vector<Piece> pieces;
  const HeadStep* step = nullptr;  // set when there is an estimate

  // States of the pieces, one behind the other; the merged result is that of piece 0.
  attention::PartialState State(int64_t piece) const;
  attention::ErrorState Errors(int64_t piece) const;

  void Allocate(const HeadShape& shape);  // throws std::bad_alloc

 private:
  int64_t rows_ = 0;
  int64_t group_ = 0;
  int64_t head_dim_ = 0;
  mutable std::vector<float> states_;
  mutable std::vector<float> errors_;
};

// Cuts `runs` into pieces of a fixed number of tokens.
void AddPieces(const HeadShape& shape, const std::vector<KvRun>& runs, bool masked, HeadTask& task);

// Adds the pieces of a planned step: what it reads and what it estimates. `step` must outlive the task.
void AddStep(const HeadShape& shape, const HeadStep& step, HeadTask& task);

// Runs every piece and merges. Throws std::bad_alloc before anything ran.
void RunTask(Context& context, HeadTask& task);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_HEAD_TASK_H_
