// Results of swell bench: what the benchmark programs of the repository measured, and on which machine.
#ifndef SWELL_TOOLS_SWELL_BENCH_H_
#define SWELL_TOOLS_SWELL_BENCH_H_

#include <cstdint>
#include <limits>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "swell/status.h"

namespace swell::cli {

// One benchmark with one set of arguments.
struct BenchEntry {
  std::string program;                                         // "engine"
  std::string family;                                          // "DecodeStep"
  std::vector<std::pair<std::string, std::string>> arguments;  // name, empty where it has none, and value
  double seconds = 0;                                          // a step of it takes, by the clock
  double cpu_seconds = 0;                                      // of the program's main thread
  double spread = std::numeric_limits<double>::quiet_NaN();    // standard deviation / mean over the repetitions
  std::vector<std::pair<std::string, double>> counters;        // "bytes_per_second", ...
  std::string error;                                           // why it measured nothing; empty otherwise
};

struct BenchResult {
  std::string cpu;  // its name
  int64_t cpus = 0;
  double mhz = 0;
  std::vector<std::pair<std::string, double>> caches;  // "L2", bytes of one
  double load = 0;                                     // average of the minute before the first program
  std::string date;
  std::string build;  // of the programs: "Release"
  std::string filter;
  int64_t repetitions = 1;  // of which the median counts
  std::vector<BenchEntry> entries;
};

// Adds what a program printed with --benchmark_format=json; the machine is taken from the first one. kDataLoss says
// what is wrong with the text; then nothing is added.
Status AddBenchOutput(const std::string& program, const std::string& json, BenchResult& result);

void PrintBench(const BenchResult& result, std::ostream& out);
std::string BenchJson(const BenchResult& result);
std::string BenchHtml(const BenchResult& result);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_BENCH_H_
