// The wave buffer as kernels see it: the books of a cache of token records in device memory, whose home is pinned host
// memory. Pointers are device addresses.
#ifndef SWELL_CUDA_BUFFER_BUFFER_VIEW_H_
#define SWELL_CUDA_BUFFER_BUFFER_VIEW_H_

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define SWELL_HOST_DEVICE __host__ __device__
#else
#define SWELL_HOST_DEVICE
#endif

namespace swell::cuda {

// Places of a record: a slot from 0 on, or one of these, or ClaimOf.
constexpr int32_t kNotCached = -1;
constexpr int32_t kBeingClaimed = INT32_MIN;  // for moments, within a look-up
// The record is on its way to `slot` in the step that is open: to be read at home until the next step.
SWELL_HOST_DEVICE constexpr int32_t ClaimOf(int32_t slot) { return -2 - slot; }

enum class SlotState : uint8_t {
  kFree = 0,        // on the stack of free slots, or handed out in the step that is open
  kIdle = 1,        // not used since the hand passed
  kReferenced = 2,  // used since
  kForgotten = 3,   // holds nothing any more
};

struct BufferCounters {
  int32_t free;             // slots on the stack
  int32_t taken;            // asked for in the step that is open, from the top of the stack; may be more than there are
  int32_t hand;             // of the clock
  unsigned long long hits;  // token records, of those that live at home
  unsigned long long misses;
  unsigned long long admitted;
  unsigned long long evicted;
};

struct BufferView {
  const std::byte* home;  // records [home_records]
  int64_t home_records;
  std::byte* cache;     // records [slots]
  int32_t* places;      // [home_records]
  int32_t* owners;      // [slots]: the record of a slot
  SlotState* states;    // [slots]
  int32_t* free_slots;  // [slots]: a stack
  BufferCounters* counters;
  int32_t slots;  // 0: no buffer
  int32_t reserve;
  int32_t record_bytes;
};

// One token of a list: the address of its record, a multiple of 256 below 2^48; a record that is to be written to a
// slot on the way has the slot's number plus one in the other bits, the low eight and the high sixteen.
constexpr uint64_t kAddressBits = 0x0000ffffffffff00ULL;
constexpr int32_t kMaxSlots = (1 << 24) - 2;
SWELL_HOST_DEVICE constexpr uint64_t EntryOf(uint64_t address, int32_t slot) {
  const auto tag = static_cast<uint64_t>(slot) + 1;
  return address | (tag & 0xff) | tag >> 8 << 48;
}
SWELL_HOST_DEVICE constexpr int32_t SlotOfEntry(uint64_t entry) {  // -1: none
  return static_cast<int32_t>((entry >> 48 << 8) | (entry & 0xff)) - 1;
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUFFER_BUFFER_VIEW_H_
