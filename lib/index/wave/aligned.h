// Uninitialised arrays of plain elements, aligned to a cache line.
#ifndef SWELL_LIB_INDEX_WAVE_ALIGNED_H_
#define SWELL_LIB_INDEX_WAVE_ALIGNED_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace swell::wave {

constexpr size_t kCacheLineBytes = 64;

struct AlignedDelete {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(kCacheLineBytes)); }
};

template <typename T>
using AlignedArray = std::unique_ptr<T[], AlignedDelete>;

// Throws std::bad_alloc.
template <typename T>
AlignedArray<T> AllocateAligned(int64_t count) {
  static_assert(std::is_trivial_v<T>);
  const size_t bytes = static_cast<size_t>(count) * sizeof(T);
  return AlignedArray<T>(static_cast<T*>(::operator new(bytes, std::align_val_t(kCacheLineBytes))));
}

}  // namespace swell::wave

#endif  // SWELL_LIB_INDEX_WAVE_ALIGNED_H_
