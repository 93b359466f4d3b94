// swell index-bench: recall against keys scanned, time and bytes, on a trace of a real model.
#include "tools/swell/index_bench.h"

#include <cblas.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "swell/faiss_index.h"
#include "swell/key_index.h"
#include "tools/report/file.h"
#include "tools/swell/command.h"
#include "tools/swell/head_clusters.h"
#include "tools/swell/json.h"
#include "tools/swell/terminal.h"
#include "tools/trace/trace.h"

namespace swell::cli {
namespace {

// Queries of the product that builds are compared with.
constexpr int64_t kProductQueries = 16384;

struct Options {
  std::string trace = "swell-trace.bin";
  std::vector<std::string> indexes = {"flat", "graph", "ivf", "ivf_sq8", "hnsw"};
  std::vector<int64_t> layers;  // empty: all of the trace
  int64_t steps = 32;
  int64_t top_k = 100;
  double target = 0.95;
  int64_t sinks = 4;
  int64_t window = 64;
  GraphOptions graph;
  int64_t entry_clusters = 96;  // as in the engine; 0: the graph's own entries
  int32_t ivf_lists = 0;
  int32_t hnsw_neighbours = 32;
  double seconds = 0;  // 0: as long as it takes
  std::string json;
  std::string report;
};

// One KV head of the trace: keys in a table of one chunk, the queries of the text and those of decoding.
struct Head {
  std::vector<std::byte> keys;
  KeyChunk chunk;
  KeyTable table;
  std::vector<float> text_queries;  // [.., head_dim], all query heads of the group
  std::vector<int64_t> visible;
  std::vector<float> queries;               // of decoded tokens
  std::vector<FoundKey> best;               // [queries, top_k]
  std::vector<std::vector<float>> weights;  // [queries][keys]: of the softmax over the indexed keys
};

using Clock = std::chrono::steady_clock;

// Processor time of this thread, which does all the work: other programs do not count.
double Now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Seconds that the best library takes for the products alone, of `queries` with `keys`; what the numbers are does not
// matter to it.
double TimeProduct(int32_t head_dim, int64_t queries, int64_t keys) {
  constexpr int64_t kQueries = 512;
  constexpr int64_t kKeys = 2048;
  const std::vector<float> a(static_cast<size_t>(queries * head_dim), 0.5F);
  const std::vector<float> b(static_cast<size_t>(keys * head_dim), 0.5F);
  std::vector<float> products(kQueries * kKeys);
  const auto dim = static_cast<blasint>(head_dim);
  openblas_set_num_threads(1);
  const double begin = Now();
  for (int64_t q = 0; q < queries; q += kQueries) {
    const auto m = static_cast<blasint>(std::min(kQueries, queries - q));
    for (int64_t k = 0; k < keys; k += kKeys) {
      const auto n = static_cast<blasint>(std::min(kKeys, keys - k));
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, dim, 1, &a[q * head_dim], dim, &b[k * head_dim], dim,
                  0, products.data(), kKeys);
    }
  }
  return Now() - begin;
}

void CopyQueries(const trace::TraceShape& shape, const trace::TraceLayer& layer, int32_t head, const Options& options,
                 Head& to) {
  const int64_t group = shape.query_heads / shape.kv_heads;
  const int64_t row = int64_t{shape.query_heads} * shape.head_dim;
  const auto copy = [&](int64_t query, std::vector<float>& rows) {
    const auto from = layer.queries.begin() + query * row + head * group * shape.head_dim;
    rows.insert(rows.end(), from, from + group * shape.head_dim);
  };
  const auto sampled = static_cast<int64_t>(shape.prefill_positions.size());
  for (int64_t i = 0; i < sampled; ++i) {
    copy(i, to.text_queries);
    to.visible.insert(to.visible.end(), static_cast<size_t>(group), shape.prefill_positions[i] + 1 - options.sinks);
  }
  const int64_t steps = std::min(options.steps, shape.decode_steps);
  for (int64_t i = 0; i < steps; ++i) copy(sampled + i * shape.decode_steps / steps, to.queries);
}

// The right answers: the best keys, and the weight of every key.
Status FindTruth(const trace::TraceShape& shape, const Options& options, Head& head) {
  auto flat = MakeFlatKeyIndex(head.table);
  if (!flat.ok()) return flat.status();
  const int64_t tokens = head.table.tokens;
  const auto n_queries = static_cast<int64_t>(head.queries.size()) / shape.head_dim;
  std::vector<FoundKey> all(static_cast<size_t>(tokens));
  for (int64_t q = 0; q < n_queries; ++q) {
    const float* query = &head.queries[q * shape.head_dim];
    SWELL_RETURN_IF_ERROR((*flat)->Search(head.table, query, 1, tokens, {}, all.data(), nullptr));
    head.best.insert(head.best.end(), all.begin(), all.begin() + options.top_k);
    std::vector<float>& weights = head.weights.emplace_back(tokens);
    double sum = 0;
    for (const FoundKey& key : all) sum += std::exp(double{shape.scale} * (key.product - all[0].product));
    for (const FoundKey& key : all) {
      weights[key.token] = static_cast<float>(std::exp(double{shape.scale} * (key.product - all[0].product)) / sum);
    }
  }
  return OkStatus();
}

Result<std::unique_ptr<Head>> ReadHead(const trace::Trace& trace, int64_t layer_index, int32_t head,
                                       const Options& options) {
  const trace::TraceShape& shape = trace.shape();
  const trace::TraceLayer layer = trace.layer(layer_index);
  auto result = std::make_unique<Head>();
  const int64_t tokens = shape.prefill_tokens - options.sinks - options.window;
  if (tokens < options.top_k) return InvalidArgument("the trace has fewer keys than --top");
  const size_t row = shape.head_dim * DTypeSize(shape.dtype);
  result->keys.resize(static_cast<size_t>(tokens) * row);
  for (int64_t token = 0; token < tokens; ++token) {
    std::memcpy(&result->keys[token * row], &layer.keys[((token + options.sinks) * shape.kv_heads + head) * row], row);
  }
  result->chunk = {result->keys.data(), nullptr, nullptr};
  result->table = {shape.dtype, shape.head_dim, tokens, 30, {&result->chunk, 1}};
  CopyQueries(shape, layer, head, options, *result);
  SWELL_RETURN_IF_ERROR(FindTruth(shape, options, *result));
  return result;
}

Result<std::unique_ptr<KeyIndex>> BuildIndex(const std::string& name, const Head& head, const Options& options) {
  if (name == "flat") return MakeFlatKeyIndex(head.table);
  if (name == "graph") {
    return BuildGraphIndex(options.graph, head.table,
                           {head.text_queries.data(), head.visible.data(), static_cast<int64_t>(head.visible.size())});
  }
#ifdef SWELL_FAISS
  if (name == "ivf") return BuildFaissIndex({FaissKind::kIvfFlat, options.ivf_lists}, head.table);
  if (name == "ivf_sq8") return BuildFaissIndex({FaissKind::kIvfSq8, options.ivf_lists}, head.table);
  if (name == "hnsw") return BuildFaissIndex({FaissKind::kHnsw, options.hnsw_neighbours}, head.table);
#endif
  return Status(StatusCode::kUnimplemented, "this build has no FAISS, which --indexes " + name + " needs");
}

// From little to much, about 1.3 times more each time.
std::vector<int64_t> Efforts(const std::string& name, const Options& options, int64_t keys) {
  if (name == "flat") return {1};
  std::vector<int64_t> efforts;
  const int64_t first = name == "graph" ? 8 : name == "hnsw" ? options.top_k : 1;
  for (int64_t effort = first; effort <= keys / 2; effort += std::max<int64_t>(1, effort / 3)) {
    efforts.push_back(effort);
  }
  return efforts;
}

// One index of a head with what its searches begin with.
struct Searched {
  std::unique_ptr<KeyIndex> index;
  std::optional<HeadClusters> clusters;
};

// Searches for all queries; *compared, which may be null, grows as in KeyIndex::Search, centroids of clusters included.
Status SearchAll(Searched& searched, const Head& head, const Options& options, int64_t effort, FoundKey* found,
                 int64_t* compared) {
  const auto n_queries = static_cast<int64_t>(head.weights.size());
  std::vector<std::vector<uint32_t>> tokens;
  if (searched.clusters) {
    tokens.resize(static_cast<size_t>(n_queries));
    for (int64_t q = 0; q < n_queries; ++q) {
      searched.clusters->AppendBest(&head.queries[q * head.table.head_dim], options.entry_clusters, tokens[q]);
    }
    if (compared != nullptr) *compared += n_queries * searched.clusters->clusters();
  }
  const std::vector<std::span<const uint32_t>> entries(tokens.begin(), tokens.end());
  const SearchEffort search{.pool = effort, .visits = head.table.tokens, .entries = entries};
  return searched.index->Search(head.table, head.queries.data(), n_queries, options.top_k, search, found, compared);
}

Result<SearchPoint> Measure(Searched& searched, const Head& head, const Options& options, int64_t effort) {
  const auto n_queries = static_cast<int64_t>(head.weights.size());
  std::vector<FoundKey> found(head.best.size());
  int64_t scanned = 0;
  SWELL_RETURN_IF_ERROR(SearchAll(searched, head, options, effort, found.data(), &scanned));
  const double begin = Now();
  SWELL_RETURN_IF_ERROR(SearchAll(searched, head, options, effort, found.data(), nullptr));
  SearchPoint point;
  point.effort = effort;
  point.seconds = (Now() - begin) / static_cast<double>(n_queries);
  point.scanned = static_cast<double>(scanned) / static_cast<double>(n_queries * head.table.tokens);
  int64_t hits = 0;
  for (int64_t q = 0; q < n_queries; ++q) {
    std::vector<int64_t> best;
    for (int64_t k = 0; k < options.top_k; ++k) best.push_back(head.best[q * options.top_k + k].token);
    std::sort(best.begin(), best.end());
    for (int64_t k = 0; k < options.top_k; ++k) {
      const int64_t token = found[q * options.top_k + k].token;
      if (token < 0) continue;
      hits += std::binary_search(best.begin(), best.end(), token) ? 1 : 0;
      point.mass += head.weights[q][token];
    }
  }
  point.recall = static_cast<double>(hits) / static_cast<double>(n_queries * options.top_k);
  point.mass /= static_cast<double>(n_queries);
  return point;
}

// One head's curve up to a little above the target; false when there was no time for all of it.
Result<bool> MeasureHead(const std::string& name, const Head& head, const Options& options, Clock::time_point end,
                         HeadBench& bench) {
  const double begin = Now();
  auto index = BuildIndex(name, head, options);
  if (!index.ok()) return index.status();
  bench.build_seconds = Now() - begin;
  bench.bytes = static_cast<double>((*index)->bytes()) / static_cast<double>(head.table.tokens);
  Searched searched{std::move(index).value(), {}};
  if (name == "graph" && options.entry_clusters > 0) {
    auto clusters = HeadClusters::Build(head.table);
    if (!clusters.ok()) return clusters.status();
    bench.centroids = static_cast<double>(clusters->clusters()) / static_cast<double>(head.table.tokens);
    searched.clusters = std::move(clusters).value();
  }
  const double enough = options.target + (1 - options.target) / 2;
  for (const int64_t effort : Efforts(name, options, head.table.tokens)) {
    if (Clock::now() >= end) return false;
    const Result<SearchPoint> point = Measure(searched, head, options, effort);
    if (!point.ok()) return point.status();
    bench.points.push_back(*point);
    if (point->recall >= enough || point->scanned > 1) break;
  }
  return true;
}

Result<std::vector<int64_t>> ChooseLayers(const trace::TraceShape& shape, const Options& options) {
  std::vector<int64_t> chosen;
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const bool wanted = std::count(options.layers.begin(), options.layers.end(), shape.layers[i]) > 0;
    if (wanted || options.layers.empty()) chosen.push_back(static_cast<int64_t>(i));
  }
  if (chosen.empty()) return InvalidArgument("--layers: the trace has none of them");
  return chosen;
}

