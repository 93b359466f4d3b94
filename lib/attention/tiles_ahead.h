// Asks for the small arrays of tiles that come later. They lie apart for every segment, a few cache lines each, which
// no hardware sees coming: without this, the kernels of a context of many segments mostly wait.
#ifndef SWELL_LIB_ATTENTION_TILES_AHEAD_H_
#define SWELL_LIB_ATTENTION_TILES_AHEAD_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "swell/types.h"

namespace swell::attention {

// Asks for `count` elements, into the second-level cache.
template <typename T>
void AskFor(const T* elements, int64_t count) {
  const char* at = reinterpret_cast<const char*>(elements);
  for (int64_t byte = 0; byte < count * static_cast<int64_t>(sizeof(T)); byte += 64) {
    __builtin_prefetch(at + byte, 0, 2);
  }
}

// Walks the tiles of runs.
class TileCursor {
 public:
  // `skip`: tiles that are passed over at the start.
  TileCursor(std::span<const ClusterRun> runs, int64_t skip) : runs_(runs) {
    SkipEmpty();
    for (int64_t i = 0; i < skip; ++i) Next();
  }

  // The next tile, as a run; the last one when there are no more, and none of a null view when there never was one.
  const ClusterRun& Next() {
    if (run_ < runs_.size()) {
      latest_ = {runs_[run_].view, runs_[run_].first + cluster_, kClusterTile};
      cluster_ += kClusterTile;
      SkipEmpty();
    }
    return latest_;
  }

 private:
  void SkipEmpty() {
    while (run_ < runs_.size() && cluster_ >= runs_[run_].clusters) {
      ++run_;
      cluster_ = 0;
    }
  }

  std::span<const ClusterRun> runs_;
  size_t run_ = 0;
  int64_t cluster_ = 0;
  ClusterRun latest_;
};

// Calls ask(tile), a ClusterRun, for tiles some ahead of the one that is worked on, one at a time, so that what is
// asked for comes in while others are worked on. Their views were asked for before.
template <typename Ask>
class TilesAhead {
 public:
  // Asks for the first tiles.
  TilesAhead(std::span<const ClusterRun> runs, Ask ask)
      : views_(runs, 2 * kTiles), tiles_(runs, 0), ask_(std::move(ask)) {
    for (int64_t i = 0; i < kTiles; ++i) Advance();
  }
  // To be called once for every tile that is worked on.
  void Advance() {
    AskFor(views_.Next().view, 1);
    const ClusterRun& tile = tiles_.Next();
    if (tile.view != nullptr) ask_(tile);
  }

 private:
  static constexpr int64_t kTiles = 16;

  TileCursor views_, tiles_;
  Ask ask_;
};

}  // namespace swell::attention

#endif  // SWELL_LIB_ATTENTION_TILES_AHEAD_H_
