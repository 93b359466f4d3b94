// The CUDA copy engine under the contract of all engines (host to host here), and a round trip through device memory.
#include "cuda/device/copy_engine.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <numeric>

#include "cuda/device/device.h"
#include "cuda/device/pinned.h"
#include "tests/transfer/copy_engine_contract.h"

namespace swell::transfer {

INSTANTIATE_TEST_SUITE_P(Cuda, CopyEngineContract, testing::Values([]() -> std::unique_ptr<CopyEngine> {
                           auto engine = cuda::MakeCopyEngine(0);
                           return engine.ok() ? std::move(*engine) : nullptr;
                         }));

namespace {

// Goal: blocks survive host -> device -> host through the scheduler and the pinned pool, in another order.
TEST(CudaScheduler, RoundTripOfBlocksThroughTheDevice) {
  auto engine = cuda::MakeCopyEngine(0);
  if (!engine.ok()) GTEST_SKIP() << engine.status().message();
  constexpr int64_t kBlocks = 100;
  constexpr uint64_t kBytes = 4096;
  const auto pool = std::move(HostPool::Create(0, cuda::PinnedAllocator(), 64 * kBytes)).value();
  const auto source = std::move(pool->Allocate(kBytes, kBlocks)).value();
  const auto back = std::move(pool->Allocate(kBytes, kBlocks)).value();
  for (int64_t i = 0; i < kBlocks; ++i) {
    auto* words = reinterpret_cast<uint32_t*>(source->block(i));
    std::iota(words, words + kBytes / 4, static_cast<uint32_t>(i * 100000));
  }
  std::byte* device = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&device), kBlocks * kBytes), cudaSuccess);
  const auto place = [](int64_t i) { return i * 37 % kBlocks; };  // a permutation
  std::vector<CopyRange> there;
  std::vector<CopyRange> home;
  for (int64_t i = 0; i < kBlocks; ++i) {
    there.push_back({source->block(i), device + place(i) * kBytes, kBytes});
    home.push_back({device + place(i) * kBytes, back->block(i), kBytes});
  }
  const auto scheduler = std::move(Scheduler::Create({}, engine->get())).value();
  for (const auto& ranges : {there, home}) {
    const auto ticket = scheduler->Submit(ranges, Priority::kDemand);
    ASSERT_TRUE(ticket.ok());
    const Status status = scheduler->Wait(*ticket, std::chrono::minutes(1));
    ASSERT_TRUE(status.ok()) << status.message();
  }
  for (int64_t i = 0; i < kBlocks; ++i) ASSERT_EQ(std::memcmp(source->block(i), back->block(i), kBytes), 0) << i;
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // asking for completion leaves no error behind
  cudaFree(device);
}

}  // namespace
}  // namespace swell::transfer
