#include "bench/soak/report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/report/format.h"

namespace swell::soak {
namespace {

using report::FormatBytes;
using report::FormatCount;
using report::FormatFixed;

// Mean resident bytes of the samples in [from, to), shares of the run.
double MeanResident(const std::vector<Sample>& samples, double from, double to) {
  const auto count = static_cast<double>(samples.size());
  const auto begin = static_cast<size_t>(from * count);
  const auto end = std::max(begin + 1, static_cast<size_t>(to * count));
  double sum = 0;
  for (size_t i = begin; i < std::min(end, samples.size()); ++i) sum += static_cast<double>(samples[i].resident_bytes);
  return sum / static_cast<double>(end - begin);
}

// Tenths of the run with their mean, so that a trend shows.
std::string ResidentOverTime(const Run& run) {
  std::string text;
  for (int tenth = 0; tenth < 10; ++tenth) {
    text += (tenth == 0 ? "" : ", ") + FormatBytes(MeanResident(run.samples, tenth / 10.0, (tenth + 1) / 10.0));
  }
  return text;
}

std::string Line(const std::string& name, const std::string& value) {
  return name + std::string(name.size() < 28 ? 28 - name.size() : 1, ' ') + value + "\n";
}

std::string Describe(const Latency& latency) {
  return FormatCount(latency.count()) + " calls, median " + FormatFixed(latency.Quantile(0.5), 0) + " us, p99 " +
         FormatFixed(latency.Quantile(0.99), 0) + " us, p99.9 " + FormatFixed(latency.Quantile(0.999), 0) +
         " us, longest " + FormatFixed(latency.max(), 0) + " us";
}

nlohmann::json ToJson(const Latency& latency) {
  return {{"count", latency.count()},
          {"median_us", latency.Quantile(0.5)},
          {"p99_us", latency.Quantile(0.99)},
          {"p999_us", latency.Quantile(0.999)},
          {"max_us", latency.max()}};
}

}  // namespace

std::vector<Criterion> Judge(const Run& run) {
  std::vector<Criterion> criteria = {
      {"failures", run.totals.failure.empty() ? 0.0 : 1.0, 0},
      {"bytes of the budget, most", static_cast<double>(run.stats.bytes_peak), static_cast<double>(run.budget_bytes)},
      {"sequences left", static_cast<double>(run.stats.sequences), 0},
      {"bytes left in use", static_cast<double>(run.stats.bytes_in_use), 0},
  };
  if (run.samples.size() >= 8) {
    criteria.push_back({"resident bytes, last quarter to second",
                        MeanResident(run.samples, 0.75, 1.0) / MeanResident(run.samples, 0.25, 0.5), 1.1});
  }
  if (!run.judge_times) return criteria;
  criteria.push_back(
      {"attend, p99 to median", run.totals.attend.Quantile(0.99) / std::max(1e-3, run.totals.attend.Quantile(0.5)), 3});
  criteria.push_back({"append, longest that waited, us", run.totals.blocked_max_us, kAppendLimitUs});
  return criteria;
}

std::string ToText(const Run& run) {
  const Totals& totals = run.totals;
  std::string text;
  text += Line("seconds", FormatFixed(run.seconds, 1));
  text += Line("sequences", FormatCount(totals.begun) + " begun, " + FormatCount(totals.forked) + " forked, " +
                                FormatCount(totals.cut) + " cut, " + FormatCount(totals.ended) + " ended");
  text += Line("tokens put",
               FormatCount(totals.tokens) + " (times layers), refused for the budget " + FormatCount(totals.refused));
  text += Line("segments", FormatCount(run.stats.segments_sealed) + " sealed, " +
                               FormatCount(run.stats.segments_compacted) + " compacted, " +
                               FormatCount(run.stats.builds_failed) + " builds given up for the budget");
  text += Line("rows checked", FormatCount(totals.rows_checked));
  text += Line("attend", Describe(totals.attend));
  text += Line("append", Describe(totals.append));
  text += Line("budget", FormatBytes(static_cast<double>(run.stats.bytes_peak)) + " of " +
                             FormatBytes(static_cast<double>(run.budget_bytes)) + " at most");
  text += Line("resident, by tenths", ResidentOverTime(run));
  if (!totals.failure.empty()) text += Line("failure", totals.failure);
  text += "\n";
  for (const Criterion& criterion : Judge(run)) {
    char numbers[96];
    std::snprintf(numbers, sizeof(numbers), "%.4g, at most %.4g: %s", criterion.value, criterion.limit,
                  criterion.met() ? "met" : "NOT MET");
    text += Line(criterion.name + (criterion.name.size() < 28 ? "" : ":"), numbers);
  }
  return text;
}

std::string ToJson(const Run& run) {
  nlohmann::json json = {{"seconds", run.seconds},
                         {"seed", run.workload.seed},
                         {"clients", run.clients},
                         {"budget_bytes", run.budget_bytes},
                         {"bytes_peak", run.stats.bytes_peak},
                         {"begun", run.totals.begun},
                         {"forked", run.totals.forked},
                         {"cut", run.totals.cut},
                         {"ended", run.totals.ended},
                         {"refused", run.totals.refused},
                         {"tokens_put", run.totals.tokens},
                         {"rows_checked", run.totals.rows_checked},
                         {"segments_sealed", run.stats.segments_sealed},
                         {"segments_compacted", run.stats.segments_compacted},
                         {"builds_failed", run.stats.builds_failed},
                         {"attend", ToJson(run.totals.attend)},
                         {"append", ToJson(run.totals.append)},
                         {"appends_blocked", run.totals.blocked},
                         {"failure", run.totals.failure}};
  for (const Sample& sample : run.samples) {
    json["samples"].push_back({{"seconds", sample.seconds},
                               {"resident_bytes", sample.resident_bytes},
                               {"bytes_in_use", sample.bytes_in_use}});
  }
  for (const Criterion& criterion : Judge(run)) {
    json["criteria"].push_back(
        {{"name", criterion.name}, {"value", criterion.value}, {"limit", criterion.limit}, {"met", criterion.met()}});
  }
  return json.dump(2) + "\n";
}

}  // namespace swell::soak
