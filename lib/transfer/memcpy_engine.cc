#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "swell/transfer.h"

namespace swell::transfer {
namespace {

class MemcpyEngine final : public CopyEngine {
 public:
  MemcpyEngine() : thread_([this] { Run(); }) {}

  ~MemcpyEngine() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  Status Start(CopyId id, std::span<const CopyRange> ranges) override {
    try {
      Copy copy{id, {ranges.begin(), ranges.end()}};
      const std::lock_guard lock(mutex_);
      // Room for the report first, so that the thread never allocates.
      done_.reserve(done_.size() + static_cast<size_t>(unfinished_) + 1);
      waiting_.push_back(std::move(copy));
      ++unfinished_;
    } catch (const std::bad_alloc&) {
      return Status(StatusCode::kResourceExhausted, "out of memory for a copy", StatusDetail::kNoMemory);
    }
    changed_.notify_all();
    return OkStatus();
  }

  void Poll(std::vector<CopyDone>* done) override {
    const std::lock_guard lock(mutex_);
    std::move(done_.begin(), done_.end(), std::back_inserter(*done));
    done_.clear();
  }

  void Wait(Nanoseconds limit) override {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, limit, [this] { return !done_.empty() || unfinished_ == 0; });
  }

  Nanoseconds Now() const override { return std::chrono::steady_clock::now().time_since_epoch(); }

 private:
  struct Copy {
    CopyId id = 0;
    std::vector<CopyRange> ranges;
  };

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      const Copy copy = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      for (const CopyRange& range : copy.ranges) std::memcpy(range.target, range.source, range.bytes);
      lock.lock();
      done_.push_back({copy.id, OkStatus()});
      --unfinished_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Copy> waiting_;
  std::vector<CopyDone> done_;
  int64_t unfinished_ = 0;  // started, not in done_ yet
  bool closing_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace

Result<std::unique_ptr<CopyEngine>> MakeMemcpyEngine() {
  try {
    return std::unique_ptr<CopyEngine>(std::make_unique<MemcpyEngine>());
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory for a copy engine", StatusDetail::kNoMemory);
  } catch (const std::system_error&) {
    return Status(StatusCode::kResourceExhausted, "no thread for a copy engine");
  }
}

}  // namespace swell::transfer
