// Results of swell index-bench: how much of a head's keys each index looks at to find those that matter.
#ifndef SWELL_TOOLS_SWELL_INDEX_BENCH_H_
#define SWELL_TOOLS_SWELL_INDEX_BENCH_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

namespace swell::cli {

// Means over the queries of one head at one effort. Seconds are processor time of the one thread, here and below.
struct SearchPoint {
  int64_t effort = 0;  // SearchEffort::pool
  double recall = 0;   // of the top_k best keys
  double mass = 0;     // softmax mass of what was found, of that of all indexed keys
  double scanned = 0;  // vectors compared with, by the keys
  double seconds = 0;  // a query
};

// One index of one head.
struct HeadBench {
  int64_t layer = 0;
  int32_t kv_head = 0;
  double build_seconds = 0;
  double bytes = 0;                 // a key
  double centroids = 0;             // of clusters of the wave index, by the keys: `scanned` includes them
  std::vector<SearchPoint> points;  // by effort
};

struct IndexBench {
  std::string index;
  std::vector<HeadBench> heads;
};

struct IndexBenchReport {
  std::string trace;
  int64_t keys = 0;             // of a head
  int64_t queries = 0;          // of a head, decoded tokens times query heads
  int64_t build_queries = 0;    // that the graph is drawn from
  int64_t product_queries = 0;  // of the text
  int64_t heads = 0;            // of the chosen layers; fewer were measured where the time ran out
  int64_t kv_bytes = 0;         // key and value of one token, as they are stored
  double product_seconds = 0;   // one float32 product of those queries and the keys of a head, by OpenBLAS
  int64_t top_k = 0;
  double target = 0;  // recall
  std::vector<IndexBench> indexes;
};

// What a head needs for the target, between two points of its curve. A head that misses it counts as one whose keys are
// all compared: share 1, `seconds` those of `flat_seconds`.
struct AtTarget {
  bool reached = false;
  double scanned = 1;
  double seconds = 0;
  double mass = 1;
};
AtTarget FindTarget(const HeadBench& head, double target, double flat_seconds);

void PrintIndexBench(const IndexBenchReport& report, std::ostream& out);
nlohmann::json IndexBenchJson(const IndexBenchReport& report);
std::string IndexBenchHtml(const IndexBenchReport& report);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_INDEX_BENCH_H_
