#include "tests/support/allocations.h"

#include <execinfo.h>
#include <malloc.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

using swell::testing::RefusalPlan;
using swell::testing::Threads;

// Read by every thread while armed; written only while not armed.
RefusalPlan current;
std::atomic<bool> armed{false};
std::atomic<const char*> owner{nullptr};
thread_local char thread_mark;

std::atomic<int64_t> seen{0};
std::atomic<int64_t> refused{0};
std::atomic<int64_t> total_refused{0};
std::atomic<int64_t> live_blocks{0};
std::atomic<int64_t> live_bytes{0};

// Hashes of call stacks, open addressing; 0 is a free place.
std::array<std::atomic<uint64_t>, 1 << 14> stacks{};
std::atomic<int64_t> distinct_stacks{0};

constexpr int kStackFrames = 12;

void RememberStack() {
  void* frames[kStackFrames];
  const int count = backtrace(frames, kStackFrames);
  uint64_t hash = 14695981039346656037U;  // FNV-1a
  for (int i = 0; i < count; ++i) hash = (hash ^ reinterpret_cast<uint64_t>(frames[i])) * 1099511628211U;
  for (size_t i = 0; i < stacks.size(); ++i) {
    uint64_t expected = 0;
    std::atomic<uint64_t>& place = stacks[(hash + i) % stacks.size()];
    if (place.compare_exchange_strong(expected, hash)) distinct_stacks.fetch_add(1);
    if (expected == 0 || expected == hash) return;
  }
}

bool IsRefused() {
  if (!armed.load()) return false;
  const bool is_owner = owner.load() == &thread_mark;
  if (current.threads != Threads::kAll && (current.threads == Threads::kThis) != is_owner) return false;
  const int64_t index = seen.fetch_add(1);
  if (current.first < 0 || index < current.first) return false;
  const bool hit = current.ever_after || index == current.first ||
                   (current.second >= 0 && index == current.first + 1 + current.second);
  if (!hit) return false;
  refused.fetch_add(1);
  total_refused.fetch_add(1);
  RememberStack();
  return true;
}

void* Allocate(size_t bytes, size_t alignment) noexcept {
  if (IsRefused()) return nullptr;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (memory == nullptr) return nullptr;
  live_blocks.fetch_add(1);
  live_bytes.fetch_add(static_cast<int64_t>(malloc_usable_size(memory)));
  return memory;
}

void* AllocateOrThrow(size_t bytes, size_t alignment) {
  void* memory = Allocate(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void Free(void* memory) noexcept {
  if (memory == nullptr) return;
  live_blocks.fetch_sub(1);
  live_bytes.fetch_sub(static_cast<int64_t>(malloc_usable_size(memory)));
  std::free(memory);
}

constexpr size_t kAlignment = alignof(std::max_align_t);

}  // namespace

void* operator new(size_t bytes) { return AllocateOrThrow(bytes, kAlignment); }
void* operator new[](size_t bytes) { return AllocateOrThrow(bytes, kAlignment); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return Allocate(bytes, kAlignment); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return Allocate(bytes, kAlignment); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return AllocateOrThrow(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return AllocateOrThrow(bytes, static_cast<size_t>(alignment));
}
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete[](void* memory) noexcept { Free(memory); }
void operator delete(void* memory, size_t) noexcept { Free(memory); }
void operator delete[](void* memory, size_t) noexcept { Free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { Free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { Free(memory); }
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete[](void* memory, std::align_val_t, const std::nothrow_t&) noexcept { Free(memory); }

namespace swell::testing {

Refusals::Refusals(const RefusalPlan& plan) {
  void* frame = nullptr;
  backtrace(&frame, 1);  // loads the unwinder now rather than in the middle of a refusal
  current = plan;
  owner.store(&thread_mark);
  seen.store(0);
  refused.store(0);
  armed.store(true);
}

Refusals::~Refusals() { armed.store(false); }

int64_t AllocationsSeen() { return seen.load(); }
int64_t AllocationsRefused() { return refused.load(); }
int64_t TotalRefused() { return total_refused.load(); }
int64_t DistinctStacks() { return distinct_stacks.load(); }
LiveMemory Live() { return {live_blocks.load(), live_bytes.load()}; }

}  // namespace swell::testing
