// Goal: when memory is refused, a call of the C API says so, loses nothing and leaks nothing. Method: every allocation
// of every scripted operation is refused, one at a time, then two at a time for the core operations, then all from one
// on. Each time in a world of its own, whose digest is compared with that of a world where nothing was refused; then
// the call is made again, and what is alive afterwards is counted.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/capi/no_memory/operations.h"
#include "tests/support/allocations.h"

namespace swell_test {
namespace {

using swell::testing::LiveMemory;
using swell::testing::RefusalPlan;
using swell::testing::Refusals;
using swell::testing::Threads;

// How the operation goes when nothing is refused.
struct Reference {
  Digest before, after, extended;
  std::string outputs;
  swell_code code = SWELL_OK;
  std::array<swell_status, 2> statuses{};
  int64_t builds_failed = 0;
  int64_t allocations = 0;
};

struct Counts {
  int64_t allocations = 0;  // of one undisturbed call
  int64_t once = 0;         // runs with one refusal
  int64_t for_ever = 0;     // runs with all refused from one on
  int64_t twice = 0;        // runs with two refusals
  int64_t errors = 0;       // of these, calls that returned an error
  int64_t without = 0;      // calls that did without what was refused
  int64_t degraded = 0;     // those that left sealing for later

  void Add(const Counts& more) {
    allocations += more.allocations;
    once += more.once;
    for_ever += more.for_ever;
    twice += more.twice;
    errors += more.errors;
    without += more.without;
    degraded += more.degraded;
  }
};

// With a budget that the operation exceeds, where it wants one.
WorldOptions OptionsFor(const Operation& operation, WorldOptions options) {
  if (operation.spare_tokens < 0) return options;
  World world(options);
  if (operation.prepare != nullptr) operation.prepare(world);
  const swell_engine_stats stats = world.Stats();
  const uint64_t token_bytes = options.storage == SWELL_FLOAT32 ? 8 * kRow
                               : options.storage == SWELL_INT8  ? 2 * kRow + 8 * kKvHeads
                                                                : 4 * kRow;
  options.budget_bytes =
      std::max(stats.bytes_peak, stats.bytes_in_use + static_cast<uint64_t>(operation.spare_tokens) * token_bytes);
  return options;
}

Reference Observe(const Operation& operation, const WorldOptions& options, Threads threads) {
  World world(options);
  if (operation.prepare != nullptr) operation.prepare(world);
  Reference reference;
  reference.before = world.Look();
  world.ClearOutputs();
  swell_error* error = nullptr;
  {
    RefusalPlan nothing;
    nothing.threads = threads;
    const Refusals counting(nothing);
    reference.code = operation.run(world, &error);
  }
  swell_error_destroy(&error);
  reference.allocations = swell::testing::AllocationsSeen();
  reference.outputs = world.Outputs();
  reference.statuses = world.statuses;
  world.Settle();
  reference.after = world.Look();
  reference.builds_failed = world.Stats().builds_failed;
  EXPECT_TRUE(operation.spare_tokens < 0 || reference.code == SWELL_RESOURCE_EXHAUSTED || reference.builds_failed > 0)
      << operation.name << " is within the budget";
  reference.extended = world.Extend();
  return reference;
}

void ExpectHonestError(const swell_error* error, swell_code code, const Reference& reference) {
  ASSERT_NE(error, nullptr);
  const bool no_memory =
      swell_error_code(error) == SWELL_RESOURCE_EXHAUSTED && swell_error_detail(error) == SWELL_DETAIL_NO_MEMORY;
  EXPECT_TRUE(no_memory || swell_error_code(error) == code) << swell_error_message(error);
  if (code == reference.code) return;
  EXPECT_TRUE(no_memory) << swell_error_message(error);
  EXPECT_EQ(code, SWELL_RESOURCE_EXHAUSTED);
}

// The world after the operation came through, at the first or the second attempt.
void ExpectDone(World& world, const Reference& reference, Counts& counts) {
  const bool degraded = world.Stats().builds_failed > reference.builds_failed;
  const Digest now = world.Look();
  EXPECT_TRUE(now.content == reference.after.content);
  if (!degraded) {
    EXPECT_TRUE(now.state == reference.after.state);
    EXPECT_TRUE(now.counters == reference.after.counters);
    return;
  }
  ++counts.degraded;
  EXPECT_TRUE(Near(now.exact, reference.after.exact));
  const Digest later = world.Extend();
  EXPECT_TRUE(later.content == reference.extended.content);
  EXPECT_TRUE(later.state == reference.extended.state);
}

// Of a batch of puts, an item may have been put although the call failed; its status says so.
bool IsPartlyDone(const Operation& operation, const World& world) {
  return operation.is_put_batch && (world.statuses[0].code == SWELL_OK || world.statuses[1].code == SWELL_OK);
}

// Whether the call ended as it does when nothing is refused, each item included.
bool IsOver(const Operation& operation, const Reference& reference, const World& world, swell_code code) {
  return code == reference.code && (!operation.is_put_batch || (world.statuses[0].code == reference.statuses[0].code &&
                                                                world.statuses[1].code == reference.statuses[1].code));
}

// The call's code is that of the first item that failed, if items have a status.
bool IsHonestCode(const World& world, swell_code code) {
  for (const swell_status& status : world.statuses) {
    if (status.code > SWELL_OK) return status.code == code;
  }
  return true;
}

// One run with refusals; false when there were fewer occasions than the plan wants.
bool RunRefused(const Operation& operation, const WorldOptions& options, const RefusalPlan& plan,
                const Reference& reference, Counts& counts) {
  const LiveMemory live = swell::testing::Live();
  bool enough = false;
  {
    World world(options);
    if (operation.prepare != nullptr) operation.prepare(world);
    world.ClearOutputs();
    swell_error* error = nullptr;
    swell_code code = SWELL_OK;
    {
      const Refusals refusals(plan);
      code = operation.run(world, &error);
    }
    enough = swell::testing::AllocationsRefused() >= (plan.second >= 0 ? 2 : 1);
    if (code != SWELL_OK) ExpectHonestError(error, code, reference);
    swell_error_destroy(&error);
    EXPECT_TRUE(IsHonestCode(world, code));
    EXPECT_TRUE(code == SWELL_OK || operation.is_clear == nullptr || operation.is_clear(world));
    EXPECT_TRUE(code != SWELL_OK || world.Outputs() == reference.outputs);
    world.Settle();
    if (enough) ++(code == SWELL_OK ? counts.without : counts.errors);
    if (!IsOver(operation, reference, world, code)) {
      EXPECT_TRUE(IsPartlyDone(operation, world) || world.Look() == reference.before);
      EXPECT_EQ(operation.run(world, nullptr), reference.code) << "the second attempt";
      world.Settle();
    }
    ExpectDone(world, reference, counts);
  }
  EXPECT_EQ(swell::testing::Live(), live);
  return enough;
}

// Refuses what `options` says, everything else being equal, until there is nothing left to refuse.
Counts RunAll(const Operation& operation, const WorldOptions& options, Threads threads) {
  Counts counts;
  const Reference reference = Observe(operation, options, threads);
  counts.allocations = reference.allocations;
  const auto run = [&](const RefusalPlan& plan) {
    SCOPED_TRACE(std::string(options.name) + ": " + operation.name + ", refused: " + std::to_string(plan.first) +
                 (plan.ever_after ? " and all after it" : "") +
                 (plan.second >= 0 ? ", then " + std::to_string(plan.second) : ""));
    return !::testing::Test::HasFailure() && RunRefused(operation, options, plan, reference, counts);
  };
  RefusalPlan plan;
  plan.threads = threads;
  for (plan.first = 0; run(plan); ++plan.first) ++counts.once;
  plan.ever_after = true;
  for (plan.first = 0; run(plan); ++plan.first) ++counts.for_ever;
  plan.ever_after = false;
  for (plan.first = 0; options.pairs && operation.core && plan.first < counts.once; ++plan.first) {
    for (plan.second = 0; run(plan); ++plan.second) ++counts.twice;
    plan.second = -1;
  }
  return counts;
}

void Print(const char* name, const Counts& counts) {
  std::printf("%-36s %7lld %7lld %7lld %7lld %7lld %7lld %7lld\n", name, static_cast<long long>(counts.allocations),
              static_cast<long long>(counts.once), static_cast<long long>(counts.for_ever),
              static_cast<long long>(counts.twice), static_cast<long long>(counts.errors),
              static_cast<long long>(counts.without), static_cast<long long>(counts.degraded));
}

class NoMemory : public ::testing::TestWithParam<WorldOptions> {};

TEST_P(NoMemory, EveryAllocationOfEveryOperation) {
  const WorldOptions& options = GetParam();
#if defined(__SANITIZE_THREAD__)
  if (options.threads == 1 && options.deterministic) GTEST_SKIP() << "nothing happens at the same time here";
#endif
  std::printf("%s, seed %llu\n%-36s %7s %7s %7s %7s %7s %7s %7s\n", options.name,
              static_cast<unsigned long long>(kSeed), "operation", "allocs", "once", "all on", "pairs", "errors",
              "without", "unsealed");
  Counts sum;
  for (const Operation& operation : Operations()) {
    if (options.threads > 1 && !operation.core) continue;
    // Work in the background goes on beside the call; only what the call itself allocates is refused.
    const Threads threads = options.deterministic ? Threads::kAll : Threads::kThis;
    const Counts counts = RunAll(operation, OptionsFor(operation, options), threads);
    if (HasFailure()) return;
    Print(operation.name, counts);
    EXPECT_EQ(counts.once, counts.allocations) << operation.name;
    EXPECT_LE(counts.for_ever, counts.once) << operation.name;
    sum.Add(counts);
  }
  Print("all", sum);
  std::printf("%lld refusals in all, %lld different call stacks\n",
              static_cast<long long>(swell::testing::TotalRefused()),
              static_cast<long long>(swell::testing::DistinctStacks()));
  EXPECT_GT(sum.errors, 0);
  EXPECT_GT(sum.without, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Worlds, NoMemory,
    ::testing::Values(
        WorldOptions{.name = "float16", .pairs = true}, WorldOptions{.name = "int8", .storage = SWELL_INT8},
        WorldOptions{.name = "float32_flat", .storage = SWELL_FLOAT32, .index = SWELL_INDEX_FLAT, .pairs = true},
        WorldOptions{.name = "two_threads", .threads = 2},
        WorldOptions{.name = "sealed_in_the_background", .storage = SWELL_BFLOAT16, .deterministic = false}),
    [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace swell_test
