#include <algorithm>
#include <array>
#include <condition_variable>
#include <list>
#include <mutex>
#include <new>

#include "lib/transfer/coalesce.h"
#include "swell/transfer.h"

namespace swell::transfer {

struct Ticket::Request {
  // Set once, when the request has ended.
  void End(Status with) {
    status = std::move(with);
    done.store(true, std::memory_order_release);
  }

  const void* scheduler = nullptr;
  Priority priority = Priority::kDemand;
  std::vector<CopyRange> ranges;
  uint64_t bytes = 0;
  CopyId id = 0;  // 0: waits to be started
  std::atomic<bool> done{false};
  Status status;
};

bool Ticket::done() const { return request_ != nullptr && request_->done.load(std::memory_order_acquire); }

Status Ticket::status() const {
  if (!done()) return Status(StatusCode::kFailedPrecondition, "ticket: not done");
  return request_->status;
}

struct Scheduler::Impl {
  using RequestPtr = std::shared_ptr<Ticket::Request>;
  using Queue = std::list<RequestPtr>;  // spliced, so that starting and ending allocate nothing

  Impl(const SchedulerOptions& given, CopyEngine* copier) : options(given), engine(copier) {
    const auto places = static_cast<size_t>(std::min<int64_t>(given.max_in_flight, 1024));
    done.reserve(places);
  }

  // All with `mutex` held.
  void Collect();
  void StartWaiting();
  bool StartOne(Queue& queue);
  void Pump() {
    if (!waiting_on_engine) Collect();  // else the thread that waits there will
    StartWaiting();
  }

