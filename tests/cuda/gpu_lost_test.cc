// Goal: once a kernel has failed, and the device with it, every call that asks the device says so, whichever is the
// first; the engine answers nothing more; nothing hangs, aborts or prints; closing works in any order. Method: a
// process of its own traps a kernel of the caller; in each of its engines another call is the first to find out.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda/gpu_world.h"
#include "tests/cuda/trap.h"

namespace swell::cuda {
namespace {

// What a process that lost its device keeps of a world: its destructor would expect CUDA to work.
struct Lost {
  swell_gpu* gpu = nullptr;
  swell_gpu_batch* batch = nullptr;
  swell_sequence sequence = 0;
  void* rows = nullptr;  // device memory
};

using Call = std::function<swell_code(Lost&, swell_error**)>;

struct NamedCall {
  const char* name;
  Call call;
  bool asks_device = true;  // else it may go on as long as no other call has found out
};

std::vector<NamedCall> Calls() {
  const auto put = [](Lost& lost, swell_error** error) {
    swell_gpu_put_args args = SWELL_GPU_PUT_ARGS_INIT;
    args.sequence = lost.sequence;
    args.position = 500;
    args.tokens = 3;
    return swell_gpu_put(lost.gpu, &args, lost.rows, lost.rows, nullptr, error);
  };
  const auto batch_create = [](Lost& lost, swell_error** error) {
    swell_gpu_batch_options options = SWELL_GPU_BATCH_OPTIONS_INIT;
    options.max_tokens = 1000;
    swell_gpu_batch* batch = nullptr;
    return swell_gpu_batch_create(lost.gpu, &options, nullptr, &batch, error);
  };
  const auto fork = [](Lost& lost, swell_error** error) {
    swell_sequence id = 0;
    return swell_gpu_sequence_fork(lost.gpu, lost.sequence, nullptr, &id, error);
  };
  const auto create = [](Lost& lost, swell_error** error) {
    swell_sequence id = 0;
    return swell_gpu_sequence_create(lost.gpu, &id, error);
  };
  const auto length = [](Lost& lost, swell_error** error) {
    int64_t tokens = 0;
    return swell_gpu_sequence_length(lost.gpu, lost.sequence, 0, nullptr, &tokens, error);
  };
  const auto truncate = [](Lost& lost, swell_error** error) {
    return swell_gpu_sequence_truncate(lost.gpu, lost.sequence, 100, nullptr, error);
  };
  const auto seal = [](Lost& lost, swell_error** error) { return swell_gpu_seal(lost.gpu, nullptr, error); };
  const auto set = [](Lost& lost, swell_error** error) {
    return swell_gpu_batch_set(lost.batch, &lost.sequence, 1, nullptr, error);
  };
  const auto append = [](Lost& lost, swell_error** error) {
    return swell_gpu_append(lost.batch, 0, lost.rows, lost.rows, nullptr, error);
  };
  const auto attend = [](Lost& lost, swell_error** error) {
    return swell_gpu_attend(lost.batch, 0, lost.rows, static_cast<float*>(lost.rows), nullptr, nullptr, nullptr, error);
  };
  const auto stats = [](Lost& lost, swell_error** error) {
    swell_gpu_stats stats_now = SWELL_GPU_STATS_INIT;
    return swell_gpu_get_stats(lost.gpu, &stats_now, error);
  };
  const auto release = [](Lost& lost, swell_error** error) {
    return swell_gpu_sequence_release(lost.gpu, lost.sequence, error);
  };
  return {{"put", put},
          {"batch_create", batch_create},
          {"fork", fork},
          {"create", create},
          {"length", length},
          {"truncate", truncate},
          {"seal", seal},
          {"batch_set", set},
          {"append", append},
          {"attend", attend},
          {"stats", stats, false},
          {"release", release, false}};
}

Lost Open(uint64_t home_bytes) {
  World world({64, 3, DType::kBFloat16, home_bytes}, SWELL_GPU_BATCH_EXACT);
  Mirror mirror = world.Create();
  world.PutAll(mirror, 500);
  world.SetBatch({&mirror});
  world.Step(false);
  Lost lost;
  std::swap(lost.gpu, world.gpu);
  std::swap(lost.batch, world.batch);
  lost.sequence = mirror.id;
  cudaMalloc(&lost.rows, 1 << 16);
  return lost;
}

// Says what is wrong with a call's answer, if anything.
bool SaysLost(const char* first, const NamedCall& named, Lost& lost) {
  swell_error* error = nullptr;
  const swell_code code = named.call(lost, &error);
  const bool says = code == SWELL_UNAVAILABLE && std::strstr(swell_error_message(error), "device lost") != nullptr;
  if (!says) std::fprintf(stderr, "first %s, then %s: %d %s\n", first, named.name, code, swell_error_message(error));
  swell_error_destroy(&error);
  return says;
}

// The process: 0 when all is as it should be.
[[noreturn]] void LoseTheDevice() {
  const std::vector<NamedCall> calls = Calls();
  std::vector<Lost> engines;
  for (size_t i = 0; i < calls.size(); ++i) engines.push_back(Open(i % 2 == 0 ? 0 : uint64_t{4} << 20));
  LaunchTrap(nullptr);
  bool good = cudaDeviceSynchronize() != cudaSuccess;
  for (size_t i = 0; i < calls.size(); ++i) {
    Lost& lost = engines[i];
    if (calls[i].asks_device) good &= SaysLost(calls[i].name, calls[i], lost);
    if (!calls[i].asks_device) {
      swell_error* error = nullptr;
      calls[i].call(lost, &error);
      swell_error_destroy(&error);
      good &= SaysLost(calls[i].name, calls[0], lost);
    }
    for (const NamedCall& named : calls) good &= SaysLost(calls[i].name, named, lost);
    if (i % 2 == 0) swell_gpu_batch_destroy(&lost.batch);
    swell_gpu_close(&lost.gpu);
    swell_gpu_batch_destroy(&lost.batch);
  }
  std::_Exit(good && !testing::Test::HasFailure() ? 0 : 1);
}

TEST(GpuLostDeathTest, EveryCallSaysSo) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // starts the program anew: CUDA does not survive a fork
  EXPECT_EXIT(LoseTheDevice(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace swell::cuda
