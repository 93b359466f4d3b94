#include "swell/metrics.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <string_view>

#include "lib/engine/guard.h"

namespace swell {
namespace {

// Numbers as the format has them, whatever the program's locale.
template <typename Number>
void AppendNumber(Number number, std::string& text) {
  char digits[64];
  const auto result = std::to_chars(std::begin(digits), std::end(digits), number);
  text.append(digits, result.ptr);
}

void AppendHead(std::string_view name, std::string_view type, std::string_view help, std::string& text) {
  text.append("# HELP ").append(name).append(" ").append(help).append("\n");
  text.append("# TYPE ").append(name).append(" ").append(type).append("\n");
}

template <typename Number>
void AppendSample(std::string_view name, std::string_view suffix, Number number, std::string& text) {
  text.append(name).append(suffix).append(" ");
  AppendNumber(number, text);
  text.append("\n");
}

struct Metric {
  std::string_view name, type, help;
  uint64_t value;
};

// Counts of an audit are taken one after the other while others go on: buckets are kept in order.
void AppendAudits(const EngineStats& stats, std::string& text) {
  constexpr std::string_view kName = "swell_audit_error_factor";
  AppendHead(kName, "histogram", "Predicted or true error of audited answers, the greater over the lesser.", text);
  const int64_t within_3 = std::min(stats.audited_within_3, stats.audited_answers);
  AppendSample(kName, "_bucket{le=\"2\"}", std::min(stats.audited_within_2, within_3), text);
  AppendSample(kName, "_bucket{le=\"3\"}", within_3, text);
  AppendSample(kName, "_bucket{le=\"+Inf\"}", stats.audited_answers, text);
  AppendSample(kName, "_sum", stats.audited_factor_sum, text);
  AppendSample(kName, "_count", stats.audited_answers, text);
}

}  // namespace

Result<std::string> MetricsText(const EngineStats& stats) {
  return Guard([&]() -> Result<std::string> {
    const auto count = [](int64_t value) { return static_cast<uint64_t>(value); };
    const Metric metrics[] = {
        {"swell_sequences", "gauge", "Sequences that live.", count(stats.sequences)},
        {"swell_bytes_in_use", "gauge", "Bytes of rows and indexes, each shared block once.", stats.bytes_in_use},
        {"swell_bytes_peak", "gauge", "The most bytes of rows and indexes so far.", stats.bytes_peak},
        {"swell_budget_bytes", "gauge", "Limit of the bytes of rows and indexes, 0 for none.", stats.budget_bytes},
        {"swell_tokens_put_total", "counter", "Tokens put, summed over layers.", count(stats.tokens_put)},
        {"swell_attend_calls_total", "counter", "Query positions answered, summed over layers.",
         count(stats.attend_calls)},
        {"swell_head_steps_total", "counter", "Query positions answered, summed over layers and KV heads.",
         count(stats.head_steps)},
        {"swell_tokens_visible_total", "counter", "Tokens that the head steps could see.", count(stats.tokens_visible)},
        {"swell_tokens_read_total", "counter", "Tokens that the head steps read exactly.", count(stats.tokens_read)},
        {"swell_bytes_read_total", "counter", "Bytes of keys, values and indexes that the head steps read.",
         count(stats.bytes_read)},
        {"swell_segments_sealed_total", "counter", "Segments built.", count(stats.segments_sealed)},
        {"swell_segments_compacted_total", "counter", "Segments that larger ones replaced.",
         count(stats.segments_compacted)},
        {"swell_builds_failed_total", "counter", "Background builds given up, their tokens stay exact.",
         count(stats.builds_failed)},
    };
    std::string text;
    for (const Metric& metric : metrics) {
      AppendHead(metric.name, metric.type, metric.help, text);
      AppendSample(metric.name, "", metric.value, text);
    }
    AppendAudits(stats, text);
    return text;
  });
}

}  // namespace swell
