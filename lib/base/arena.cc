#include "lib/base/arena.h"

#include <absl/cleanup/cleanup.h>
#include <oneapi/tbb/info.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(SWELL_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace swell {
namespace {

// ThreadSanitizer cannot see how oneTBB orders its tasks, for Debian's library is not instrumented. This file is not
// either, and says by hand what oneTBB guarantees: what is before ParallelFor comes before every body, and every body
// comes before what is after it, also where one throws.
class Order {
 public:
#if defined(SWELL_TSAN)
  void Release() { __tsan_release(this); }
  void Acquire() { __tsan_acquire(this); }
#else
  void Release() {}
  void Acquire() {}
#endif
};

// Whether this thread runs a body of a ParallelFor.
class Inside {
 public:
  Inside() : outer_(std::exchange(inside_, true)) {}
  ~Inside() { inside_ = outer_; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  static bool Any() { return inside_; }

 private:
  static thread_local bool inside_;
  const bool outer_;
};

thread_local bool Inside::inside_ = false;

// A tenth of the share of a processor that a thread of the default gets.
constexpr int kBackgroundNice = 10;

// Who waits for an answer goes before who builds an index: without it a step shares its processors with the builds. In
// vain where the system refuses.
void LowerPriority() {
  // On Linux this is the calling thread, not the process.
  static_cast<void>(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kBackgroundNice));
}

// Threads that work through a queue of jobs.
class BackgroundQueue {
 public:
  // Delegates, so that the destructor joins what was started when a later thread cannot be.
  explicit BackgroundQueue(int threads) : BackgroundQueue() {
    for (int i = 0; i < threads; ++i) {
      workers_.emplace_back([this] {
        LowerPriority();
        Work();
      });
    }
  }
  ~BackgroundQueue() {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  void Push(std::function<void()> job) {
    {
      std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    wake_.notify_one();
  }

 private:
  BackgroundQueue() = default;

  void Work() {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return closed_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      job();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool closed_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace

struct Arena::Impl {
  explicit Impl(int threads) : foreground(threads), background(std::max(1, threads / 4)) {}
  oneapi::tbb::task_arena foreground;
  BackgroundQueue background;
};

Arena::Arena(int threads)
    : impl_(std::make_unique<Impl>(threads > 0 ? threads : oneapi::tbb::info::default_concurrency())) {}

Arena::~Arena() = default;

int Arena::threads() const { return impl_->foreground.max_concurrency(); }

void Arena::ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> body) {
  if (count == 1) return body(0);
  if (count <= 0) return;
  Order order;
  const auto ordered = [&](int64_t i) {
    const Inside inside;
    order.Acquire();
    const absl::Cleanup done = [&] { order.Release(); };
    body(i);
  };
  const auto run = [&] { oneapi::tbb::parallel_for(int64_t{0}, count, ordered, oneapi::tbb::simple_partitioner()); };
  order.Release();
  const absl::Cleanup all_done = [&] { order.Acquire(); };
  if (Inside::Any()) {
    run();
  } else {
    // Isolation keeps a waiting caller from picking up the work of another one before its own is done. What its bodies
    // call belongs to the same work.
    impl_->foreground.execute([&] { oneapi::tbb::this_task_arena::isolate(run); });
  }
}

void Arena::Enqueue(std::function<void()> job) { impl_->background.Push(std::move(job)); }

}  // namespace swell
