// Results of swell cache-sim: how much of what decoding reads a cache of some size holds.
#ifndef SWELL_TOOLS_SWELL_CACHE_SIM_H_
#define SWELL_TOOLS_SWELL_CACHE_SIM_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

namespace swell::cli {

// One cache under one way to choose: all counted steps of all heads.
struct CachePoint {
  double size = 0;           // of the clustered tokens
  double hit_ratio = 0;      // of tokens read
  double worst_head = 0;     // its hit ratio
  double tokens_read = 0;    // by a head in a step, of those that are clustered
  double tokens_missed = 0;  // of them
};

struct CacheRow {
  std::string policy;              // lru, clock, frequency; optimum: what no policy can beat
  double beta = 0;                 // nats by which cached clusters are preferred
  bool shared = true;              // one cache for all heads, or one for each with its part of the slots
  double output_error = 0;         // relative, mean over heads and sampled steps, at the middle size
  std::vector<CachePoint> points;  // by size
};

struct CacheReport {
  std::string trace;
  int64_t heads = 0;
  int64_t tokens = 0;  // clustered, of a head
  int64_t steps = 0;
  int64_t warm_steps = 0;  // of them, not counted
  double retrieve_above = 0;
  double retrieve_share = 0;
  std::vector<CacheRow> rows;
};

void PrintCacheSim(const CacheReport& report, std::ostream& out);
nlohmann::json CacheSimJson(const CacheReport& report);
std::string CacheSimHtml(const CacheReport& report);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_CACHE_SIM_H_
