// What a soak found, judged: a table for a reader, JSON for a program.
#ifndef SWELL_BENCH_SOAK_REPORT_H_
#define SWELL_BENCH_SOAK_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "bench/soak/client.h"

namespace swell::soak {

// What the process holds at a moment.
struct Sample {
  double seconds = 0;
  int64_t resident_bytes = 0;
  int64_t bytes_in_use = 0;  // of the engine
};

struct Run {
  Workload workload;
  uint64_t budget_bytes = 0;
  int64_t clients = 1;
  double seconds = 0;
  bool judge_times = false;
  std::vector<Sample> samples;  // while the clients ran, evenly spaced
  EngineStats stats;            // when the clients had ended
  Totals totals;
};

struct Criterion {
  std::string name;
  double value = 0;
  double limit = 0;  // value <= limit
  bool met() const { return value <= limit; }
};

// Every criterion that the run is judged by.
std::vector<Criterion> Judge(const Run& run);
std::string ToText(const Run& run);
std::string ToJson(const Run& run);

}  // namespace swell::soak

#endif  // SWELL_BENCH_SOAK_REPORT_H_
