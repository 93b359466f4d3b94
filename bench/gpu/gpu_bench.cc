// Decode steps of one layer on the device, with rows in device memory and in host memory, and building its index there:
// 8 KV heads, group 4, head_dim 128, bfloat16, default options. Prints tables.
//
// usage: gpu_bench [--build | --buffer] [--sdpa FILE] [TOKENS:BATCH ...]
// --build prints the table of builds alone, --buffer that of steps with rows in host memory.
// FILE has lines "TOKENS BATCH US": times of PyTorch's attention in the same run.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/gpu/baselines.h"
#include "bench/gpu/build_timing.h"
#include "bench/gpu/step_timing.h"
#include "bench/gpu/timing.h"
#include "cuda/device/device.h"

namespace {

using Size = std::pair<int64_t, int32_t>;  // tokens, batch

std::map<Size, double> ReadTimes(const char* path) {
  std::map<Size, double> times;
  std::ifstream file(path);
  int64_t tokens = 0;
  int32_t batch = 0;
  double us = 0;
  while (file >> tokens >> batch >> us) times[{tokens, batch}] = us;
  return times;
}

// Builds of a layer, and of as much as a prompt's chunk or a seal brings.
void PrintBuilds() {
  using namespace swell;
  constexpr int64_t kLayer = 131072;
  constexpr std::pair<int64_t, int64_t> kBuilds[] = {{kLayer, 2048}, {8192, 2048}, {2048, 2048}, {512, 512}};
  const bench::SyntheticLayer content(kLayer);
  std::printf("\n| tokens | segments of | build ms |\n| --- | --- | --- |\n");
  for (const auto& [tokens, segment] : kBuilds) {
    std::printf("| %lld | %lld | %.3f |\n", static_cast<long long>(tokens), static_cast<long long>(segment),
                bench::TimeBuild(content, tokens, segment));
  }
}

// Steps with all rows in host memory, at the hit ratios that walking queries bring.
void PrintBuffered(const std::map<Size, double>& sdpa) {
  using namespace swell;
  constexpr double kCacheShare = 0.05;
  const std::vector<double> walks = {0.97, 0.98, 0.99, 0.995};
  const bench::BufferSetting settings[] = {
      {kCacheShare, DType::kBFloat16, 0}, {kCacheShare, DType::kBFloat16, 1}, {kCacheShare, DType::kInt8, 0}};
  const double link = bench::HostBandwidth();
  std::printf("\nhost to device %.1f GB/s; cache of %.0f %%\n\n", link, 100 * kCacheShare);
  std::printf(
      "| context, batch | at home | preference | correlation | hit ratio | step us | SDPA / step | host bytes' time us "
      "|\n");
  std::printf("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
  std::unique_ptr<bench::SyntheticLayer> content;
  int64_t content_tokens = 0;
  for (const auto& [tokens, batch] : {Size{131072, 1}, Size{131072, 4}, Size{131072, 16}, Size{1048576, 1}}) {
    if (content_tokens != tokens) content = std::make_unique<bench::SyntheticLayer>(tokens);
    content_tokens = tokens;
    const auto found = sdpa.find({tokens, batch});
    const double reference = found != sdpa.end() ? found->second : 0;
    for (const bench::BufferSetting& setting : settings) {
      for (const auto& times : bench::TimeBufferedStep(*content, tokens, batch, setting, walks)) {
        std::printf("| %lldK, %d | %s | %.0f | %.3f | %.3f | %.1f | %.1f | %.1f |\n",
                    static_cast<long long>(tokens / 1024), batch, setting.home == DType::kInt8 ? "int8" : "bf16",
                    setting.preference, times.walk, times.hit_ratio, times.step_us, reference / times.step_us,
                    times.host_bytes / link / 1000);
      }
    }
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  using namespace swell;
  std::map<Size, double> sdpa;
  std::vector<Size> sizes;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--sdpa") == 0 && i + 1 < argc) {
      sdpa = ReadTimes(argv[++i]);
      continue;
    }
    if (std::strcmp(argv[i], "--build") == 0) {
      PrintBuilds();
      return 0;
    }
    if (std::strcmp(argv[i], "--buffer") == 0) {
      PrintBuffered(sdpa);
      return 0;
    }
    long long tokens = 0;
    int batch = 0;
    if (std::sscanf(argv[i], "%lld:%d", &tokens, &batch) != 2 || tokens < 1 || batch < 1 ||
        tokens % bench::kSegmentTokens != 0) {
      std::fprintf(
          stderr,
          "usage: gpu_bench [--build | --buffer] [--sdpa FILE] [TOKENS:BATCH ...]; TOKENS a multiple of 2048\n");
      return 2;
    }
    sizes.emplace_back(tokens, batch);
  }
  if (sizes.empty()) sizes = {{131072, 1}, {131072, 4}, {131072, 16}, {1048576, 1}, {1048576, 4}};
  const auto info = cuda::GetDeviceInfo(0);
  bench::Check(info.status());
  const double bandwidth = bench::ReadBandwidth();
  std::printf("%s, %d multiprocessors, reads %.2f TB/s\n\n", info->name.c_str(), info->multiprocessors,
              bandwidth / 1000);
  std::printf(
      "| context, batch | step us | PyTorch SDPA us | own exact us | SDPA / step | bytes' time us | step / bytes' time "
      "| after each stage us | tokens read | error, predicted |\n");
  std::printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
  std::unique_ptr<bench::SyntheticLayer> content;
  int64_t content_tokens = 0;
  for (const auto& [tokens, batch] : sizes) {
    if (content_tokens != tokens) content = std::make_unique<bench::SyntheticLayer>(tokens);
    content_tokens = tokens;
    const double full = bench::FullAttention(tokens, batch);
    const bench::StepTimes times = bench::TimeStep(*content, tokens, batch);
    const double roof = times.bytes / bandwidth / 1000;
    std::string stages;
    for (int i = 0; i < times.stages; ++i) {
      char text[32];
      std::snprintf(text, sizeof(text), "%s%.1f", i > 0 ? ", " : "", times.stages_us[i]);
      stages += text;
    }
    const auto found = sdpa.find({tokens, batch});
    const double reference = found != sdpa.end() ? found->second : 0;
    std::printf("| %lldK, %d | %.1f | %.0f | %.0f | %.1f | %.1f | %.2f | %s | %.0f | %.3f, %.3f |\n",
                static_cast<long long>(tokens / 1024), batch, times.step_us, reference, full, reference / times.step_us,
                roof, times.step_us / roof, stages.c_str(), times.tokens_read, times.error, times.predicted_error);
    std::fflush(stdout);
  }
  PrintBuffered(sdpa);
  PrintBuilds();
  return 0;
}