// Measures heads until `end`: the first of every layer, then the second. One for which the time was short is left out.
Status MeasureHeads(const trace::Trace& trace, const std::vector<int64_t>& layers, const Options& options,
                    Clock::time_point end, IndexBenchReport& report) {
  const trace::TraceShape& shape = trace.shape();
  Progress progress("heads", report.heads);
  int64_t measured = 0;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (const int64_t layer : layers) {
      if (Clock::now() >= end) return OkStatus();
      const Result<std::unique_ptr<Head>> read = ReadHead(trace, layer, head, options);
      if (!read.ok()) return read.status();
      std::vector<HeadBench> benches;
      for (const IndexBench& index : report.indexes) {
        benches.push_back({.layer = shape.layers[layer], .kv_head = head, .points = {}});
        const Result<bool> whole = MeasureHead(index.index, **read, options, end, benches.back());
        if (!whole.ok()) return whole.status();
        if (!*whole) return OkStatus();
      }
      for (size_t i = 0; i < benches.size(); ++i) report.indexes[i].heads.push_back(std::move(benches[i]));
      progress.Update(++measured);
    }
  }
  return OkStatus();
}

Status RunIndexBench(const Options& options) {
  const Clock::time_point end =
      options.seconds > 0
          ? Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds))
          : Clock::time_point::max();
  for (const std::string& path : {options.json, options.report}) {
    if (!path.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(path));
  }
  const Result<trace::Trace> trace = trace::Trace::Open(options.trace);
  if (!trace.ok()) return trace.status();
  const trace::TraceShape& shape = trace->shape();
  if (shape.decode_steps < 1) return InvalidArgument("the trace has no decoded tokens, whose queries are searched for");
  const Result<std::vector<int64_t>> layers = ChooseLayers(shape, options);
  if (!layers.ok()) return layers.status();
  IndexBenchReport report;
  report.trace = options.trace;
  report.top_k = options.top_k;
  report.target = options.target;
  for (const std::string& name : options.indexes) report.indexes.push_back({name, {}});
  const int64_t group = shape.query_heads / shape.kv_heads;
  report.keys = std::max<int64_t>(0, shape.prefill_tokens - options.sinks - options.window);
  report.queries = std::min(options.steps, shape.decode_steps) * group;
  const int64_t text_queries = static_cast<int64_t>(shape.prefill_positions.size()) * group;
  report.build_queries = QueriesUsed(options.graph, report.keys, text_queries);
  report.product_queries = std::min(kProductQueries, text_queries);
  report.heads = static_cast<int64_t>(layers->size()) * shape.kv_heads;
  report.kv_bytes = 2 * shape.head_dim * static_cast<int64_t>(DTypeSize(shape.dtype));
  report.product_seconds = TimeProduct(shape.head_dim, report.product_queries, report.keys);
  SWELL_RETURN_IF_ERROR(MeasureHeads(*trace, *layers, options, end, report));
  PrintIndexBench(report, std::cout);
  if (!options.json.empty()) {
    SWELL_RETURN_IF_ERROR(report::WriteFile(options.json, JsonText(IndexBenchJson(report))));
  }
  return options.report.empty() ? OkStatus() : report::WriteFile(options.report, IndexBenchHtml(report));
}

}  // namespace

