// swell bench: runs the benchmark programs and shows what they measured.
#include "tools/swell/bench.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>

#include "tools/report/file.h"
#include "tools/swell/command.h"
#include "tools/swell/process.h"
#include "tools/swell/terminal.h"

namespace swell::cli {
namespace {

constexpr size_t kMaxOutputBytes = size_t{64} << 20;
const std::vector<std::string> kPrograms = {"attention", "index", "engine"};

struct Options {
  std::vector<std::string> programs = kPrograms;
  std::string folder;  // empty: near this program
  std::string filter = ".";
  int64_t repetitions = 3;
  double min_time = 0.5;
  std::string json;
  std::string report;
};

struct Program {
  std::string name;
  std::string path;
  int64_t benchmarks = 0;  // that the filter takes
};

std::string OwnFolder() {
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  const std::string own(path, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  return own.substr(0, own.rfind('/'));
}

// NAME_bench in the folder that was named; otherwise beside this program or where a build puts it.
Result<std::string> FindProgram(const std::string& name, const std::string& folder) {
  const std::string file = name + "_bench", own = OwnFolder();
  std::vector<std::string> paths = {own + "/" + file, own + "/../bench/" + name + "/" + file};
  if (!folder.empty()) paths = {folder + "/" + file, folder + "/" + name + "/" + file};
  for (const std::string& path : paths) {
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return Status(StatusCode::kNotFound, "the benchmark program '" + file + "' is neither '" + paths[0] + "' nor '" +
                                           paths[1] + "': build it (SWELL_BUILD_BENCH=ON), or name its --folder");
}

Result<Program> Prepare(const std::string& name, const Options& options) {
  const Result<std::string> path = FindProgram(name, options.folder);
  if (!path.ok()) return path.status();
  const Result<std::string> list = RunProgram(
      path.value(), {"--benchmark_list_tests=true", "--benchmark_filter=" + options.filter}, kMaxOutputBytes, {});
  if (!list.ok()) return list.status();
  return Program{name, path.value(), std::count(list.value().begin(), list.value().end(), '\n')};
}

int64_t Occurrences(std::string_view text, std::string_view part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

Status Run(const Program& program, const Options& options, int64_t done, Progress& progress, BenchResult& result) {
  std::vector<std::string> arguments = {"--benchmark_format=json", "--benchmark_filter=" + options.filter,
                                        "--benchmark_min_time=" + std::to_string(options.min_time),
                                        "--benchmark_repetitions=" + std::to_string(options.repetitions)};
  const bool repeated = options.repetitions > 1;
  if (repeated) arguments.push_back("--benchmark_report_aggregates_only=true");
  const std::string_view mark = repeated ? "\"aggregate_name\": \"median\"" : "\"run_type\": \"iteration\"";
  const Result<std::string> json = RunProgram(program.path, arguments, kMaxOutputBytes, [&](std::string_view output) {
    progress.Update(done + Occurrences(output, mark));
  });
  if (!json.ok()) return json.status();
  return AddBenchOutput(program.name, json.value(), result);
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

Status RunBench(const Options& options) {
  for (const std::string& path : {options.json, options.report}) {
    if (!path.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(path));
  }
  // The libraries that some benchmarks compare with use as many threads as Swell's part of the comparison: one.
  for (const char* name : {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}) setenv(name, "1", 1);
  std::vector<Program> programs;
  int64_t total = 0;
  for (const std::string& name : options.programs) {
    Result<Program> program = Prepare(name, options);
    if (!program.ok()) return program.status();
    total += program.value().benchmarks;
    programs.push_back(std::move(program).value());
  }
  if (total == 0) return InvalidArgument("no benchmark matches --filter '" + options.filter + "'");
  BenchResult result;
  result.cpu = CpuName();
  result.build = SWELL_BUILD_TYPE;
  result.filter = options.filter;
  result.repetitions = options.repetitions;
  {
    Progress progress("benchmarks", total);
    int64_t done = 0;
    for (const Program& program : programs) {
      if (program.benchmarks == 0) continue;
      SWELL_RETURN_IF_ERROR(Run(program, options, done, progress, result));
      progress.Update(done += program.benchmarks);
    }
  }
  PrintBench(result, std::cout);
  if (!options.json.empty()) SWELL_RETURN_IF_ERROR(report::WriteFile(options.json, BenchJson(result)));
  if (!options.report.empty()) SWELL_RETURN_IF_ERROR(report::WriteFile(options.report, BenchHtml(result)));
  return OkStatus();
}

}  // namespace

Command AddBench(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand("bench", "Run the benchmark programs and show what they measured");
  app->add_option("--programs", options->programs, "Which of them")
      ->delimiter(',')
      ->check(CLI::IsMember(kPrograms))
      ->capture_default_str();
  app->add_option("--folder", options->folder, "Where they are (default: beside this program, or where it was built)");
  app->add_option("--filter", options->filter, "Regular expression: only the benchmarks whose name it matches")
      ->capture_default_str();
  app->add_option("--repetitions", options->repetitions, "Times that each is measured; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app->add_option("--min-time", options->min_time, "Seconds that a measurement takes at least")
      ->check(CLI::Range(0.001, 3600.0))
      ->capture_default_str();
  app->add_option("--json", options->json, "Write everything to this file, too");
  app->add_option("--report", options->report, "HTML page with the plots");
  return {app, [options] { return RunBench(*options); }};
}

}  // namespace swell::cli
