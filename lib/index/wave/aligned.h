// Uninitialised arrays of plain elements, aligned to a cache line.
#ifndef SWELL_LIB_INDEX_WAVE_ALIGNED_H_
#define SWELL_LIB_INDEX_WAVE_ALIGNED_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "lib/base/aligned.h"

namespace swell::wave {

struct AlignedDelete {
  void operator()(void* memory) const { FreeOnCacheLine(memory); }
};

template <typename T>
using AlignedArray = std::unique_ptr<T[], AlignedDelete>;

// Throws std::bad_alloc.
template <typename T>
AlignedArray<T> AllocateAligned(int64_t count) {
  static_assert(std::is_trivial_v<T>);
  void* memory = AllocateOnCacheLine(static_cast<size_t>(count) * sizeof(T));
  if (memory == nullptr) throw std::bad_alloc();
  return AlignedArray<T>(static_cast<T*>(memory));
}

}  // namespace swell::wave

#endif  // SWELL_LIB_INDEX_WAVE_ALIGNED_H_
