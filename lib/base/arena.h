// The threads of an engine: a oneTBB arena for work that a caller waits for, and a few threads for work nobody waits
// for.
//
// A body given to ParallelFor must not take a lock that a caller of ParallelFor may hold: while it waits, a thread may
// run bodies of other callers.
#ifndef SWELL_LIB_BASE_ARENA_H_
#define SWELL_LIB_BASE_ARENA_H_

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <functional>
#include <memory>

namespace swell {

class Arena {
 public:
  // `threads` <= 0: all that this process may use. Throws std::bad_alloc or std::system_error.
  explicit Arena(int threads);
  // Runs what is queued to its end.
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  int threads() const;

  // Calls body(0) .. body(count - 1), in any order, on several threads; the calling thread takes part. A body may call
  // it again: threads that wait for the outer bodies help with the inner ones. Exceptions of a body reach the caller.
  void ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> body);

  // Runs `job` later on a background thread; jobs start in the order of the calls. `job` must not throw.
  void Enqueue(std::function<void()> job);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swell

#endif  // SWELL_LIB_BASE_ARENA_H_
