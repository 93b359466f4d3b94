// Goal: a step over segments whose rows are in host memory answers bit for bit what it answers with all rows in device
// memory, whatever the cache holds, and the cache hits and misses as its CPU twin does. Method: caches far too small
// for the working set, sequences that fork, grow and go, books checked after every step.
#include "cuda/buffer/wave_buffer.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "lib/base/convert.h"
#include "swell/cache.h"
#include "tests/cuda/step_test.h"

namespace swell::cuda {
namespace {

constexpr uint32_t kSeed = 52361;

BufferCounters CountersOf(const StepTest& test) {
  const auto counters = test.buffer().Counters(test.stream());
  EXPECT_TRUE(counters.ok());
  return *counters;
}

// What records at home are in device memory.
std::vector<std::byte> HomeRecords(const WaveBuffer& buffer) {
  const BufferView& view = buffer.view();
  const auto records = static_cast<size_t>(view.home_records);
  std::vector<std::byte> home = DeviceVector<std::byte>::ReadDevice(view.home, records * view.home_record_bytes);
  if (view.scales == nullptr) return home;
  const auto scales = DeviceVector<RowScales>::ReadDevice(view.scales, records);
  const int64_t head_dim = view.home_record_bytes / 2;
  std::vector<std::byte> decoded(records * view.record_bytes);
  std::vector<float> row(static_cast<size_t>(head_dim));
  for (int64_t half = 0; half < static_cast<int64_t>(2 * records); ++half) {
    const RowScales& scale = scales[half / 2];
    DecodeRow(DType::kInt8, home.data() + half * head_dim, half % 2 == 0 ? scale.key : scale.value, head_dim,
              row.data());
    EXPECT_TRUE(ConvertFromFloat(row.data(), head_dim, buffer.options().storage, decoded.data() + half * 2 * head_dim));
  }
  return decoded;
}

// Every slot is free, on its way, idle or referenced, and what is cached is what is at home.
void CheckBooks(const StepTest& test) {
  const BufferView& view = test.buffer().view();
  const auto slots = static_cast<size_t>(view.slots), record_bytes = static_cast<size_t>(view.record_bytes);
  const BufferCounters counters = CountersOf(test);
  const auto owners = DeviceVector<int32_t>::ReadDevice(view.owners, slots);
  const auto states = DeviceVector<SlotState>::ReadDevice(view.states, slots);
  const auto free_slots = DeviceVector<int32_t>::ReadDevice(view.free_slots, slots);
  const auto places = DeviceVector<int32_t>::ReadDevice(view.places, static_cast<size_t>(view.home_records));
  const auto cache = DeviceVector<std::byte>::ReadDevice(view.cache, slots * record_bytes);
  const std::vector<std::byte> home = HomeRecords(test.buffer());
  std::vector<int> uses(slots);
  for (int32_t i = 0; i < counters.free; ++i) ++uses[static_cast<size_t>(free_slots[i])];
  int64_t cached = 0, on_the_way = 0;
  for (int64_t record = 0; record < view.home_records; ++record) {
    if (places[record] == kNotCached) continue;
    ASSERT_NE(places[record], kBeingClaimed);
    const bool is_cached = places[record] >= 0;
    const int32_t slot = is_cached ? places[record] : ClaimOf(places[record]);
    (is_cached ? cached : on_the_way) += 1;
    ASSERT_EQ(owners[slot], record);
    if (is_cached) {
      ++uses[static_cast<size_t>(slot)];
      EXPECT_TRUE(states[slot] == SlotState::kIdle || states[slot] == SlotState::kReferenced);
    }
    EXPECT_EQ(std::memcmp(cache.data() + slot * record_bytes, home.data() + record * record_bytes, record_bytes), 0)
        << "record " << record;
  }
  for (size_t slot = 0; slot < slots; ++slot) {
    if (states[slot] == SlotState::kForgotten) ++uses[slot];
    EXPECT_EQ(uses[slot], 1) << "slot " << slot;
  }
  EXPECT_LE(on_the_way, std::min(counters.taken, counters.free));
  // More, once records were forgotten.
  EXPECT_GE(counters.admitted, counters.evicted + static_cast<unsigned long long>(cached + on_the_way));
}

std::vector<Case> Cases() {
  std::vector<Case> cases{
      {128, 4, DType::kBFloat16, Share(0.05F), "share"}, {128, 4, DType::kBFloat16, TwoLevels(), "two levels"},
      {64, 3, DType::kFloat16, Share(0.05F), "share"},   {128, 11, DType::kFloat16, Share(0.05F), "share"},
      {256, 4, DType::kBFloat16, Share(0.05F), "share"}, {128, 4, DType::kBFloat16, Share(1.0F), "everything"}};
  if (std::getenv("SWELL_FEW_SHAPES") != nullptr) cases.resize(1);  // under compute-sanitizer
  return cases;
}

// Mean over the rows of |a - b| / |b|; rows that are not numbers count nothing.
double MeanDifference(const std::vector<float>& a, const std::vector<float>& b, int64_t head_dim) {
  double sum = 0;
  int64_t rows = 0;
  for (size_t row = 0; row + head_dim <= a.size(); row += head_dim) {
    double difference = 0, norm = 0;
    for (size_t i = row; i < row + head_dim; ++i) {
      difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
      norm += std::pow(static_cast<double>(b[i]), 2);
    }
    if (std::isnan(norm)) continue;
    sum += std::sqrt(difference / norm);
    ++rows;
  }
  return sum / static_cast<double>(rows);
}

// With rows as int8 at home a step answers what float64 says of those bytes, and on average within 2 % what it says of
// the rows.
TEST(WaveBufferTest, AnswersFromBytes) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (Case test : Cases()) {
    std::vector<std::vector<float>> outputs[2];
    for (const int64_t cached : {0, 600}) {
      test.cached_tokens = cached;
      test.bytes_at_home = cached > 0;
      StepTest runner(test, 2, kSeed + 4);
      HostSequence first = runner.Create({2048, 700});
      HostSequence second = runner.Create({1100, 64});
      runner.SetBatch({&first, &second});
      for (int i = 0; i < 5; ++i) {
        runner.Step();
        outputs[cached > 0].push_back(runner.last_output());
        if (cached > 0) CheckBooks(runner);
      }
      if (cached > 0) {
        EXPECT_GT(CountersOf(runner).hits, 0U);
      }
    }
    for (size_t i = 0; i < outputs[0].size(); ++i) {
      EXPECT_LE(MeanDifference(outputs[1][i], outputs[0][i], test.head_dim), 0.02) << test.name << " step " << i;
    }
  }
}

TEST(WaveBufferTest, AnswersAsFromDeviceMemory) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (Case test : Cases()) {
    std::vector<std::vector<float>> outputs[2];
    for (const int64_t cached : {0, 600}) {
      test.cached_tokens = cached;
      StepTest runner(test, 3, kSeed);
      HostSequence first = runner.Create({2048, 700});
      HostSequence second = runner.Create({1100, 64});
      HostSequence fork = runner.Fork(first);
      runner.SetBatch({&first, &second, &fork});
      runner.Capture();
      for (int i = 0; i < 6; ++i) {
        runner.Step();
        outputs[cached > 0].push_back(runner.last_output());
        if (cached > 0) CheckBooks(runner);
      }
      if (cached == 0) continue;
      const BufferCounters counters = CountersOf(runner);
      EXPECT_GT(counters.hits, 0U);
      EXPECT_GT(counters.misses, 0U);
      EXPECT_GT(counters.evicted, 0U);
    }
    for (size_t i = 0; i < outputs[0].size(); ++i) {
      EXPECT_EQ(std::memcmp(outputs[0][i].data(), outputs[1][i].data(), outputs[0][i].size() * sizeof(float)), 0)
          << test.name << " head_dim " << test.head_dim << " step " << i;
    }
  }
}

