// swell cache-sim: caches in front of the keys and values of a trace of a real model, under the wave index's choice of
// tokens.
#include "tools/swell/cache_sim.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <utility>

#include "swell/cache.h"
#include "tools/report/file.h"
#include "tools/swell/command.h"
#include "tools/swell/json.h"
#include "tools/swell/replayed_head.h"
#include "tools/swell/terminal.h"
#include "tools/trace/trace.h"

namespace swell::cli {
namespace {

// Output errors are taken at every step of this many.
constexpr int64_t kErrorSteps = 16;

struct Options {
  std::string trace = "swell-trace.bin";
  std::vector<std::string> policies = {"lru", "clock", "frequency"};
  std::vector<double> betas = {0, 0.5, 1, 2};
  std::vector<double> sizes = {0.03, 0.05, 0.1};
  int64_t warm_steps = 128;
  SequenceOptions sequence;
  std::string json;
  std::string report;
};

using Heads = std::vector<std::unique_ptr<ReplayedHead>>;

cache::PolicyKind PolicyOf(const std::string& name) {
  if (name == "lru") return cache::PolicyKind::kLru;
  return name == "clock" ? cache::PolicyKind::kClock : cache::PolicyKind::kFrequency;
}

cache::BlockKey KeyOf(size_t head, uint32_t token) { return cache::BlockKey{uint64_t{head} << 32 | token}; }

// Hits and misses of each head, and errors summed; `steps` are of all heads.
struct Counts {
  std::vector<int64_t> hits, misses;
  int64_t steps = 0;
  double error = 0;
  int64_t errors = 0;

