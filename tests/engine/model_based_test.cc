// Goal: any order of operations leaves every sequence with exactly the tokens it should have. Method: random operations
// on many sequences beside a model that keeps plain vectors, over random shapes, dtypes and byte budgets; rows, exact
// attention in float64, search and lengths are compared as it goes.
//
// A round has a seed of its own, printed when it fails: SWELL_TEST_SEED=<seed> SWELL_MODEL_ROUNDS=1 replays it.
// SWELL_MODEL_ROUNDS sets how many rounds there are (8), SWELL_MODEL_MINUTES how long they go on instead.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tests/engine/model/machine.h"

namespace swell {
namespace {

using testing::Machine;
using testing::Model;

constexpr int kSteps = 400;

ModelShape AnyShape(std::mt19937_64& random) {
  ModelShape shape;
  shape.layers = static_cast<int32_t>(1 + random() % 3);
  shape.kv_heads = static_cast<int32_t>(1 + random() % 3);
  shape.group = static_cast<int32_t>(1 + random() % 4);
  shape.head_dim = 16 * static_cast<int32_t>(1 + random() % 3);
  shape.storage = static_cast<DType>(random() % 4);
  return shape;
}

// No limit, or one that a few sequences reach.
uint64_t AnyBudget(std::mt19937_64& random) { return random() % 2 == 0 ? 0 : (1 + random() % 8) << 18; }

// Every sequence is gone: so is their memory, once builds in the background have noticed.
void ExpectEmpty(const Engine& engine) {
  EXPECT_EQ(engine.Stats().sequences, 0);
  while (engine.Stats().bytes_in_use != 0) std::this_thread::yield();
  EXPECT_LE(engine.Stats().bytes_peak, engine.Stats().budget_bytes == 0 ? UINT64_MAX : engine.Stats().budget_bytes);
}

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoll(text, nullptr, 10);
}

// Calls round(seed) as often as asked; returns how often that was.
template <typename Round>
int64_t ForEachRound(Round round) {
  const int64_t minutes = FromEnvironment("SWELL_MODEL_MINUTES", 0);
  const int64_t rounds = FromEnvironment("SWELL_MODEL_ROUNDS", 8);
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(minutes);
  int64_t done = 0;
  while (minutes > 0 ? std::chrono::steady_clock::now() < end : done < rounds) {
    const uint64_t seed = testing::Seed() + static_cast<uint64_t>(done);
    SCOPED_TRACE("SWELL_TEST_SEED=" + std::to_string(seed) + " SWELL_MODEL_ROUNDS=1");
    round(seed);
    if (::testing::Test::HasFailure()) break;
    ++done;
  }
  std::printf("%lld rounds from seed %llu\n", static_cast<long long>(done),
              static_cast<unsigned long long>(testing::Seed()));
  return done;
}

TEST(ModelBased, RandomOperations) {
  int64_t refused = 0;
  const int64_t rounds = ForEachRound([&](uint64_t seed) {
    std::mt19937_64 random(seed);
    const bool deterministic = random() % 2 == 0;
    const auto engine = testing::OpenEngine(AnyShape(random), deterministic, 2, AnyBudget(random));
    Machine machine(seed, *engine, nullptr);
    for (int step = 0; step < kSteps && !::testing::Test::HasFailure(); ++step) machine.Step();
    machine.Finish();
    refused += machine.refused();
    if (!::testing::Test::HasFailure()) ExpectEmpty(*engine);
  });
  std::printf("%lld calls refused for the budget\n", static_cast<long long>(refused));
  EXPECT_TRUE(rounds < 8 || refused > 0) << "no budget was ever reached";
}

// Each thread has sequences of its own and forks of a prefix that all share.
TEST(ModelBased, RandomOperationsOfSeveralThreads) {
  constexpr uint64_t kThreads = 3;
  ForEachRound([&](uint64_t seed) {
    std::mt19937_64 random(seed);
    const ModelShape shape = AnyShape(random);
    const auto engine = testing::OpenEngine(shape, random() % 2 == 0, 2, 8 * AnyBudget(random));
    SequenceOptions options;
    options.window_tokens = 8;
    options.seal_tokens = 16;
    options.segment_tokens = 64;
    Model prefix{*engine->CreateSequence(options), std::vector<testing::Rows>(static_cast<size_t>(shape.layers))};
    for (int32_t layer = 0; layer < shape.layers; ++layer) {
      prefix.layers[layer] = {testing::ExactRows(random, shape, 150), testing::ExactRows(random, shape, 150)};
      ASSERT_TRUE(testing::Put(*engine, prefix.id, layer, prefix.layers[layer], 0, 150).ok());
    }
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        Machine machine(seed + t * 1'000'003, *engine, &prefix);
        for (int step = 0; step < kSteps / 2 && !::testing::Test::HasFailure(); ++step) machine.Step();
        machine.Finish();
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_TRUE(engine->Release(prefix.id).ok());
    if (!::testing::Test::HasFailure()) ExpectEmpty(*engine);
  });
}

}  // namespace
}  // namespace swell
