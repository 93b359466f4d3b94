// swell speed: reads a text and stops at several lengths to time a few tokens.
#include "tools/swell/speed.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <utility>

#include "tools/report/file.h"
#include "tools/swell/command.h"
#include "tools/swell/terminal.h"

namespace swell::cli {
namespace {

constexpr AttendMode kModes[] = {AttendMode::kExact, AttendMode::kRetrieve};
constexpr int64_t kMaxTokens = 131072;
constexpr size_t kMaxPeerBytes = 1 << 20;

struct Options {
  RuntimeOptions runtime;
  std::string text = "tools/assets/prideprejudice.txt";
  std::vector<int64_t> tokens = {512, 4096, 8192, 16384};
  int64_t steps = 16;
  std::string peer;
  std::string json;
  std::string report;
};

// What the counters say about the time since `before`.
Times TimesBetween(const model::Counters& before, const model::Counters& after, double total) {
  Times times;
  times.total = total;
  times.products = after.matmul_seconds - before.matmul_seconds;
  times.put = after.put_seconds - before.put_seconds;
  times.attention = after.attend_seconds - before.attend_seconds;
  return times;
}

double Since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Result<SpeedPoint> MeasurePoint(Runtime& runtime, model::Session& session, std::span<const int32_t> text,
                                const Options& options, int64_t end, Progress& progress) {
  SpeedPoint point;
  point.tokens = end;
  const model::Counters before = session.counters();
  auto start = std::chrono::steady_clock::now();
  SWELL_RETURN_IF_ERROR(ReadContext(session, text.subspan(session.length(), end - session.length()), progress));
  point.read = TimesBetween(before, session.counters(), Since(start));
  start = std::chrono::steady_clock::now();
  SWELL_RETURN_IF_ERROR(runtime.engine().WaitSealed(session.sequence()));
  point.seal_seconds = Since(start);
  for (size_t side = 0; side < point.steps.size(); ++side) {
    Result<Times> steps = MeasureSteps(runtime, session, text.subspan(end, options.steps + 1), kModes[side]);
    if (!steps.ok()) return steps.status();
    point.steps[side] = steps.value();
  }
  return point;
}

Status RunSpeed(Options options) {
  for (const std::string& path : {options.json, options.report}) {
    if (!path.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(path));
  }
  SpeedResult result;
  result.text = options.text;
  if (!options.peer.empty()) {
    const Result<std::string> peer = report::ReadFile(options.peer, kMaxPeerBytes);
    if (!peer.ok()) return peer.status();
    SWELL_RETURN_IF_ERROR(ReadPeer(peer.value(), result));
  }
  const Result<SequenceOptions> preset = SequencePreset("swell");
  if (!preset.ok()) return preset.status();
  Result<std::unique_ptr<Runtime>> opened = Runtime::Open(options.runtime, false);
  if (!opened.ok()) return opened.status();
  Runtime& runtime = *opened.value();
  const Result<TokenIds> text = runtime.ReadText(options.text);
  if (!text.ok()) return text.status();
  std::sort(options.tokens.begin(), options.tokens.end());
  const int64_t needed = options.tokens.back() + options.steps + 1;
  SWELL_RETURN_IF_ERROR(runtime.CheckLength(needed));
  if (static_cast<int64_t>(text.value().size()) < needed) {
    return InvalidArgument("'" + options.text + "' has only " + std::to_string(text.value().size()) + " tokens of " +
                           std::to_string(needed));
  }
  Result<model::Session> session = runtime.CreateSession(preset.value());
  if (!session.ok()) return session.status();
  {
    Progress progress("reading", options.tokens.back());
    for (const int64_t end : options.tokens) {
      Result<SpeedPoint> point = MeasurePoint(runtime, session.value(), text.value(), options, end, progress);
      if (!point.ok()) return point.status();
      result.points.push_back(point.value());
    }
  }
  result.weight_bytes = runtime.model().weight_bytes();
  result.peak_bytes = PeakResidentBytes();
  std::cout << SpeedMarkdown(result);
  if (!options.json.empty()) SWELL_RETURN_IF_ERROR(report::WriteFile(options.json, SpeedJson(result)));
  if (!options.report.empty()) SWELL_RETURN_IF_ERROR(report::WriteFile(options.report, SpeedHtml(result)));
  return OkStatus();
}

}  // namespace

Result<Times> MeasureSteps(Runtime& runtime, const model::Session& session, std::span<const int32_t> ids,
                           AttendMode mode) {
  Result<model::Session> fork = session.Fork();
  if (!fork.ok()) return fork.status();
  runtime.probe().Start(Watch::kTime);
  std::vector<Times> steps;
  for (const int32_t id : ids) {
    const model::Counters before = fork.value().counters();
    const auto start = std::chrono::steady_clock::now();
    SWELL_RETURN_IF_ERROR(fork.value().Decode(id, mode));
    steps.push_back(TimesBetween(before, fork.value().counters(), Since(start)));
  }
  steps.erase(steps.begin());
  const auto median = steps.begin() + static_cast<int64_t>(steps.size()) / 2;
  std::nth_element(steps.begin(), median, steps.end(),
                   [](const Times& a, const Times& b) { return a.total < b.total; });
  return *median;
}

Command AddSpeed(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand(
      "speed", "Time reading a text and continuing it at several lengths, with exact attention and the wave index");
  app->add_option("--text", options->text, "UTF-8 text to read")->capture_default_str();
  app->add_option("--tokens", options->tokens, "Lengths of the context at which to measure")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--steps", options->steps, "Tokens decoded at each length; the median counts")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app->add_option("--peer", options->peer, "JSON file with the times of another program, to stand beside ours");
  app->add_option("--json", options->json, "Write everything to this file, too");
  app->add_option("--report", options->report, "HTML page with the plots");
  AddRuntimeOptions(*app, options->runtime);
  return {app, [options] { return RunSpeed(*options); }};
}

}  // namespace swell::cli
