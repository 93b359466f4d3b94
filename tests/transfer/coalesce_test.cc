// Goal: joined ranges copy the same bytes with the fewest ranges. Method: random permutations of blocks against a count
// of the neighbours.
#include "lib/transfer/coalesce.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

namespace swell::transfer {
namespace {

TEST(Coalesce, JoinsNeighboursAndNothingElse) {
  const uint32_t seed = 8;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  constexpr size_t kBlock = 16;
  for (int round = 0; round < 300; ++round) {
    const size_t blocks = 1 + random() % 20;
    std::vector<uint8_t> source(blocks * kBlock);
    for (uint8_t& byte : source) byte = static_cast<uint8_t>(random());
    std::vector<size_t> place(blocks);  // block i goes to place[i]
    std::iota(place.begin(), place.end(), 0);
    for (size_t swaps = random() % 4; swaps-- > 0;) std::swap(place[random() % blocks], place[random() % blocks]);
    std::vector<uint8_t> target(blocks * kBlock, 0);
    std::vector<CopyRange> ranges;
    for (size_t i = 0; i < blocks; ++i) ranges.push_back({&source[i * kBlock], &target[place[i] * kBlock], kBlock});
    std::shuffle(ranges.begin(), ranges.end(), random);

    size_t runs = 1;
    for (size_t i = 1; i < blocks; ++i) runs += place[i] != place[i - 1] + 1 ? 1 : 0;
    std::vector<CopyRange> joined;
    ASSERT_TRUE(Coalesce(ranges, &joined).ok());
    ASSERT_EQ(joined.size(), runs);
    for (const CopyRange& range : joined) std::memcpy(range.target, range.source, range.bytes);
    for (size_t i = 0; i < blocks; ++i) {
      ASSERT_TRUE(std::equal(&source[i * kBlock], &source[i * kBlock] + kBlock, &target[place[i] * kBlock]));
    }
  }
}

TEST(Coalesce, NamesTheRangeThatIsWrong) {
  uint8_t bytes[8] = {};
  std::vector<CopyRange> joined;
  EXPECT_EQ(Coalesce({}, &joined).detail(), StatusDetail::kBadSize);
  std::vector<CopyRange> ranges{{bytes, bytes + 4, 2}, {nullptr, bytes + 6, 2}};
  EXPECT_EQ(Coalesce(ranges, &joined).detail(), StatusDetail::kNullPointer);
  EXPECT_NE(Coalesce(ranges, &joined).message().find("ranges[1].source"), std::string::npos);
  ranges[1] = {bytes, nullptr, 2};
  EXPECT_EQ(Coalesce(ranges, &joined).detail(), StatusDetail::kNullPointer);
  ranges[1] = {bytes, bytes + 6, 0};
  EXPECT_EQ(Coalesce(ranges, &joined).detail(), StatusDetail::kBadSize);
  ranges[1] = {bytes, bytes + 6, SIZE_MAX - 8};
  EXPECT_EQ(Coalesce(ranges, &joined).detail(), StatusDetail::kBadSize);
  ranges[1] = {bytes, bytes + 5, 2};
  EXPECT_EQ(Coalesce(ranges, &joined).code(), StatusCode::kInvalidArgument);
  ranges[1] = {bytes, bytes + 6, 2};
  EXPECT_TRUE(Coalesce(ranges, &joined).ok());
}

}  // namespace
}  // namespace swell::transfer
