// Pieces on a cache line: aligned, whole, and found again by the heap once they are free.
#include "lib/base/aligned.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <cstring>
#include <memory>
#include <vector>

namespace swell {
namespace {

TEST(AlignedTest, PiecesLieOnACacheLine) {
  std::vector<void*> pieces;
  for (size_t bytes = 0; bytes < 300; ++bytes) {
    pieces.push_back(AllocateOnCacheLine(bytes));
    ASSERT_NE(pieces.back(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pieces.back()) % kCacheLineBytes, 0U);
    std::memset(pieces.back(), static_cast<int>(bytes), bytes);
  }
  for (size_t bytes = 0; bytes < 300; ++bytes) {
    const auto* data = static_cast<const unsigned char*>(pieces[bytes]);
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(data[i], bytes % 256);
    FreeOnCacheLine(pieces[bytes]);
  }
}

TEST(AlignedTest, TooMuchIsRefused) {
  for (volatile size_t bytes : {SIZE_MAX, SIZE_MAX / 2}) EXPECT_EQ(AllocateOnCacheLine(bytes), nullptr);
}

// Between a piece and the next something small is allocated and stays, as an index stays after its scratch.
TEST(AlignedTest, AFreedPieceIsFoundAgain) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers have a heap of their own";
#else
  std::vector<std::unique_ptr<char[]> > kept;
  const size_t before = mallinfo2().arena;
  for (int turn = 0; turn < 2000; ++turn) {
    void* piece = AllocateOnCacheLine(20000);
    kept.push_back(std::make_unique<char[]>(200));
    FreeOnCacheLine(piece);
  }
  EXPECT_LT(mallinfo2().arena - before, size_t{4} << 20);  // of the 40 MB that were taken in turn
#endif
}

}  // namespace
}  // namespace swell
