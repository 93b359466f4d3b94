// Results of swell fidelity: tasks x configurations, and how they are shown.
#ifndef SWELL_TOOLS_SWELL_FIDELITY_H_
#define SWELL_TOOLS_SWELL_FIDELITY_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "tools/report/page.h"
#include "tools/swell/probe.h"

namespace swell::cli {

// One configuration on one task, summed over seeds and questions.
struct FidelityResult {
  std::string task;
  std::string config;
  int64_t questions = 0;
  int64_t exact_matches = 0;
  int64_t answer_tokens = 0;
  int64_t correct_tokens = 0;
  double nll = 0;                     // sum over the answer tokens, nats
  int64_t query_positions = 0;        // positions that were answered, per layer
  std::vector<HeadReading> readings;  // [layers, kv_heads], summed
  std::vector<ErrorPair> pairs;       // a sample of single queries
  double seconds = 0;
};

// Means of what a result's heads read and how far they were off; NaN where nothing was counted.
struct ReadingMeans {
  double tokens_read = 0;      // per query position and KV head
  double share_read = 0;       // of the visible tokens
  double bytes_read = 0;       // per query position, all layers and KV heads
  double estimated_share = 0;  // of the softmax mass
  double error = 0;            // |o - exact| / |exact|, mean over layers and heads
  double predicted_error = 0;
};
ReadingMeans Means(const std::vector<HeadReading>& readings, int32_t group, int64_t query_positions);

// Share of pairs whose prediction is within `factor` of the truth, or of kLeastPredictedError where that is more; NaN
// without pairs.
double WithinFactor(float factor, const std::vector<ErrorPair>& pairs);

struct FidelityReport {
  int64_t tokens = 0;
  int64_t seeds = 0;
  int64_t first_seed = 0;
  int32_t layers = 0, kv_heads = 0, group = 1;
  std::vector<std::string> texts;
  std::vector<std::string> tasks;
  std::vector<std::string> configs;
  std::vector<FidelityResult> results;  // [tasks, configs]
};

void PrintFidelity(const FidelityReport& report, std::ostream& out);
nlohmann::json FidelityJson(const FidelityReport& report);
std::string FidelityHtml(const FidelityReport& report);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_FIDELITY_H_
