#include "lib/cache/eviction.h"

#include <cmath>
#include <limits>
#include <set>
#include <utility>

namespace swell::cache {
namespace {

// Doubly linked list over the slots, oldest first; entry `slots` is the ends of the list.
class Lru final : public EvictionPolicy {
 public:
  explicit Lru(int64_t slots) : end_(static_cast<Slot>(slots)), links_(slots + 1) { links_[end_] = {end_, end_}; }
  void Step() override {}
  void Admit(Slot slot) override {
    links_[slot] = {links_[end_].before, end_};
    links_[links_[slot].before].after = slot;
    links_[end_].before = slot;
  }
  void Touch(Slot slot) override {
    Remove(slot);
    Admit(slot);
  }
  void Remove(Slot slot) override {
    links_[links_[slot].before].after = links_[slot].after;
    links_[links_[slot].after].before = links_[slot].before;
  }
  Slot Victim(const std::function<bool(Slot)>& evictable) override {
    for (Slot slot = links_[end_].after; slot != end_; slot = links_[slot].after) {
      if (evictable(slot)) return slot;
    }
    return kNoSlot;
  }

 private:
  struct Link {
    Slot before = 0;
    Slot after = 0;
  };
  const Slot end_;
  std::vector<Link> links_;
};

class Clock final : public EvictionPolicy {
 public:
  explicit Clock(int64_t slots) : states_(slots, State::kEmpty) {}
  void Step() override {}
  void Admit(Slot slot) override { states_[slot] = State::kReferenced; }
  void Touch(Slot slot) override { states_[slot] = State::kReferenced; }
  void Remove(Slot slot) override { states_[slot] = State::kEmpty; }
  Slot Victim(const std::function<bool(Slot)>& evictable) override {
    // Two rounds: the first may have to clear every bit.
    for (size_t turn = 0; turn < 2 * states_.size(); ++turn) {
      const size_t at = hand_;
      hand_ = hand_ + 1 == states_.size() ? 0 : hand_ + 1;
      if (states_[at] == State::kEmpty || !evictable(static_cast<Slot>(at))) continue;
      if (states_[at] == State::kIdle) return static_cast<Slot>(at);
      states_[at] = State::kIdle;
    }
    return kNoSlot;
  }

 private:
  enum class State : uint8_t { kEmpty, kIdle, kReferenced };
  std::vector<State> states_;
  size_t hand_ = 0;
};

// Value of a slot at step T: sum over its uses t of decay^(T - t) = decay^T * sum decay^-t. The first factor is common
// to all slots, so the order needs log(sum decay^-t) alone, which no step changes and which does not overflow.
class Frequency final : public EvictionPolicy {
 public:
  Frequency(int64_t slots, double decay) : rate_(-std::log(decay)), values_(slots, kEmpty) {
    for (Slot slot = 0; slot < slots; ++slot) order_.emplace(kEmpty, slot);
  }
  void Step() override { now_ += rate_; }
  void Admit(Slot slot) override { Place(slot, now_); }
  void Touch(Slot slot) override {
    const double value = values_[slot];
    Place(slot, now_ + std::log1p(std::exp(value - now_)));  // value < now_ + log(uses): the exponent is bounded
  }
  void Remove(Slot slot) override { Place(slot, kEmpty); }
  Slot Victim(const std::function<bool(Slot)>& evictable) override {
    for (const auto& [value, slot] : order_) {
      if (value == kEmpty) break;
      if (evictable(slot)) return slot;
    }
    return kNoSlot;
  }

 private:
  static constexpr double kEmpty = std::numeric_limits<double>::infinity();
  void Place(Slot slot, double value) {
    auto node = order_.extract({values_[slot], slot});  // re-used, so nothing is allocated
    node.value().first = value;
    values_[slot] = value;
    order_.insert(std::move(node));
  }

  const double rate_;
  double now_ = 0;
  std::vector<double> values_;
  std::set<std::pair<double, Slot>> order_;  // every slot; those without a block stand last
};

}  // namespace

std::unique_ptr<EvictionPolicy> MakeEvictionPolicy(PolicyKind kind, int64_t slots, double decay) {
  switch (kind) {
    case PolicyKind::kLru:
      return std::make_unique<Lru>(slots);
    case PolicyKind::kClock:
      return std::make_unique<Clock>(slots);
    case PolicyKind::kFrequency:
      return std::make_unique<Frequency>(slots, decay);
  }
  return nullptr;
}

}  // namespace swell::cache
