// Goal: the metrics are well-formed exposition text (0.0.4) and say what the statistics say.
#include "swell/metrics.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace swell {
namespace {

EngineStats SomeStats() {
  EngineStats stats;
  stats.sequences = 3;
  stats.bytes_in_use = 1ULL << 40;
  stats.bytes_peak = 1ULL << 41;
  stats.budget_bytes = std::numeric_limits<uint64_t>::max();
  stats.tokens_put = 11;
  stats.attend_calls = 12;
  stats.head_steps = 13;
  stats.tokens_visible = 14;
  stats.tokens_read = 15;
  stats.bytes_read = 16;
  stats.segments_sealed = 17;
  stats.segments_compacted = 18;
  stats.audited_answers = 40;
  stats.audited_within_2 = 30;
  stats.audited_within_3 = 38;
  stats.audited_factor_sum = 61.5;
  stats.builds_failed = 19;
  return stats;
}

// Samples by name with labels. Each follows a HELP and a TYPE of its metric, which stand once.
std::map<std::string, std::string> Parse(const std::string& text) {
  static const std::regex kHelp("# HELP (swell_[a-z0-9_]+) [ -~]+");
  static const std::regex kType("# TYPE (swell_[a-z0-9_]+) (counter|gauge|histogram)");
  static const std::regex kSample("(swell_[a-z0-9_]+)(\\{le=\"[^\"]+\"\\})? ([0-9.e+]+)");
  std::map<std::string, std::string> samples;
  std::set<std::string> seen;
  std::string metric, type;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_match(line, match, kHelp)) {
      EXPECT_TRUE(seen.insert(match[1]).second) << line;
      metric = match[1];
      type.clear();
    } else if (std::regex_match(line, match, kType)) {
      EXPECT_EQ(match[1], metric) << line;
      type = match[2];
    } else if (std::regex_match(line, match, kSample)) {
      const std::string name = match[1], labels = match[2];
      EXPECT_EQ(name.substr(0, metric.size()), metric) << line;
      EXPECT_FALSE(type.empty()) << line;
      EXPECT_EQ(type == "histogram", name != metric) << line;
      EXPECT_EQ(type == "counter", name.ends_with("_total")) << line;
      EXPECT_TRUE(samples.emplace(name + labels, match[3]).second) << line;
    } else {
      ADD_FAILURE() << "no exposition text: " << line;
    }
  }
  EXPECT_TRUE(text.ends_with("\n"));
  return samples;
}

TEST(MetricsTest, SayWhatTheStatisticsSay) {
  const Result<std::string> text = MetricsText(SomeStats());
  ASSERT_TRUE(text.ok()) << text.status().message();
  const std::map<std::string, std::string> expected = {
      {"swell_sequences", "3"},
      {"swell_bytes_in_use", "1099511627776"},
      {"swell_bytes_peak", "2199023255552"},
      {"swell_budget_bytes", "18446744073709551615"},
      {"swell_tokens_put_total", "11"},
      {"swell_attend_calls_total", "12"},
      {"swell_head_steps_total", "13"},
      {"swell_tokens_visible_total", "14"},
      {"swell_tokens_read_total", "15"},
      {"swell_bytes_read_total", "16"},
      {"swell_segments_sealed_total", "17"},
      {"swell_segments_compacted_total", "18"},
      {"swell_builds_failed_total", "19"},
      {"swell_audit_error_factor_bucket{le=\"2\"}", "30"},
      {"swell_audit_error_factor_bucket{le=\"3\"}", "38"},
      {"swell_audit_error_factor_bucket{le=\"+Inf\"}", "40"},
      {"swell_audit_error_factor_sum", "61.5"},
      {"swell_audit_error_factor_count", "40"},
  };
  EXPECT_EQ(Parse(text.value()), expected);
}

TEST(MetricsTest, BucketsStayInOrderWhileAuditsGoOn) {
  EngineStats stats;
  stats.audited_answers = 5;  // read before three more were entered
  stats.audited_within_3 = 8;
  stats.audited_within_2 = 7;
  const std::map<std::string, std::string> samples = Parse(MetricsText(stats).value());
  for (const char* bound : {"2", "3", "+Inf"}) {
    EXPECT_EQ(samples.at("swell_audit_error_factor_bucket{le=\"" + std::string(bound) + "\"}"), "5");
  }
}

}  // namespace
}  // namespace swell
