// Results of swell speed: how fast a text is read and continued, and where the time goes.
#ifndef SWELL_TOOLS_SWELL_SPEED_H_
#define SWELL_TOOLS_SWELL_SPEED_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tools/model/session.h"
#include "tools/swell/runtime.h"

namespace swell::cli {

// Seconds, and what they were spent on.
struct Times {
  double total = 0;
  double products = 0;   // of the weights
  double put = 0;        // writing keys and values
  double attention = 0;  // answering queries

  double rest() const { return total - products - put - attention; }  // norms, rope, activation, embedding
};

// Decodes each of `ids` on a fork of the session: the step whose total is the median, so that its parts add up. The
// first one is not counted: at least two.
Result<Times> MeasureSteps(Runtime& runtime, const model::Session& session, std::span<const int32_t> ids,
                           AttendMode mode);

// At some length of the context.
struct SpeedPoint {
  int64_t tokens = 0;
  Times read;                  // from the length before to this one
  double seal_seconds = 0;     // waited then for the index to be complete
  std::array<Times, 2> steps;  // one token more, [exact, wave]
};

// Another program on the same text: tokens, seconds of reading and of a step.
struct PeerPoint {
  int64_t tokens = 0;
  double read_seconds = 0;
  double step_seconds = 0;
};

struct SpeedResult {
  std::string text;
  std::vector<SpeedPoint> points;
  uint64_t weight_bytes = 0;
  uint64_t peak_bytes = 0;  // resident, of the process
  std::string peer;         // its name; empty: none
  std::vector<PeerPoint> peer_points;
};

std::string SpeedJson(const SpeedResult& result);
// GitHub's tables, as they can be pasted into a document.
std::string SpeedMarkdown(const SpeedResult& result);
std::string SpeedHtml(const SpeedResult& result);
// Takes the peer from the text of a JSON file: {"name": ..., "points": [{"tokens", "read_seconds", "step_seconds"}]}.
Status ReadPeer(const std::string& json, SpeedResult& result);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_SPEED_H_
