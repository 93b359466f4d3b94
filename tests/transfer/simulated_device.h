// A device that copies in simulated time: a serial link with a latency, a clock that moves when somebody waits, faults.
// A copy's bytes move at the moment of its completion.
#ifndef SWELL_TESTS_TRANSFER_SIMULATED_DEVICE_H_
#define SWELL_TESTS_TRANSFER_SIMULATED_DEVICE_H_

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "swell/transfer.h"

namespace swell::transfer {

// What happens to one copy, besides taking its time.
struct Fault {
  enum class Kind { kFail, kNever, kRefuse, kLate } kind = Kind::kFail;
  Status status = Status(StatusCode::kDataLoss, "simulated fault");  // of kFail and kRefuse
  Nanoseconds delay{0};                                              // of kLate: others overtake it
};

class SimulatedDevice final : public CopyEngine {
 public:
  static constexpr Nanoseconds kLatency{100};  // of a copy; plus one nanosecond a byte on the link

  // `faults` by the number of the start, from 0; a refused start counts.
  explicit SimulatedDevice(std::map<int64_t, Fault> faults = {}) : faults_(std::move(faults)) {}

  Status Start(CopyId id, std::span<const CopyRange> ranges) override {
    const std::lock_guard lock(mutex_);
    const auto fault = faults_.find(starts_++);
    const bool faulty = fault != faults_.end();
    if (faulty && fault->second.kind == Fault::Kind::kRefuse) return fault->second.status;
    Copy copy{id, {ranges.begin(), ranges.end()}, OkStatus()};
    link_free_ = std::max(link_free_, now_);
    for (const CopyRange& range : ranges) link_free_ += Nanoseconds(range.bytes);
    Nanoseconds end = link_free_ + kLatency;
    if (faulty && fault->second.kind == Fault::Kind::kFail) copy.status = fault->second.status;
    if (faulty && fault->second.kind == Fault::Kind::kLate) end += fault->second.delay;
    if (faulty && fault->second.kind == Fault::Kind::kNever) end = Nanoseconds::max();
    in_flight_.emplace(end, std::move(copy));
    return OkStatus();
  }

  void Poll(std::vector<CopyDone>* done) override {
    const std::lock_guard lock(mutex_);
    while (!in_flight_.empty() && in_flight_.begin()->first <= now_) {
      const Copy& copy = in_flight_.begin()->second;
      if (copy.status.ok()) {
        for (const CopyRange& range : copy.ranges) std::memcpy(range.target, range.source, range.bytes);
      }
      done->push_back({copy.id, copy.status});
      in_flight_.erase(in_flight_.begin());
    }
  }

  void Wait(Nanoseconds limit) override {
    const std::lock_guard lock(mutex_);
    if (in_flight_.empty()) return;
    now_ = std::max(now_, std::min(now_ + limit, in_flight_.begin()->first));
  }

  Nanoseconds Now() const override {
    const std::lock_guard lock(mutex_);
    return now_;
  }

  void Advance(Nanoseconds by) {
    const std::lock_guard lock(mutex_);
    now_ += by;
  }

 private:
  struct Copy {
    CopyId id = 0;
    std::vector<CopyRange> ranges;
    Status status;
  };
  mutable std::mutex mutex_;
  const std::map<int64_t, Fault> faults_;
  std::multimap<Nanoseconds, Copy> in_flight_;  // by the time of completion
  int64_t starts_ = 0;
  Nanoseconds now_{0};
  Nanoseconds link_free_{0};
};

}  // namespace swell::transfer

#endif  // SWELL_TESTS_TRANSFER_SIMULATED_DEVICE_H_
