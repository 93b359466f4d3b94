// Soak: sequences begin, grow, fork, are cut and end under a byte budget, for as long as asked. Exits with 1 when
// memory grows, the budget is passed, a row is not what was put, or attention and appends take too long.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <thread>

#include "bench/soak/report.h"
#include "tools/report/file.h"

namespace swell::soak {
namespace {

struct Options {
  double minutes = 0;
  double load = 1;
  int64_t turns = 0;
  int64_t budget_mib = 96;
  int32_t threads = 0;
  int64_t clients = 1;
  std::string storage = "float16";
  std::string json;
  Workload workload;
};

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t pages = 0;
  int64_t resident = 0;
  statm >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Lets the clients run and samples memory meanwhile, about 240 times; a count of turns is sampled as it goes.
void Drive(const Options& options, Engine& engine, Run& run) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const double limit = options.minutes * 60;
  std::vector<std::unique_ptr<Client>> clients;
  for (int64_t c = 0; c < options.clients; ++c) {
    clients.push_back(
        std::make_unique<Client>(engine, options.workload, options.workload.seed + static_cast<uint64_t>(c)));
  }
  std::atomic<int64_t> running{options.clients};
  std::atomic<bool> failed{false};
  std::vector<std::thread> threads;
  for (auto& client : clients) {
    threads.emplace_back([&, client = client.get()] {
      for (int64_t turn = 0; !failed.load() && (options.turns > 0 ? turn < options.turns : elapsed() < limit); ++turn) {
        const auto began = Clock::now();
        if (!client->Turn()) failed.store(true);
        if (options.load < 1) std::this_thread::sleep_for((Clock::now() - began) * (1 / options.load - 1));
      }
      running.fetch_sub(1);
    });
  }
  const auto pause = std::chrono::duration<double>(options.turns > 0 ? 0.05 : limit / 240);
  while (running.load() == options.clients) {
    std::this_thread::sleep_for(pause);
    run.samples.push_back({elapsed(), ResidentBytes(), static_cast<int64_t>(engine.Stats().bytes_in_use)});
  }
  for (std::thread& thread : threads) thread.join();
  run.seconds = elapsed();
  for (auto& client : clients) {
    client->Finish();
    run.totals.Add(client->totals());
  }
}

int Main(const Options& options) {
  const std::map<std::string, DType> dtypes = {{"float32", DType::kFloat32},
                                               {"float16", DType::kFloat16},
                                               {"bfloat16", DType::kBFloat16},
                                               {"int8", DType::kInt8}};
  Run run;
  run.workload = options.workload;
  run.workload.shape.storage = dtypes.at(options.storage);
  run.clients = options.clients;
  run.budget_bytes = static_cast<uint64_t>(options.budget_mib) << 20;
  run.judge_times = options.turns == 0;
  EngineOptions engine_options;
  engine_options.shape = run.workload.shape;
  engine_options.threads = options.threads;
  engine_options.host_budget_bytes = run.budget_bytes;
  auto engine = Engine::Open(engine_options);
  if (!engine.ok()) {
    std::fprintf(stderr, "soak: %s\n", engine.status().message().c_str());
    return 1;
  }
  Options resolved = options;
  resolved.workload = run.workload;
  Drive(resolved, **engine, run);
  run.stats = (*engine)->Stats();
  std::fputs(ToText(run).c_str(), stdout);
  if (!options.json.empty()) {
    if (const Status status = report::WriteFile(options.json, ToJson(run)); !status.ok()) {
      std::fprintf(stderr, "soak: %s\n", status.message().c_str());
      return 1;
    }
  }
  const auto criteria = Judge(run);
  return std::all_of(criteria.begin(), criteria.end(), [](const Criterion& c) { return c.met(); }) ? 0 : 1;
}

}  // namespace
}  // namespace swell::soak

int main(int argc, char** argv) {
  swell::soak::Options options;
  swell::soak::Workload& workload = options.workload;
  workload.shape = {4, 2, 4, 64, 0, swell::DType::kFloat16};
  CLI::App app("Soak of the engine: memory, budget, rows and latencies over a long time.");
  auto* length = app.add_option_group("length");
  length->add_option("--minutes", options.minutes, "how long")->check(CLI::Range(0.05, 10000.0));
  length->add_option("--turns", options.turns, "instead: turns of each client; times are not judged")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  length->require_option(1);
  app.add_option("--load", options.load, "share of the time that a client works; it rests after every turn")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  app.add_option("--budget-mib", options.budget_mib, "byte budget of the engine")
      ->check(CLI::Range(8, 1 << 20))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "of the engine; 0: all")->capture_default_str();
  app.add_option("--clients", options.clients, "threads that use the engine")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--sequences", workload.sequences, "that a client keeps alive")
      ->check(CLI::Range(2, 10000))
      ->capture_default_str();
  app.add_option("--max-tokens", workload.max_tokens, "at which a sequence ends")
      ->check(CLI::Range(8192, 1 << 24))
      ->capture_default_str();
  app.add_option("--layers", workload.shape.layers)->capture_default_str();
  app.add_option("--kv-heads", workload.shape.kv_heads)->capture_default_str();
  app.add_option("--group", workload.shape.group)->capture_default_str();
  app.add_option("--head-dim", workload.shape.head_dim)->capture_default_str();
  app.add_option("--storage", options.storage)
      ->check(CLI::IsMember({"float32", "float16", "bfloat16", "int8"}))
      ->capture_default_str();
  app.add_option("--seed", workload.seed)->capture_default_str();
  app.add_option("--json", options.json, "file to write");
  CLI11_PARSE(app, argc, argv);
  return swell::soak::Main(options);
}
