// The page pool: pieces never overlap, keep what is written, and all memory goes back.
#include "lib/base/pages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace swell {
namespace {

constexpr uint32_t kSeed = 77;

struct Piece {
  Pages memory;
  uint8_t mark = 0;
};

Piece Take(size_t bytes, uint8_t mark) {
  Piece piece{{static_cast<std::byte*>(AllocatePages(bytes)), PagesDelete{bytes}}, mark};
  EXPECT_NE(piece.memory, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(piece.memory.get()) % 64, 0U);
  std::memset(piece.memory.get(), mark, bytes);
  return piece;
}

void ExpectKept(const Piece& piece) {
  const size_t bytes = piece.memory.get_deleter().bytes;
  const auto* data = reinterpret_cast<const uint8_t*>(piece.memory.get());
  EXPECT_EQ(data[0], piece.mark);
  EXPECT_EQ(std::memcmp(data, data + 1, bytes - 1), 0) << bytes << " bytes";
}

void TakeAndGive(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Piece> pieces;
  for (int step = 0; step < 3000; ++step) {
    if (pieces.size() < 40 && random() % 5 < 3) {
      const size_t largest = step % 100 == 0 ? size_t{40} << 20 : size_t{1} << (6 + random() % 17);
      pieces.push_back(Take(1 + random() % largest, static_cast<uint8_t>(random())));
    } else if (!pieces.empty()) {
      const size_t which = random() % pieces.size();
      ExpectKept(pieces[which]);
      std::swap(pieces[which], pieces.back());
      pieces.pop_back();
    }
  }
  for (const Piece& piece : pieces) ExpectKept(piece);
}

TEST(PagesTest, PiecesKeepWhatIsWritten) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  TakeAndGive(kSeed);
}

TEST(PagesTest, ThreadsShareThePool) {
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < 4; ++i) threads.emplace_back([i] { TakeAndGive(kSeed + i); });
  for (std::thread& thread : threads) thread.join();
}

TEST(PagesTest, NeighboursJoinAgain) {
  // A chunk that is full of pieces takes one of twice their size once they are back.
  std::vector<Piece> pieces;
  for (int i = 0; i < 300; ++i) pieces.push_back(Take(65 << 10, 1));
  const std::byte* lowest = pieces[0].memory.get();
  for (const Piece& piece : pieces) lowest = std::min(lowest, static_cast<const std::byte*>(piece.memory.get()));
  const Piece keeper = Take(70 << 10, 2);
  // Every other one first, so that gaps join on both sides.
  for (size_t i = 0; i < pieces.size(); i += 2) pieces[i].memory.reset();
  for (size_t i = 1; i < pieces.size(); i += 2) pieces[i].memory.reset();
  const Piece large = Take(127 << 10, 3);
  EXPECT_EQ(large.memory.get(), lowest);
  ExpectKept(keeper);
}

TEST(PagesTest, SmallPiecesDoNotBreakUpTheRoomOfLargeOnes) {
  constexpr int kPieces = 2 * ((32 << 10) / 400);  // which two chunks hold, and no more
  std::vector<Piece> large, later;
  for (int i = 0; i < kPieces; ++i) large.push_back(Take(400 << 10, 1));
  std::set<const std::byte*> room;
  for (const Piece& piece : large) room.insert(piece.memory.get());
  int given = 0;
  for (size_t i = 0; i < large.size(); ++i) {
    if (i % 33 == 0) continue;  // some keep their chunks from going
    large[i].memory.reset();
    ++given;
  }
  for (int i = 0; i < 100; ++i) later.push_back(Take(40 << 10, 2));
  for (int i = 0; i < given; ++i) {
    later.push_back(Take(400 << 10, 3));
    EXPECT_EQ(room.count(later.back().memory.get()), 1U) << "piece " << i;
  }
}

TEST(PagesTest, TooMuchIsRefused) {
  EXPECT_EQ(AllocatePages(SIZE_MAX), nullptr);
  EXPECT_EQ(AllocatePages(SIZE_MAX / 2), nullptr);
  FreePages(nullptr, 100);
}

}  // namespace
}  // namespace swell
