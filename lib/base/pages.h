// Memory for what is read at random: keys, values and meta indexes, in huge pages where the system grants them. With
// small pages the kernels wait for address translation, most of all in virtual machines.
//
// Any thread. Memory goes back to the system by chunks of 32 MiB when they are empty; one empty chunk is kept for every
// eight in use, none when nothing is.
#ifndef SWELL_LIB_BASE_PAGES_H_
#define SWELL_LIB_BASE_PAGES_H_

#include <cstddef>
#include <memory>

namespace swell {

// `bytes` > 0 of uninitialised memory on a cache line; null when memory is refused.
void* AllocatePages(size_t bytes) noexcept;

// Gives back what AllocatePages gave for the same number of bytes; null is fine.
void FreePages(void* memory, size_t bytes) noexcept;

struct PagesDelete {
  size_t bytes = 0;
  void operator()(std::byte* memory) const { FreePages(memory, bytes); }
};
using Pages = std::unique_ptr<std::byte, PagesDelete>;

}  // namespace swell

#endif  // SWELL_LIB_BASE_PAGES_H_
