#include <string>
#include <utility>

#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/plot.h"
#include "tools/swell/cache_sim.h"
#include "tools/swell/table.h"

namespace swell::cli {
namespace {

using report::FormatCount;
using report::FormatFixed;
using report::FormatNumber;
using report::FormatPercent;

std::vector<std::string> Header(const CacheReport& report) {
  std::vector<std::string> header = {"cache", "policy", "beta"};
  for (const CachePoint& point : report.rows.front().points) header.push_back("hits at " + FormatPercent(point.size));
  header.insert(header.end(), {"worst head", "output error", "read", "missed"});
  return header;
}

std::vector<std::string> RowOf(const CacheRow& row) {
  std::vector<std::string> cells = {row.shared ? "shared" : "one a head", row.policy, FormatNumber(row.beta)};
  for (const CachePoint& point : row.points) cells.push_back(FormatFixed(point.hit_ratio, 3));
  const bool optimum = row.policy == "optimum";
  const CachePoint& middle = row.points[row.points.size() / 2];
  cells.push_back(optimum ? "-" : FormatFixed(middle.worst_head, 3));
  cells.push_back(optimum ? "-" : FormatFixed(row.output_error, 4));
  cells.push_back(FormatFixed(middle.tokens_read, 1));
  cells.push_back(FormatFixed(middle.tokens_missed, 1));
  return cells;
}

std::string Caption(const CacheReport& report) {
  return report.trace + ": " + FormatCount(report.heads) + " heads of " + FormatCount(report.tokens) +
         " clustered tokens; at most " + FormatPercent(report.retrieve_share) +
         " of them read a step, where a token may hold more than " + FormatPercent(report.retrieve_above) +
         " of the mass; " + FormatCount(report.steps) + " steps, the first " + FormatCount(report.warm_steps) +
         " not counted";
}

}  // namespace

void PrintCacheSim(const CacheReport& report, std::ostream& out) {
  Table table(Header(report));
  for (const CacheRow& row : report.rows) table.Add(RowOf(row));
  table.Print(out);
  out << "\n" << Caption(report) << "\n";
}

nlohmann::json CacheSimJson(const CacheReport& report) {
  nlohmann::json json{{"program", "swell cache-sim"},
                      {"version", SWELL_VERSION},
                      {"trace", report.trace},
                      {"heads", report.heads},
                      {"tokens", report.tokens},
                      {"steps", report.steps},
                      {"warm", report.warm_steps},
                      {"retrieve_share", report.retrieve_share},
                      {"retrieve_above", report.retrieve_above}};
  for (const CacheRow& row : report.rows) {
    nlohmann::json entry{{"policy", row.policy}, {"beta", row.beta}, {"shared", row.shared}};
    if (row.policy != "optimum") entry["output_error"] = row.output_error;
    for (const CachePoint& point : row.points) {
      entry["points"].push_back({{"size", point.size},
                                 {"hit_ratio", point.hit_ratio},
                                 {"tokens_read", point.tokens_read},
                                 {"tokens_missed", point.tokens_missed}});
      if (row.policy != "optimum") entry["points"].back()["worst_head"] = point.worst_head;
    }
    json["rows"].push_back(std::move(entry));
  }
  return json;
}

std::string CacheSimHtml(const CacheReport& report) {
  report::Page page("Caches in front of keys and values");
  page.Paragraph(Caption(report) +
                 ". A hit is a token read from the cache. beta: nats by which clusters that are cached are preferred "
                 "when the tokens to read are chosen; worst head and output error at the middle size. The optimum "
                 "knows which tokens the coming steps read.");
  std::vector<std::vector<report::Cell>> rows;
  for (const CacheRow& row : report.rows) {
    std::vector<report::Cell> cells;
    for (std::string& cell : RowOf(row)) cells.emplace_back(std::move(cell));
    rows.push_back(std::move(cells));
  }
  page.Table(Header(report), rows);
  std::vector<report::Series> all;
  for (const CacheRow& row : report.rows) {
    if (!row.shared) continue;
    report::Series& series = all.emplace_back();
    series.name = row.beta > 0 ? row.policy + ", beta " + FormatNumber(row.beta) : row.policy;
    for (const CachePoint& point : row.points) {
      series.x.push_back(100 * point.size);
      series.y.push_back(100 * point.hit_ratio);
    }
  }
  report::LinePlotOptions options;
  options.title = "Hits and size of the cache";
  options.x_label = "size, % of the clustered tokens";
  options.y_label = "tokens read from the cache, %";
  page.Figure(report::LinePlot(options, all), "One cache for all heads.");
  return page.Html();
}

}  // namespace swell::cli
