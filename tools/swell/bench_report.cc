#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/plot.h"
#include "tools/swell/bench.h"
#include "tools/swell/json.h"
#include "tools/swell/table.h"

namespace swell::cli {
namespace {

using nlohmann::json;
using report::FormatNumber;

// What Google Benchmark says of every entry; other numbers are counters of the benchmark.
const std::set<std::string> kOwnFields = {"family_index", "per_family_instance_index",
                                          "repetitions",  "repetition_index",
                                          "threads",      "iterations",
                                          "real_time",    "cpu_time"};

double UnitSeconds(const std::string& unit) {
  const std::map<std::string, double> seconds = {{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
  return seconds.at(unit);
}

// "DecodeStep/dtype:1/tokens:2048/real_time": family, then arguments; what says how it was timed is none.
void SplitName(const std::string& name, BenchEntry& entry) {
  size_t begin = 0;
  for (bool first = true; begin <= name.size(); first = false) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    const size_t colon = part.find(':');
    if (first) {
      entry.family = part;
    } else if (part != "real_time" && !part.starts_with("iterations:") && !part.starts_with("repeats:")) {
      entry.arguments.emplace_back(colon == std::string::npos ? "" : part.substr(0, colon),
                                   colon == std::string::npos ? part : part.substr(colon + 1));
    }
    begin = end + 1;
  }
}

BenchEntry ParseEntry(const std::string& program, const json& from) {
  BenchEntry entry;
  entry.program = program;
  SplitName(from.at("run_name").get<std::string>(), entry);
  if (from.value("error_occurred", false)) {
    entry.error = from.value("error_message", "failed");
    return entry;
  }
  const double unit = UnitSeconds(from.at("time_unit").get<std::string>());
  entry.seconds = from.at("real_time").get<double>() * unit;
  entry.cpu_seconds = from.at("cpu_time").get<double>() * unit;
  for (const auto& [name, value] : from.items()) {
    if (value.is_number() && kOwnFields.count(name) == 0) entry.counters.emplace_back(name, value.get<double>());
  }
  return entry;
}

void ParseMachine(const json& from, BenchResult& result) {
  result.date = from.at("date").get<std::string>();
  result.cpus = from.at("num_cpus").get<int64_t>();
  result.mhz = from.at("mhz_per_cpu").get<double>();
  if (from.contains("load_avg") && !from["load_avg"].empty()) result.load = from["load_avg"].at(0).get<double>();
  for (const json& cache : from.at("caches")) {
    if (cache.at("type") == "Instruction") continue;
    result.caches.emplace_back("L" + std::to_string(cache.at("level").get<int64_t>()), cache.at("size").get<double>());
  }
}

std::string Arguments(const BenchEntry& entry, const std::string& except = "") {
  std::string text;
  for (const auto& [name, value] : entry.arguments) {
    if (!except.empty() && name == except) continue;
    if (!text.empty()) text += " ";
    text += name.empty() ? value : name + ":" + value;
  }
  return text;
}

std::string Time(double seconds) {
  if (seconds >= 1) return FormatNumber(seconds) + " s";
  return seconds >= 1e-3 ? FormatNumber(seconds * 1e3) + " ms" : FormatNumber(seconds * 1e6) + " us";
}

std::string Counter(const std::string& name, double value) {
  if (name == "bytes_per_second") return FormatNumber(value * 1e-9) + " GB/s";
  if (name == "items_per_second") return FormatNumber(value * 1e-6) + " million/s";
  if (name == "FLOPS") return FormatNumber(value * 1e-9) + " GFLOP/s";
  if (name == "memory") return report::FormatBytes(value) + " in use";
  return FormatNumber(value) + " " + name;
}

std::vector<std::string> TableRow(const BenchEntry& entry) {
  std::vector<std::string> row = {entry.program, entry.family, Arguments(entry)};
  if (!entry.error.empty()) return {row[0], row[1], row[2], "-", "-", entry.error};
  std::string counters;
  for (const auto& [name, value] : entry.counters) counters += (counters.empty() ? "" : ", ") + Counter(name, value);
  row.insert(row.end(), {Time(entry.seconds), report::FormatPercent(entry.spread), counters});
  return row;
}

const std::vector<std::string> kHeader = {"program", "benchmark", "arguments", "time", "spread", "rate"};

std::string Machine(const BenchResult& result) {
  std::string text = result.cpu + ", " + std::to_string(result.cpus) + " CPUs at " + FormatNumber(result.mhz) + " MHz";
  for (const auto& [level, bytes] : result.caches) text += ", " + level + " " + report::FormatBytes(bytes);
  return text + "; " + result.build + " build; " + result.date;
}

std::string Conditions(const BenchResult& result) {
  std::string text = result.repetitions > 1 ? "Median of " + std::to_string(result.repetitions) +
                                                  " repetitions; spread: "
                                                  "standard deviation over mean."
                                            : "One measurement each: nothing is said about the spread.";
  text += " Load before the first program: " + FormatNumber(result.load);
  if (result.load > 0.3) text += ": other programs were running, which makes these times longer and less certain";
  return text + ".";
}

std::vector<BenchEntry> Family(const BenchResult& result, const BenchEntry& of) {
  std::vector<BenchEntry> family;
  for (const BenchEntry& entry : result.entries) {
    if (entry.program == of.program && entry.family == of.family && entry.error.empty()) family.push_back(entry);
  }
  return family;
}

std::string FamilyBars(const std::vector<BenchEntry>& family) {
  std::vector<report::Row> rows;
  for (const BenchEntry& entry : family) rows.push_back({Arguments(entry), entry.seconds, Time(entry.seconds)});
  return report::RowPlot(family[0].program + ": time of " + family[0].family, rows);
}

// Time against the argument `tokens`, a line for every choice of the other arguments that has three lengths; empty when
// there is none.
std::string FamilyLines(const std::vector<BenchEntry>& family) {
  std::map<std::string, std::map<double, double>> lines;
  for (const BenchEntry& entry : family) {
    for (const auto& [name, value] : entry.arguments) {
      if (name == "tokens")
        lines[Arguments(entry, "tokens")][std::strtod(value.c_str(), nullptr)] = entry.seconds * 1e3;
    }
  }
  std::vector<report::Series> series;
  for (const auto& [name, points] : lines) {
    if (points.size() < 3) continue;
    report::Series& one = series.emplace_back(report::Series{name, {}, {}});
    for (const auto& [tokens, milliseconds] : points) {
      one.x.push_back(tokens);
      one.y.push_back(milliseconds);
    }
  }
  if (series.empty()) return "";
  return report::LinePlot({family[0].program + ": " + family[0].family + " against length", "tokens", "ms"}, series);
}

}  // namespace

Status AddBenchOutput(const std::string& program, const std::string& text, BenchResult& result) {
  try {
    const json output = json::parse(text);
    BenchResult added = result;
    if (added.date.empty()) ParseMachine(output.at("context"), added);
    std::map<std::string, double> spreads;
    for (const json& entry : output.at("benchmarks")) {
      if (entry.value("aggregate_name", "") == "cv")
        spreads[entry.at("run_name")] = entry.at("real_time").get<double>();
    }
    for (const json& entry : output.at("benchmarks")) {
      const std::string aggregate = entry.value("aggregate_name", "");
      if (!aggregate.empty() && aggregate != "median") continue;
      added.entries.push_back(ParseEntry(program, entry));
      const auto spread = spreads.find(entry.at("run_name").get<std::string>());
      if (spread != spreads.end()) added.entries.back().spread = spread->second;
    }
    result = std::move(added);
    return OkStatus();
  } catch (const std::exception& error) {  // of the JSON library, or a time unit that is none
    return Status(StatusCode::kDataLoss, "the output of the program '" + program + "': " + error.what());
  }
}

void PrintBench(const BenchResult& result, std::ostream& out) {
  out << Machine(result) << "\n" << Conditions(result) << "\n\n";
  Table table(kHeader);
  for (const BenchEntry& entry : result.entries) table.Add(TableRow(entry));
  table.Print(out);
}

std::string BenchJson(const BenchResult& result) {
  json out = {{"program", "swell bench"},   {"version", SWELL_VERSION},
              {"cpu", result.cpu},          {"cpus", result.cpus},
              {"mhz", result.mhz},          {"load", result.load},
              {"date", result.date},        {"build", result.build},
              {"filter", result.filter},    {"repetitions", result.repetitions},
              {"benchmarks", json::array()}};
  for (const auto& [level, bytes] : result.caches) out["caches"].push_back({{"level", level}, {"bytes", bytes}});
  for (const BenchEntry& entry : result.entries) {
    json one = {{"program", entry.program}, {"benchmark", entry.family}, {"arguments", Arguments(entry)}};
    if (!entry.error.empty()) {
      one["error"] = entry.error;
    } else {
      one.update({{"seconds", entry.seconds}, {"cpu_seconds", entry.cpu_seconds}, {"spread", entry.spread}});
      one["counters"] = json::object();
      for (const auto& [name, value] : entry.counters) one["counters"][name] = value;
    }
    out["benchmarks"].push_back(std::move(one));
  }
  return JsonText(out);
}

std::string BenchHtml(const BenchResult& result) {
  report::Page page("Swell: what the benchmark programs measured");
  page.Paragraph(Machine(result) + ". " + Conditions(result));
  page.Paragraph(
      "attention: single kernels on one thread. index: building the wave index of one segment, beside FAISS's k-means. "
      "engine: attention of one layer of a model with 8 KV heads x 4 query heads of dimension 128, and writing such a "
      "layer. PlainRead is the floor of what reads memory: every byte once. dtype: 0 float32, 1 float16, 2 bfloat16, "
      "3 int8; exact:1 reads every token, exact:0 uses the wave index. Arguments without a name: head_dim, and query "
      "heads per KV head.");
  std::set<std::pair<std::string, std::string>> shown;
  for (const BenchEntry& entry : result.entries) {
    if (!shown.emplace(entry.program, entry.family).second) continue;
    const std::vector<BenchEntry> family = Family(result, entry);
    if (family.size() < 2) continue;
    page.Figure(FamilyBars(family), "Shorter is faster. Each bar is one set of arguments.");
    if (const std::string lines = FamilyLines(family); !lines.empty()) {
      page.Figure(lines, "The same times against the number of tokens.");
    }
  }
  page.Heading("All of them");
  std::vector<std::vector<report::Cell>> rows;
  for (const BenchEntry& entry : result.entries) {
    const std::vector<std::string> row = TableRow(entry);
    rows.emplace_back(row.begin(), row.end());
  }
  page.Table(kHeader, rows);
  return page.Html();
}

}  // namespace swell::cli