  CachePoint Point(double size) const {
    CachePoint point{.size = size, .worst_head = 1};
    int64_t all_hits = 0, all = 0;
    for (size_t h = 0; h < hits.size(); ++h) {
      const int64_t reads = hits[h] + misses[h];
      if (reads == 0) continue;
      point.worst_head = std::min(point.worst_head, static_cast<double>(hits[h]) / static_cast<double>(reads));
      all_hits += hits[h];
      all += reads;
    }
    point.hit_ratio = static_cast<double>(all_hits) / static_cast<double>(std::max<int64_t>(1, all));
    point.tokens_read = static_cast<double>(all) / static_cast<double>(std::max<int64_t>(1, steps));
    point.tokens_missed = static_cast<double>(all - all_hits) / static_cast<double>(std::max<int64_t>(1, steps));
    return point;
  }
};

// Runs `heads`, whose numbers begin at `first`, through one cache of `slots` tokens; adds to *counts.
Status RunCache(const Options& options, const std::string& policy, double beta, int64_t slots,
                std::span<const std::unique_ptr<ReplayedHead>> heads, size_t first, Counts* counts) {
  cache::CacheOptions cache_options;
  cache_options.block_bytes = 1;
  cache_options.budget_bytes = slots;
  cache_options.policy = PolicyOf(policy);
  auto cache = cache::BlockCache::Create(cache_options);
  if (!cache.ok()) return cache.status();
  std::vector<cache::BlockKey> keys;
  std::vector<cache::Placement> placements;
  for (int64_t step = 0; step < heads[0]->steps(); ++step) {
    SWELL_RETURN_IF_ERROR((*cache)->BeginStep());
    for (size_t h = 0; h < heads.size(); ++h) {
      const auto cached = [&](uint32_t token) { return (*cache)->Contains(KeyOf(first + h, token)); };
      keys.clear();
      for (const uint32_t token : heads[h]->Select(step, static_cast<float>(beta), cached)) {
        keys.push_back(KeyOf(first + h, token));
      }
      placements.resize(keys.size());
      SWELL_RETURN_IF_ERROR((*cache)->Plan(keys, placements));
      if (step < options.warm_steps) continue;
      for (const cache::Placement& placement : placements) {
        ++(placement.hit ? counts->hits : counts->misses)[first + h];
      }
      if (step % kErrorSteps != 0) continue;
      counts->error += heads[h]->OutputError(step);
      ++counts->errors;
    }
    SWELL_RETURN_IF_ERROR((*cache)->EndStep());
  }
  return OkStatus();
}

// The same for the best that a policy could do, which knows the steps to come.
Status RunOptimum(const Options& options, int64_t slots, std::span<const std::unique_ptr<ReplayedHead>> heads,
                  size_t first, Counts* counts) {
  cache::Trace trace(heads[0]->steps());
  for (int64_t step = 0; step < heads[0]->steps(); ++step) {
    for (size_t h = 0; h < heads.size(); ++h) {
      for (const uint32_t token : heads[h]->Select(step, 0, nullptr)) trace[step].push_back(KeyOf(first + h, token));
    }
  }
  const Result<cache::TraceResult> result = cache::SimulateOptimum(slots, trace, options.warm_steps);
  if (!result.ok()) return result.status();
  counts->hits[first] += result->hits;
  counts->misses[first] += result->misses;
  return OkStatus();
}

Result<CacheRow> Simulate(const Options& options, const Heads& heads, const std::string& policy, double beta,
                          bool shared) {
  CacheRow row{.policy = policy, .beta = beta, .shared = shared, .points = {}};
  for (size_t i = 0; i < options.sizes.size(); ++i) {
    Counts counts;
    counts.hits.resize(heads.size());
    counts.misses.resize(heads.size());
    counts.steps = static_cast<int64_t>(heads.size()) * (heads[0]->steps() - options.warm_steps);
    const auto of_head =
        std::max<int64_t>(1, static_cast<int64_t>(options.sizes[i] * static_cast<double>(heads[0]->tokens())));
    const size_t together = shared ? heads.size() : 1;
    for (size_t first = 0; first < heads.size(); first += together) {
      const auto some = std::span(heads).subspan(first, together);
      const int64_t slots = of_head * static_cast<int64_t>(together);
      SWELL_RETURN_IF_ERROR(policy == "optimum" ? RunOptimum(options, slots, some, first, &counts)
                                                : RunCache(options, policy, beta, slots, some, first, &counts));
    }
    row.points.push_back(counts.Point(options.sizes[i]));
    if (i == options.sizes.size() / 2 && counts.errors > 0) {
      row.output_error = counts.error / static_cast<double>(counts.errors);
    }
  }
  return row;
}

Result<Heads> ReadHeads(const trace::Trace& trace, const Options& options) {
  const trace::TraceShape& shape = trace.shape();
  Heads heads;
  Progress progress("clustering", static_cast<int64_t>(shape.layers.size()) * shape.kv_heads);
  for (size_t layer = 0; layer < shape.layers.size(); ++layer) {
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      auto read = ReplayedHead::Read(trace, static_cast<int64_t>(layer), head, options.sequence, kErrorSteps);
      if (!read.ok()) return read.status();
      heads.push_back(*std::move(read));
      progress.Update(static_cast<int64_t>(heads.size()));
    }
  }
  return heads;
}

Status RunCacheSim(const Options& options) {
  for (const std::string& path : {options.json, options.report}) {
    if (!path.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(path));
  }
  const Result<trace::Trace> trace = trace::Trace::Open(options.trace);
  if (!trace.ok()) return trace.status();
  if (trace->shape().decode_steps <= options.warm_steps) {
    return InvalidArgument("--warm: the trace has " + std::to_string(trace->shape().decode_steps) + " decoded tokens");
  }
  const Result<Heads> heads = ReadHeads(*trace, options);
  if (!heads.ok()) return heads.status();
  CacheReport report;
  report.trace = options.trace;
  report.heads = static_cast<int64_t>(heads->size());
  report.tokens = (*heads)[0]->tokens();
  report.steps = trace->shape().decode_steps;
  report.warm_steps = options.warm_steps;
  report.retrieve_above = options.sequence.retrieval.retrieve_above;
  report.retrieve_share = options.sequence.retrieval.retrieve_share;
  Progress progress("caches", 2 * static_cast<int64_t>(options.policies.size() * options.betas.size() + 1));
  for (const bool shared : {true, false}) {
    const auto add = [&](const std::string& policy, double beta) {
      auto row = Simulate(options, *heads, policy, beta, shared);
      if (row.ok()) report.rows.push_back(*std::move(row));
      progress.Update(static_cast<int64_t>(report.rows.size()));
      return row.status();
    };
    for (const std::string& policy : options.policies) {
      for (const double beta : options.betas) SWELL_RETURN_IF_ERROR(add(policy, beta));
    }
    SWELL_RETURN_IF_ERROR(add("optimum", 0));
  }
  PrintCacheSim(report, std::cout);
  if (!options.json.empty()) {
    SWELL_RETURN_IF_ERROR(report::WriteFile(options.json, JsonText(CacheSimJson(report))));
  }
  return options.report.empty() ? OkStatus() : report::WriteFile(options.report, CacheSimHtml(report));
}

}  // namespace

Command AddCacheSim(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand(
      "cache-sim", "Replay a trace against caches of several sizes and policies: how much of what is read they hold");
  app->add_option("--trace", options->trace, "What swell trace wrote")->capture_default_str();
  app->add_option("--policies", options->policies, "Which block gives way")
      ->delimiter(',')
      ->check(CLI::IsMember({"lru", "clock", "frequency"}))
      ->capture_default_str();
  app->add_option("--betas", options->betas, "Nats by which cached clusters are preferred; 0: not at all")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app->add_option("--sizes", options->sizes, "Sizes of the cache, as shares of the clustered tokens, ascending")
      ->delimiter(',')
      ->check(CLI::Range(0.0001, 1.0))
      ->capture_default_str();
  app->add_option("--warm", options->warm_steps, "First steps, which fill the cache and are not counted")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  app->add_option("--retrieve-share", options->sequence.retrieval.retrieve_share,
                  "Share of the tokens that is read at most")
      ->check(CLI::Range(0.0001, 1.0))
      ->capture_default_str();
  app->add_option("--retrieve-above", options->sequence.retrieval.retrieve_above,
                  "Share of the mass above which clusters are read; 0: until --retrieve-share is spent")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  app->add_option("--json", options->json, "Write every point to this file");
  app->add_option("--report", options->report, "Write a page with a plot to this file");
  return {app, [options] { return RunCacheSim(*options); }};
}

}  // namespace swell::cli