  const SchedulerOptions options;
  CopyEngine* const engine;
  mutable std::mutex mutex;
  std::condition_variable progress;
  std::array<Queue, 2> queues;  // by priority
  Queue in_flight;
  bool waiting_on_engine = false;  // one thread is inside engine->Wait; it alone collects
  CopyId last_id = 0;
  std::vector<CopyDone> done;
  SchedulerStats stats;
};

void Scheduler::Impl::Collect() {
  done.clear();
  engine->Poll(&done);
  for (CopyDone& copy : done) {
    const auto at = std::find_if(in_flight.begin(), in_flight.end(), [&](const auto& r) { return r->id == copy.id; });
    if (at == in_flight.end()) continue;  // not ours
    if (copy.status.ok()) {
      ++stats.completed;
      stats.bytes_copied += (*at)->bytes;
    } else {
      ++stats.failed;
    }
    (*at)->End(std::move(copy.status));
    in_flight.erase(at);
  }
  if (!done.empty()) progress.notify_all();
}

// True when the front of `queue` was started or has failed for good; false when it has to wait.
bool Scheduler::Impl::StartOne(Queue& queue) {
  Ticket::Request& request = *queue.front();
  const Status status = engine->Start(last_id + 1, request.ranges);
  if (status.ok()) {
    request.id = ++last_id;
    stats.ranges_copied += static_cast<int64_t>(request.ranges.size());
    in_flight.splice(in_flight.end(), queue, queue.begin());
    return true;
  }
  // With nothing in flight there is no completion to wait for.
  if (status.code() == StatusCode::kResourceExhausted && !in_flight.empty()) return false;
  ++stats.failed;
  request.End(status);
  queue.pop_front();
  progress.notify_all();
  return true;
}

void Scheduler::Impl::StartWaiting() {
  for (const Priority priority : {Priority::kDemand, Priority::kPrefetch}) {
    Queue& queue = queues[static_cast<size_t>(priority)];
    const bool keep_a_place = priority == Priority::kPrefetch && options.max_in_flight > 1;
    const int64_t places = options.max_in_flight - (keep_a_place ? 1 : 0);
    while (!queue.empty() && static_cast<int64_t>(in_flight.size()) < places) {
      if (!StartOne(queue)) return;
    }
  }
}

Result<std::unique_ptr<Scheduler>> Scheduler::Create(const SchedulerOptions& options, CopyEngine* engine) {
  if (engine == nullptr) return InvalidArgument("engine: null", StatusDetail::kNullPointer);
  if (options.max_queued < 1) return InvalidArgument("max_queued: must be at least 1", StatusDetail::kBadSize);
  if (options.max_in_flight < 1) return InvalidArgument("max_in_flight: must be at least 1", StatusDetail::kBadSize);
  try {
    return std::unique_ptr<Scheduler>(new Scheduler(std::make_unique<Impl>(options, engine)));
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory for a scheduler", StatusDetail::kNoMemory);
  }
}

Scheduler::Scheduler(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Scheduler::~Scheduler() {
  const std::lock_guard lock(impl_->mutex);
  impl_->Collect();
  for (const auto& queue : impl_->queues) {
    for (const auto& request : queue) request->End(Status(StatusCode::kCancelled, "the scheduler was closed"));
  }
  for (const auto& request : impl_->in_flight) {
    request->End(Status(StatusCode::kAborted, "the scheduler was closed while the copy was in flight"));
  }
}

Result<Ticket> Scheduler::Submit(std::span<const CopyRange> ranges, Priority priority) {
  if (priority != Priority::kDemand && priority != Priority::kPrefetch) return InvalidArgument("priority: unknown");
  Impl::Queue entry;
  try {
    entry.push_back(std::make_shared<Ticket::Request>());
    SWELL_RETURN_IF_ERROR(Coalesce(ranges, &entry.front()->ranges));
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory for a request", StatusDetail::kNoMemory);
  }
  const Impl::RequestPtr request = entry.front();
  request->scheduler = this;
  request->priority = priority;
  for (const CopyRange& range : request->ranges) request->bytes += range.bytes;

  const std::lock_guard lock(impl_->mutex);
  impl_->Pump();
  if (static_cast<int64_t>(impl_->queues[0].size() + impl_->queues[1].size()) >= impl_->options.max_queued) {
    ++impl_->stats.refused;
    return Status(StatusCode::kResourceExhausted, "the transfer queue is full");
  }
  Impl::Queue& queue = impl_->queues[static_cast<size_t>(priority)];
  queue.splice(queue.end(), entry);
  ++impl_->stats.submitted;
  impl_->stats.ranges_requested += static_cast<int64_t>(ranges.size());
  impl_->StartWaiting();
  return Ticket(request);
}

Status Scheduler::Cancel(const Ticket& ticket) {
  const std::lock_guard lock(impl_->mutex);
  const auto& request = ticket.request_;
  if (request == nullptr || request->scheduler != this || request->id != 0 || ticket.done()) {
    return Status(StatusCode::kFailedPrecondition, "ticket: names no request that waits here");
  }
  impl_->queues[static_cast<size_t>(request->priority)].remove(request);
  request->End(Status(StatusCode::kCancelled, "the request was cancelled"));
  ++impl_->stats.cancelled;
  impl_->progress.notify_all();
  return OkStatus();
}

void Scheduler::Poll() {
  const std::lock_guard lock(impl_->mutex);
  impl_->Pump();
}

// One of the waiting threads waits on the engine and collects for all; the others wait for it.
Status Scheduler::Wait(const Ticket& ticket, Nanoseconds limit) {
  if (ticket.request_ == nullptr) return InvalidArgument("ticket: names no request");
  const Nanoseconds start = impl_->engine->Now();
  std::unique_lock lock(impl_->mutex);
  impl_->Pump();
  while (!ticket.done()) {
    const Nanoseconds spent = impl_->engine->Now() - start;
    if (spent >= limit) {
      return Status(StatusCode::kDeadlineExceeded, "the copy has not completed within the limit");
    }
    if (impl_->waiting_on_engine) {
      impl_->progress.wait_for(lock, limit - spent);
      continue;
    }
    impl_->waiting_on_engine = true;
    lock.unlock();
    impl_->engine->Wait(limit - spent);
    lock.lock();
    impl_->waiting_on_engine = false;
    impl_->Pump();
    impl_->progress.notify_all();
  }
  return ticket.status();
}

SchedulerStats Scheduler::Stats() const {
  const std::lock_guard lock(impl_->mutex);
  SchedulerStats stats = impl_->stats;
  stats.queued = static_cast<int64_t>(impl_->queues[0].size() + impl_->queues[1].size());
  stats.in_flight = static_cast<int64_t>(impl_->in_flight.size());
  return stats;
}

}  // namespace swell::transfer