Command AddIndexBench(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand(
      "index-bench", "Find the best keys of real queries with several indexes: recall, keys scanned, time, bytes");
  app->add_option("--trace", options->trace, "What swell trace wrote")->capture_default_str();
  app->add_option("--indexes", options->indexes, "Which indexes")
      ->delimiter(',')
      ->check(CLI::IsMember({"flat", "graph", "ivf", "ivf_sq8", "hnsw"}))
      ->capture_default_str();
  app->add_option("--layers", options->layers, "Layers of the trace, as 0,5,11 (default: all)")->delimiter(',');
  app->add_option("--steps", options->steps, "Decoded tokens whose queries are searched for, evenly over the trace's")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->capture_default_str();
  app->add_option("--top", options->top_k, "Keys to find")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->capture_default_str();
  app->add_option("--recall", options->target, "The recall that the table compares at")
      ->check(CLI::Range(0.01, 0.999))
      ->capture_default_str();
  app->add_option("--sinks", options->sinks, "First tokens that are not indexed")
      ->check(CLI::Range(int64_t{0}, int64_t{65536}))
      ->capture_default_str();
  app->add_option("--window", options->window, "Last tokens of the text that are not indexed")
      ->check(CLI::Range(int64_t{0}, int64_t{65536}))
      ->capture_default_str();
  app->add_option("--degree", options->graph.degree, "Graph: most neighbours of a key")->capture_default_str();
  app->add_option("--reach", options->graph.reach, "Graph: ranks between keys that may be linked")
      ->capture_default_str();
  app->add_option("--list-keys", options->graph.list_keys, "Graph: best keys of a query that are linked")
      ->capture_default_str();
  app->add_option("--entry-queries", options->graph.entry_queries,
                  "Graph: queries that a search is compared with first")
      ->capture_default_str();
  app->add_option("--entry-clusters", options->entry_clusters,
                  "Graph: clusters of the wave index at whose keys a search begins (0: at those of --entry-queries)")
      ->check(CLI::Range(int64_t{0}, int64_t{65536}))
      ->capture_default_str();
  app->add_option("--build-queries", options->graph.max_queries,
                  "Graph: queries of the text that it is drawn from (0: an eighth of the keys)")
      ->capture_default_str();
  app->add_option("--ivf-lists", options->ivf_lists, "FAISS IVF: lists (0: square root of the keys)")
      ->capture_default_str();
  app->add_option("--hnsw-neighbours", options->hnsw_neighbours, "FAISS HNSW: M")->capture_default_str();
  app->add_option("--seconds", options->seconds,
                  "Begin nothing after so much time; whole heads are reported (0: no limit)")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--json", options->json, "Write every point of every head to this file");
  app->add_option("--report", options->report, "Write a page with plots to this file");
  return {app, [options] { return RunIndexBench(*options); }};
}

}  // namespace swell::cli