// Choices are the CPU's with the preference, and more of what is read is cached.
TEST(WaveBufferTest, PrefersWhatIsCached) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (Case test : Cases()) {
    unsigned long long hits[2] = {};
    for (const float preference : {0.0F, 2.0F}) {
      test.cached_tokens = 900;
      test.preference = preference;
      StepTest runner(test, 2, kSeed + 5);
      HostSequence first = runner.Create({2048, 700});
      HostSequence second = runner.Create({1100, 64});
      runner.SetBatch({&first, &second});
      runner.Capture();
      for (int i = 0; i < 8; ++i) {
        runner.Step();
        CheckBooks(runner);
      }
      hits[preference > 0] = CountersOf(runner).hits;
    }
    if (test.retrieval.retrieve_share < 1) {
      EXPECT_GT(hits[1], hits[0] + hits[0] / 10) << test.name << " head_dim " << test.head_dim;
    }
  }
}

// The same blocks are hit by CLOCK on the CPU; only the order within a step differs.
TEST(WaveBufferTest, HitsAsItsTwin) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (const int64_t cached : {40, 900, 4000}) {
    StepTest runner({128, 4, DType::kBFloat16, Share(0.04F), "twin", cached}, 2, kSeed + 1);
    HostSequence first = runner.Create({2048, 2048});
    HostSequence second = runner.Create({1500});
    runner.SetBatch({&first, &second});
    const auto twin = cache::BlockCache::Create(
        {.block_bytes = 1, .budget_bytes = static_cast<uint64_t>(cached), .policy = cache::PolicyKind::kClock});
    ASSERT_TRUE(twin.ok());
    int64_t listed = 0;
    for (int i = 0; i < 40; ++i) {
      runner.Step(i % 10 == 0);
      std::vector<cache::BlockKey> keys;
      for (const int64_t record : runner.ListedRecords()) keys.push_back(static_cast<cache::BlockKey>(record));
      std::vector<cache::Placement> placements(keys.size());
      ASSERT_TRUE((*twin)->BeginStep().ok());
      ASSERT_TRUE((*twin)->Plan(keys, placements).ok());
      ASSERT_TRUE((*twin)->EndStep().ok());
      listed += static_cast<int64_t>(keys.size());
    }
    CheckBooks(runner);
    const BufferCounters counters = CountersOf(runner);
    const cache::CacheStats expected = (*twin)->Stats();
    EXPECT_EQ(static_cast<int64_t>(counters.hits + counters.misses), listed);
    EXPECT_EQ(expected.hits + expected.misses, listed);
    EXPECT_NEAR(static_cast<double>(counters.hits), static_cast<double>(expected.hits), 0.02 * listed);
    EXPECT_NEAR(static_cast<double>(counters.admitted), static_cast<double>(expected.admitted), 0.02 * listed);
  }
}

