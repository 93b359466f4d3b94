// Memory from the heap on a cache line.
//
// Not by the aligned operator new: glibc before 2.38 does not find freed aligned pieces again, and a heap from which
// aligned pieces are taken and given back by turns grows without end (docs/measurements.md).
#ifndef SWELL_LIB_BASE_ALIGNED_H_
#define SWELL_LIB_BASE_ALIGNED_H_

#include <cstddef>
#include <cstdint>
#include <new>

namespace swell {

inline constexpr size_t kCacheLineBytes = 64;

// Uninitialised; null when memory is refused. What it costs besides: the address to be freed, in front.
inline void* AllocateOnCacheLine(size_t bytes) noexcept {
  constexpr size_t kExtra = sizeof(void*) + kCacheLineBytes;
  if (bytes > SIZE_MAX - kExtra) return nullptr;
  auto* heap = static_cast<std::byte*>(::operator new(bytes + kExtra, std::nothrow));
  if (heap == nullptr) return nullptr;
  const auto first = reinterpret_cast<uintptr_t>(heap) + sizeof(void*);
  std::byte* aligned = heap + sizeof(void*) + (kCacheLineBytes - first % kCacheLineBytes) % kCacheLineBytes;
  reinterpret_cast<void**>(aligned)[-1] = heap;
  return aligned;
}

inline void FreeOnCacheLine(void* memory) noexcept { ::operator delete(static_cast<void**>(memory)[-1]); }

}  // namespace swell

#endif  // SWELL_LIB_BASE_ALIGNED_H_
