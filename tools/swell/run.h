// Results of swell run: the same questions answered with exact attention and with the wave index.
#ifndef SWELL_TOOLS_SWELL_RUN_H_
#define SWELL_TOOLS_SWELL_RUN_H_

#include <array>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "tools/swell/probe.h"
#include "tools/swell/speed.h"

namespace swell::cli {

// One way to answer. Both sides come from forks of one sequence that was read once.
struct Side {
  std::string name;
  std::vector<std::string> answers;   // [questions]
  std::vector<bool> right;            // [questions]; empty when the right answers are not known
  int64_t tokens = 0;                 // generated, all questions
  double seconds = 0;                 // that generating took
  double attend_seconds = 0;          // the part of it in attention
  std::vector<HeadReading> readings;  // [layers, kv_heads]: what was read while generating
  double memory_bytes = 0;            // keys and values, and the index if this side needs one
};

// Time of one decoding step at some length of the context, [exact, wave].
struct Speed {
  int64_t tokens = 0;
  std::array<Times, 2> steps;
};

struct RunResult {
  std::string text;
  int64_t tokens = 0;  // of the context
  int64_t facts = 0;   // planted; 0 when the questions are the user's
  double read_seconds = 0;
  int32_t layers = 0, kv_heads = 0, group = 1;
  std::vector<std::string> questions;
  std::vector<std::string> expected;  // [questions]; empty texts when not known
  std::array<Side, 2> sides;          // exact, wave
  std::vector<Speed> speeds;
  std::vector<HeadReading> audit;  // [layers, kv_heads]: the wave index compared with exact attention
  std::string report;              // path of the page
};

void PrintRun(const RunResult& result, std::ostream& out);
std::string RunHtml(const RunResult& result);
std::string RunJson(const RunResult& result);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_RUN_H_
