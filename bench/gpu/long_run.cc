// Decode steps by the hundred thousand through the C API on one GPU, rows in host memory behind a small cache: appends,
// sealing, puts, forks, releases and truncation in rounds that are alike. Memory must be flat from round to round, and
// answers as near to float64 attention over the same rows as they were in the beginning.
//
// usage: long_run [STEPS [SEED]]
// Prints a table; 0: all is well, 1: it is not, 77: there is no GPU.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "bench/gpu/live_sequences.h"

namespace swell::bench {
namespace {

constexpr int kRoundSteps = 2000, kSealEvery = 200, kCompareEvery = 500;
constexpr int64_t kLifelong = 6000;  // tokens of the sequence that lives through all rounds, when a round begins

// What is held when a round has ended.
struct Held {
  double device_mib = 0;
  double resident_mib = 0;
  swell_gpu_stats stats = SWELL_GPU_STATS_INIT;
};

Held Measure(LiveSequences& live) {
  constexpr double kMib = 1 << 20;
  Held held;
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) std::exit(1);
  held.device_mib = static_cast<double>(total - free) / kMib;
  long pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  held.resident_mib = static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / kMib;
  held.stats = live.Stats();
  return held;
}

// `lifelong` has kLifelong tokens before and after.
void Round(LiveSequences& live, LiveSequence& lifelong, std::vector<AnswerErrors>* errors) {
  auto cut = live.Create(), fed = live.Create(), brief = live.Create();
  live.Put(*cut, 1500);
  live.Put(*fed, 301);
  live.SetBatch({&lifelong, cut.get(), fed.get(), brief.get()});
  std::unique_ptr<LiveSequence> fork, late;
  for (int step = 0; step < kRoundSteps; ++step) {
    if (step == 400) {
      fork = live.Fork(lifelong);
      live.SetBatch({&lifelong, cut.get(), fed.get(), fork.get()});
    } else if (step == 700) {
      live.Release(std::move(brief));
    } else if (step == 900) {
      live.Truncate(lifelong, 4321);  // inside a segment that the fork has, too
      live.Truncate(*cut, 1100);
    } else if (step == 1200) {
      live.Put(*fed, 700);
    } else if (step == 1600) {
      late = live.Create();
      live.Put(*late, 90);
      live.SetBatch({late.get(), fed.get(), &lifelong, cut.get()});
      live.Release(std::move(fork));
    }
    live.Step();
    if (step % kSealEvery == kSealEvery - 1) live.Seal();
    if (step % kCompareEvery == kCompareEvery - 1) errors->push_back(live.Compare());
  }
  live.SetBatch({&lifelong});
  for (auto* sequence : {&cut, &fed, &late}) live.Release(std::move(*sequence));
  live.Put(lifelong, kLifelong - static_cast<int64_t>(4321 + kRoundSteps - 900));
}

double MeanBudgetError(const std::vector<AnswerErrors>& errors, size_t first, size_t count) {
  double sum = 0;
  for (size_t i = first; i < first + count; ++i) sum += errors[i].budget / static_cast<double>(count);
  return sum;
}

// What is wrong, in words, or null.
const char* Judge(const std::vector<Held>& held, const std::vector<AnswerErrors>& errors) {
  constexpr double kSlackMib = 4;  // of a driver that gives memory back in pages
  const Held& first = held[std::min<size_t>(1, held.size() - 1)];
  const Held& last = held.back();
  if (last.stats.sealed_tokens != first.stats.sealed_tokens || last.stats.segment_bytes != first.stats.segment_bytes ||
      last.stats.tail_bytes != first.stats.tail_bytes || last.stats.batch_bytes != first.stats.batch_bytes) {
    return "the engine's memory is not what it was";
  }
  if (last.device_mib > first.device_mib + kSlackMib) return "device memory has grown";
  if (last.resident_mib > first.resident_mib + 4 * kSlackMib) return "host memory has grown";
  for (const AnswerErrors& error : errors) {
    if (!(error.exact < 0.02)) return "exact answers are not those of float64";
    if (!(error.budget < 0.1)) return "answers by budget are far off";
  }
  const size_t quarter = std::max<size_t>(1, errors.size() / 4);
  const double begin = MeanBudgetError(errors, 0, quarter);
  const double end = MeanBudgetError(errors, errors.size() - quarter, quarter);
  return end > 1.5 * begin + 0.005 ? "answers by budget drift" : nullptr;
}

int Run(int64_t steps, uint32_t seed) {
  const int64_t rounds = std::max<int64_t>(1, steps / kRoundSteps);
  std::printf("%lld steps, seed %u\n\n", static_cast<long long>(rounds * kRoundSteps), seed);
  std::printf("| steps | device MiB | segments KiB | resident MiB | largest error, exact | mean error, budget | s |\n");
  std::printf("| --- | --- | --- | --- | --- | --- | --- |\n");
  const auto begin = std::chrono::steady_clock::now();
  LiveSequences live(seed);
  const auto lifelong = live.Create();
  live.Put(*lifelong, kLifelong);
  std::vector<Held> held;
  std::vector<AnswerErrors> errors;
  size_t printed = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    Round(live, *lifelong, &errors);
    held.push_back(Measure(live));
    if (round > 1 && (round + 1) % 5 != 0 && round + 1 != rounds) continue;
    double worst = 0;
    for (size_t i = printed; i < errors.size(); ++i) worst = std::max(worst, errors[i].exact);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    std::printf("| %lld | %.0f | %.0f | %.0f | %.4f | %.4f | %.1f |\n",
                static_cast<long long>((round + 1) * kRoundSteps), held.back().device_mib,
                static_cast<double>(held.back().stats.segment_bytes) / 1024, held.back().resident_mib, worst,
                MeanBudgetError(errors, printed, errors.size() - printed), passed.count());
    std::fflush(stdout);
    printed = errors.size();
  }
  const char* wrong = Judge(held, errors);
  if (wrong != nullptr) std::printf("\nFAILED: %s\n", wrong);
  return wrong != nullptr ? 1 : 0;
}

}  // namespace
}  // namespace swell::bench

int main(int argc, char** argv) {
  const int64_t steps = argc > 1 ? std::atoll(argv[1]) : 100000;
  const uint32_t seed = argc > 2 ? static_cast<uint32_t>(std::atoll(argv[2])) : 5;
  if (steps < 1) {
    std::fprintf(stderr, "usage: long_run [STEPS [SEED]]\n");
    return 2;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device\n");
    return 77;
  }
  return swell::bench::Run(steps, seed);
}
