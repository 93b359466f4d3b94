#include "lib/base/pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <new>
#include <vector>

#include "lib/base/aligned.h"

namespace swell {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// What is carved into pieces; larger requests get chunks of their own.
constexpr size_t kChunk = 16 * kHugePage;
constexpr std::align_val_t kChunkAlignment{kHugePage};
// One empty chunk is kept for so many that are in use. A prompt's rows lie in the tail before they lie in segments;
// without spares the system would have to clear the pages for both.
constexpr size_t kUsedPerSpare = 8;
// Below this a huge page brings nothing, and the heap wastes less.
constexpr size_t kSmallest = size_t{16} << 10;

constexpr size_t RoundUp(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

std::byte* MapChunk(size_t bytes) noexcept {
  void* memory = ::operator new(bytes, kChunkAlignment, std::nothrow);
  if (memory != nullptr) madvise(memory, bytes, MADV_HUGEPAGE);
  return static_cast<std::byte*>(memory);
}

void UnmapChunk(std::byte* memory) noexcept { ::operator delete(memory, kChunkAlignment); }

// A piece that nobody uses; it describes itself in its own first bytes, so that freeing needs no memory.
struct Gap {
  size_t bytes = 0;
  Gap* next = nullptr;  // at a higher address
};

// kChunk bytes and the gaps in them.
class Chunk {
 public:
  explicit Chunk(std::byte* memory) : memory_(memory), first_(new (memory) Gap{kChunk, nullptr}) {}

  std::byte* memory() const { return memory_; }
  bool empty() const { return first_ != nullptr && first_->bytes == kChunk; }

  // The first gap that is large enough; null when there is none. `bytes` is a multiple of kCacheLineBytes.
  void* Take(size_t bytes) {
    if (bytes > largest_) return nullptr;
    size_t largest = 0;
    for (Gap** at = &first_; *at != nullptr; at = &(*at)->next) {
      Gap* gap = *at;
      largest = std::max(largest, gap->bytes);
      if (gap->bytes < bytes) continue;
      if (gap->bytes > bytes) {
        *at = new (reinterpret_cast<std::byte*>(gap) + bytes) Gap{gap->bytes - bytes, gap->next};
      } else {
        *at = gap->next;
      }
      return gap;
    }
    largest_ = largest;
    return nullptr;
  }

  void Give(void* piece, size_t bytes) {
    Gap* before = nullptr;
    Gap* after = first_;
    while (after != nullptr && after < piece) {
      before = after;
      after = after->next;
    }
    Gap* gap = new (piece) Gap{bytes, after};
    if (before == nullptr) {
      first_ = gap;
    } else {
      before->next = gap;
    }
    Join(gap);
    if (before != nullptr) Join(before);
    largest_ = kChunk;
  }

 private:
  // Joins a gap with the next one where they touch.
  static void Join(Gap* gap) {
    const Gap* next = gap->next;
    if (next == nullptr || reinterpret_cast<std::byte*>(gap) + gap->bytes != reinterpret_cast<const std::byte*>(next)) {
      return;
    }
    gap->bytes += next->bytes;
    gap->next = next->next;
  }

  std::byte* memory_;
  Gap* first_;
  size_t largest_ = kChunk;  // no gap is larger
};

// All chunks of the process. A chunk holds pieces of one class: sizes between two powers of two. Pieces of the same
// kind live about as long, and one that stays does not break up the room of larger ones that go.
class Pool {
 public:
  void* Take(size_t bytes) noexcept try {
    const std::lock_guard lock(mutex_);
    std::vector<Chunk>& chunks = Class(bytes);
    for (Chunk& chunk : chunks) {
      if (void* piece = chunk.Take(bytes)) return piece;
    }
    chunks.reserve(chunks.size() + 1);
    spares_.reserve(used_ + 1);
    std::byte* memory = TakeSpare();
    if (memory == nullptr) memory = MapChunk(kChunk);
    if (memory == nullptr) return nullptr;
    ++used_;
    return chunks.insert(After(chunks, memory), Chunk(memory))->Take(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }

  void Give(void* piece, size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    std::vector<Chunk>& chunks = Class(bytes);
    const auto chunk = std::prev(After(chunks, piece));
    chunk->Give(piece, bytes);
    if (!chunk->empty()) return;
    spares_.push_back(chunk->memory());  // there is room: it was used
    chunks.erase(chunk);
    --used_;
    while (spares_.size() > used_ / kUsedPerSpare) UnmapChunk(TakeSpare());
    if (chunks.empty()) std::vector<Chunk>().swap(chunks);
    if (used_ == 0) std::vector<std::byte*>().swap(spares_);
  }

 private:
  std::vector<Chunk>& Class(size_t bytes) { return classes_[std::bit_width(bytes) - std::bit_width(kSmallest)]; }

  // The first chunk that begins behind `address`.
  static std::vector<Chunk>::iterator After(std::vector<Chunk>& chunks, const void* address) {
    return std::upper_bound(chunks.begin(), chunks.end(), address,
                            [](const void* where, const Chunk& chunk) { return where < chunk.memory(); });
  }

  // Null when there is none.
  std::byte* TakeSpare() {
    if (spares_.empty()) return nullptr;
    std::byte* memory = spares_.back();
    spares_.pop_back();
    return memory;
  }

  std::mutex mutex_;
  std::array<std::vector<Chunk>, std::bit_width(kChunk / 2) - std::bit_width(kSmallest) + 1> classes_;  // by address
  size_t used_ = 0;                 // chunks in classes_
  std::vector<std::byte*> spares_;  // chunks that are empty
};

// Never destroyed: blocks may outlive static objects.
Pool& ThePool() {
  alignas(Pool) static std::byte place[sizeof(Pool)];
  static Pool* pool = new (place) Pool();
  return *pool;
}

}  // namespace

void* AllocatePages(size_t bytes) noexcept {
  if (bytes < kSmallest) return AllocateOnCacheLine(bytes);
  if (bytes > SIZE_MAX - kHugePage) return nullptr;
  if (bytes > kChunk / 2) return MapChunk(RoundUp(bytes, kHugePage));
  return ThePool().Take(RoundUp(bytes, kCacheLineBytes));
}

void FreePages(void* memory, size_t bytes) noexcept {
  if (memory == nullptr) return;
  if (bytes < kSmallest) return FreeOnCacheLine(memory);
  if (bytes > kChunk / 2) return UnmapChunk(static_cast<std::byte*>(memory));
  ThePool().Give(memory, RoundUp(bytes, kCacheLineBytes));
}

}  // namespace swell
