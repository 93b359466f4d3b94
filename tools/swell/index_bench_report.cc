#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/plot.h"
#include "tools/swell/index_bench.h"
#include "tools/swell/table.h"

namespace swell::cli {
namespace {

using report::FormatCount;
using report::FormatFixed;
using report::FormatPercent;

// An index over all heads at the target.
struct Summary {
  int64_t heads = 0;
  int64_t reached = 0;
  double scanned = 0;  // means
  double worst = 0;    // scanned
  double centroids = 0;
  double seconds = 0;
  double mass = 0;  // of the heads that reach it
  double build_seconds = 0;
  double bytes = 0;
  bool timed = false;  // `seconds` are known: every head reaches the target, or the flat index says what a miss costs
};

// Seconds of a query that is compared with every key of head `head`; 0 when the flat index was not measured.
double FlatSeconds(const IndexBenchReport& report, size_t head) {
  for (const IndexBench& bench : report.indexes) {
    if (bench.index == "flat") return bench.heads[head].points.front().seconds;
  }
  return 0;
}

Summary Summarise(const IndexBenchReport& report, const IndexBench& bench) {
  Summary sum;
  sum.heads = static_cast<int64_t>(bench.heads.size());
  for (size_t h = 0; h < bench.heads.size(); ++h) {
    const AtTarget at = FindTarget(bench.heads[h], report.target, FlatSeconds(report, h));
    sum.reached += at.reached ? 1 : 0;
    sum.scanned += at.scanned;
    sum.worst = std::max(sum.worst, at.scanned);
    sum.centroids += bench.heads[h].centroids;
    sum.seconds += at.seconds;
    sum.mass += at.reached ? at.mass : 0;
    sum.build_seconds += bench.heads[h].build_seconds;
    sum.bytes += bench.heads[h].bytes;
  }
  sum.timed = sum.heads > 0 && std::all_of(bench.heads.begin(), bench.heads.end(), [&](const HeadBench& head) {
                return FlatSeconds(report, static_cast<size_t>(&head - bench.heads.data())) > 0 ||
                       FindTarget(head, report.target, 0).reached;
              });
  const auto heads = static_cast<double>(std::max<int64_t>(1, sum.heads));
  sum.scanned /= heads;
  sum.centroids /= heads;
  sum.seconds /= heads;
  sum.mass /= static_cast<double>(std::max<int64_t>(1, sum.reached));
  sum.build_seconds /= heads;
  sum.bytes /= heads;
  return sum;
}

// How many times faster than the better of FAISS's IVF and HNSW, as far as they were measured.
std::optional<double> TimesFaster(const IndexBenchReport& report, const Summary& sum) {
  double best = std::numeric_limits<double>::infinity();
  for (const IndexBench& bench : report.indexes) {
    if (bench.index != "ivf" && bench.index != "hnsw") continue;
    const Summary peer = Summarise(report, bench);
    if (peer.timed) best = std::min(best, peer.seconds);
  }
  if (!sum.timed || !std::isfinite(best) || sum.seconds <= 0) return std::nullopt;
  return best / sum.seconds;
}

// Seconds of the build in units of the product of queries and keys.
std::optional<double> BuildProducts(const IndexBenchReport& report, const Summary& sum) {
  if (report.product_seconds <= 0) return std::nullopt;
  return sum.build_seconds / report.product_seconds;
}

double KvShare(const IndexBenchReport& report, const Summary& sum) {
  return sum.bytes / static_cast<double>(report.kv_bytes);
}

std::vector<std::string> Header(const IndexBenchReport& report) {
  return {"index",          "heads at " + FormatFixed(report.target, 2),
          "keys scanned",   "worst head",
          "of it clusters", "mass found",
          "us/query",       "times faster",
          "bytes/key",      "of K and V",
          "build s/head",   "of a product"};
}

std::vector<std::string> RowOf(const IndexBenchReport& report, const IndexBench& bench) {
  const Summary sum = Summarise(report, bench);
  const auto fixed = [](std::optional<double> number) { return number ? FormatFixed(*number, 2) : "-"; };
  return {bench.index,
          FormatCount(sum.reached) + " of " + FormatCount(sum.heads),
          FormatPercent(sum.scanned),
          FormatPercent(sum.worst),
          sum.centroids > 0 ? FormatPercent(sum.centroids) : "-",
          FormatPercent(sum.mass),
          sum.timed ? FormatFixed(sum.seconds * 1e6, 1) : "-",
          fixed(TimesFaster(report, sum)),
          FormatFixed(sum.bytes, 0),
          FormatPercent(KvShare(report, sum)),
          FormatFixed(sum.build_seconds, 2),
          fixed(BuildProducts(report, sum))};
}

int64_t HeadsMeasured(const IndexBenchReport& report) {
  return report.indexes.empty() ? 0 : static_cast<int64_t>(report.indexes.front().heads.size());
}

// Means over the heads by effort, so that a curve of an index is one line.
std::map<int64_t, SearchPoint> MeanCurve(const IndexBench& bench) {
  std::map<int64_t, SearchPoint> curve;
  std::map<int64_t, int64_t> heads;
  for (const HeadBench& head : bench.heads) {
    for (const SearchPoint& point : head.points) {
      SearchPoint& sum = curve[point.effort];
      sum.recall += point.recall;
      sum.mass += point.mass;
      sum.scanned += point.scanned;
      sum.seconds += point.seconds;
      ++heads[point.effort];
    }
  }
  for (auto& [effort, point] : curve) {
    const auto count = static_cast<double>(heads[effort]);
    point = {effort, point.recall / count, point.mass / count, point.scanned / count, point.seconds / count};
  }
  // Efforts that only some heads needed would bend the line.
  std::erase_if(curve,
                [&](const auto& entry) { return heads[entry.first] < static_cast<int64_t>(bench.heads.size()); });
  return curve;
}

std::string Plot(const IndexBenchReport& report, const char* title, const char* x_label, const char* y_label,
                 double (*x)(const SearchPoint&), double (*y)(const SearchPoint&)) {
  std::vector<report::Series> all;
  for (const IndexBench& bench : report.indexes) {
    report::Series& series = all.emplace_back();
    series.name = bench.index;
    for (const auto& [effort, point] : MeanCurve(bench)) {
      series.x.push_back(x(point));
      series.y.push_back(y(point));
    }
  }
  report::LinePlotOptions options;
  options.title = title;
  options.x_label = x_label;
  options.y_label = y_label;
  return report::LinePlot(options, all);
}

}  // namespace

AtTarget FindTarget(const HeadBench& head, double target, double flat_seconds) {
  const SearchPoint* before = nullptr;
  for (const SearchPoint& point : head.points) {
    if (point.recall >= target) {
      if (before == nullptr) return {true, point.scanned, point.seconds, point.mass};
      const double part = (target - before->recall) / (point.recall - before->recall);
      const auto between = [&](double a, double b) { return a + part * (b - a); };
      return {true, between(before->scanned, point.scanned), between(before->seconds, point.seconds),
              between(before->mass, point.mass)};
    }
    if (before == nullptr || point.recall > before->recall) before = &point;
  }
  return {false, 1, flat_seconds, 1};
}

void PrintIndexBench(const IndexBenchReport& report, std::ostream& out) {
  Table table(Header(report));
  for (const IndexBench& bench : report.indexes) table.Add(RowOf(report, bench));
  table.Print(out);
  out << "\n"
      << report.trace << ": " << FormatCount(report.keys) << " keys a head, " << FormatCount(report.queries)
      << " queries of decoded tokens a head, recall@" << report.top_k << ", one thread; the graph is drawn from "
      << FormatCount(report.build_queries) << " queries of the text\n"
      << "times faster: than the better of ivf and hnsw; of a product: build time by that of one float32 product of "
      << FormatCount(report.product_queries) << " queries of the text and the keys ("
      << FormatFixed(report.product_seconds, 2)
      << " s)\n"
         "clusters: centroids of the wave index, which counts neither in bytes nor in the build; a search of the graph "
         "begins at the best of them\n";
  if (HeadsMeasured(report) < report.heads) {
    out << "time ran out: " << FormatCount(HeadsMeasured(report)) << " of " << FormatCount(report.heads)
        << " heads were measured\n";
  }
}

nlohmann::json IndexBenchJson(const IndexBenchReport& report) {
  nlohmann::json json{{"program", "swell index-bench"},
                      {"version", SWELL_VERSION},
                      {"trace", report.trace},
                      {"keys", report.keys},
                      {"queries", report.queries},
                      {"build_queries", report.build_queries},
                      {"product_queries", report.product_queries},
                      {"top_k", report.top_k},
                      {"target", report.target},
                      {"heads", report.heads},
                      {"heads_measured", HeadsMeasured(report)},
                      {"kv_bytes", report.kv_bytes},
                      {"product_seconds", report.product_seconds}};
  for (const IndexBench& bench : report.indexes) {
    const Summary sum = Summarise(report, bench);
    nlohmann::json entry{
        {"index", bench.index},       {"heads_reached", sum.reached},     {"scanned", sum.scanned},
        {"scanned_worst", sum.worst}, {"centroids", sum.centroids},       {"mass", sum.mass},
        {"bytes_per_key", sum.bytes}, {"kv_share", KvShare(report, sum)}, {"build_seconds", sum.build_seconds}};
    const auto number = [](std::optional<double> value) { return value ? nlohmann::json(*value) : nlohmann::json(); };
    entry["seconds"] = number(sum.timed ? std::optional(sum.seconds) : std::nullopt);
    entry["times_faster"] = number(TimesFaster(report, sum));
    entry["build_products"] = number(BuildProducts(report, sum));
    entry["heads"] = nlohmann::json::array();
    for (const HeadBench& head : bench.heads) {
      nlohmann::json points = nlohmann::json::array();
      for (const SearchPoint& point : head.points) {
        points.push_back({{"effort", point.effort},
                          {"recall", point.recall},
                          {"mass", point.mass},
                          {"scanned", point.scanned},
                          {"seconds", point.seconds}});
      }
      entry["heads"].push_back({{"layer", head.layer},
                                {"kv_head", head.kv_head},
                                {"build_seconds", head.build_seconds},
                                {"bytes_per_key", head.bytes},
                                {"centroids", head.centroids},
                                {"points", std::move(points)}});
    }
    json["indexes"].push_back(std::move(entry));
  }
  return json;
}

std::string IndexBenchHtml(const IndexBenchReport& report) {
  report::Page page("Indexes over the keys of a head");
  page.Paragraph(report.trace + ": " + FormatCount(report.keys) + " keys a head, " + FormatCount(report.queries) +
                 " queries of decoded tokens a head, recall of the " + FormatCount(report.top_k) +
                 " best keys. Scanned counts every vector that a query was compared with, centroids and entry points "
                 "included. A head that misses the target counts as one whose keys are all compared.");
  std::vector<std::vector<report::Cell>> rows;
  for (const IndexBench& bench : report.indexes) {
    std::vector<report::Cell> row;
    for (std::string& cell : RowOf(report, bench)) row.emplace_back(std::move(cell));
    rows.push_back(std::move(row));
  }
  page.Table(Header(report), rows);
  const auto scanned = [](const SearchPoint& point) { return 100 * point.scanned; };
  const auto seconds = [](const SearchPoint& point) { return 1e6 * point.seconds; };
  const auto recall = [](const SearchPoint& point) { return point.recall; };
  const auto mass = [](const SearchPoint& point) { return point.mass; };
  page.Figure(Plot(report, "Recall and keys scanned", "keys scanned, %", "recall", scanned, recall),
              "Means over heads.");
  page.Figure(Plot(report, "Recall and time", "microseconds a query", "recall", seconds, recall), "Means over heads.");
  page.Figure(Plot(report, "Attention mass and keys scanned", "keys scanned, %", "mass found", scanned, mass),
              "Softmax mass of the keys that were found, of that of all indexed keys; means over heads.");
  return page.Html();
}

}  // namespace swell::cli