TEST(WaveBufferTest, SequencesComeAndGo) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  StepTest runner({128, 4, DType::kBFloat16, Share(0.04F), "come and go", 500}, 3, kSeed + 2);
  HostSequence first = runner.Create({2048, 600});
  runner.SetBatch({&first});
  runner.Capture();
  for (int round = 0; round < 12; ++round) {
    HostSequence other = runner.Create({2048, 2048, 513});
    HostSequence fork = runner.Fork(first);
    runner.Add(fork, 700, true);
    runner.SetBatch({&other, &first, &fork});
    for (int i = 0; i < 3; ++i) runner.Step(i == 2);
    runner.SetBatch({&first});
    ASSERT_TRUE(runner.sequences().Release(other.id).ok());
    ASSERT_TRUE(runner.sequences().Release(fork.id).ok());
    for (HostSequence* released : {&other, &fork}) released->segments.clear();  // the last owners
    CheckBooks(runner);
    runner.Step();
    CheckBooks(runner);
  }
}

TEST(WaveBufferTest, RefusesWhatItCannotDo) {
  const auto code = [](const WaveBufferOptions& options) { return WaveBuffer::Make(options).status().code(); };
  EXPECT_EQ(code({.head_dim = 96, .home_bytes = 1 << 20, .cache_bytes = 1 << 20}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.storage = DType::kInt8, .home_bytes = 1 << 20, .cache_bytes = 1 << 20}),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.home = DType::kFloat16, .home_bytes = 1 << 20, .cache_bytes = 1 << 20}),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.home_bytes = 511, .cache_bytes = 1 << 20}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.home_bytes = uint64_t{1} << 42, .cache_bytes = 1 << 20}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.home_bytes = 1 << 20, .cache_bytes = 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.home_bytes = 1 << 20, .cache_bytes = uint64_t{1} << 42}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.home_bytes = 1 << 20, .cache_bytes = 512, .reserve_slots = 2}), StatusCode::kInvalidArgument);
  for (const float preference : {-1.0F, INFINITY, NAN}) {
    EXPECT_EQ(code({.home_bytes = 1 << 20, .cache_bytes = 1 << 20, .preference = preference}),
              StatusCode::kInvalidArgument);
  }
  if (NoDevice()) {
    EXPECT_EQ(code({.home_bytes = 1 << 20, .cache_bytes = 1 << 20}), StatusCode::kUnavailable);
    return;
  }
  StepTest runner({128, 4, DType::kBFloat16, Share(0.04F), "full", 100}, 1, kSeed + 3);
  HostSequence sequence = runner.Create({2048});
  StepWorld world(StepTest::ShapeOf({}), 2, kSeed);
  EXPECT_EQ(runner.buffer().MoveHome(*world.MakeSegment(100, false)->device, nullptr).status().code(),
            StatusCode::kInvalidArgument);
  std::vector<std::shared_ptr<const DeviceSegment>> kept;
  const auto segment = world.MakeSegment(2000, true);
  Status status;
  for (int i = 0; i < 20 && status.ok(); ++i) {
    auto moved = runner.buffer().MoveHome(*segment->device, nullptr);
    status = moved.status();
    if (moved.ok()) kept.push_back(*std::move(moved));
  }
  EXPECT_EQ(status.detail(), StatusDetail::kNoMemory);
  EXPECT_EQ(kept.size(), static_cast<size_t>((kHomeRecords - 2 * 2048) / 4000));
  kept.erase(kept.begin());
  kept.pop_back();
  for (int i = 0; i < 2; ++i) {
    auto moved = runner.buffer().MoveHome(*segment->device, nullptr);
    ASSERT_TRUE(moved.ok()) << moved.status().message();
    kept.push_back(*std::move(moved));
  }
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
}  // namespace swell::cuda
