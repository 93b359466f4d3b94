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

// The hand of the clock passes so many slots of a thread at once; arrays of slots are allocated up to a multiple.
constexpr int32_t kChunk = 16;

struct BufferCounters {
  int32_t free;             // slots on the stack
  int32_t taken;            // asked for in the step that is open, from the top of the stack; may be more than there are
  int32_t hand;             // of the clock
  unsigned long long hits;  // token records, of those that live at home
  unsigned long long misses;
  unsigned long long admitted;
  unsigned long long evicted;
};

struct RowScales {
  float key;
  float value;
};

struct BufferView {
  const std::byte* home;    // records [home_records], home_record_bytes each
  const RowScales* scales;  // [home_records]; null: records at home are as in device memory, else int8
  int64_t home_records;
  std::byte* cache;     // records [slots], record_bytes each
  int32_t* places;      // [home_records]
  int32_t* owners;      // [slots]: the record of a slot
  SlotState* states;    // [slots]
  int32_t* free_slots;  // [slots]: a stack
  BufferCounters* counters;
  int32_t slots;  // 0: no buffer
  int32_t reserve;
  int32_t record_bytes;
  int32_t home_record_bytes;
  float preference;  // WaveBufferOptions::preference
};

// Selection lists records by address. One that lives at home has no address in device memory but this one, which leads
// nowhere: kHomeBase + record * record_bytes.
constexpr uint64_t kHomeBase = uint64_t{1} << 62;

// What a look-up makes of the list: the address of a record in device memory, or a record at home and the slot that it
// is to be written to on the way, kNoSlot for none.
constexpr uint64_t kAtHome = uint64_t{1} << 63;
constexpr int32_t kNoSlot = -1;
SWELL_HOST_DEVICE constexpr uint64_t HomeEntry(int64_t record, int32_t slot) {
  return kAtHome | static_cast<uint64_t>(slot + 1) << 32 | static_cast<uint64_t>(record);
}
SWELL_HOST_DEVICE constexpr bool IsAtHome(uint64_t entry) { return (entry & kAtHome) != 0; }
SWELL_HOST_DEVICE constexpr int64_t RecordOfEntry(uint64_t entry) { return static_cast<uint32_t>(entry); }
SWELL_HOST_DEVICE constexpr int32_t SlotOfEntry(uint64_t entry) {
  return static_cast<int32_t>(entry >> 32 & 0x7fffffff) - 1;
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUFFER_BUFFER_VIEW_H_
