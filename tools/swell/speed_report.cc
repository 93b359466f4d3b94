#include <limits>
#include <nlohmann/json.hpp>

#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/plot.h"
#include "tools/swell/json.h"
#include "tools/swell/speed.h"

namespace swell::cli {
namespace {

using report::FormatCount;
using report::FormatFixed;
using Rows = std::vector<std::vector<std::string>>;  // the first one is the header

constexpr const char* kSides[] = {"exact", "wave"};

nlohmann::json TimesJson(const Times& times) {
  return {{"seconds", times.total},
          {"products", times.products},
          {"put", times.put},
          {"attention", times.attention},
          {"rest", times.rest()}};
}

const PeerPoint* FindPeer(const SpeedResult& result, int64_t tokens) {
  for (const PeerPoint& point : result.peer_points) {
    if (point.tokens == tokens) return &point;
  }
  return nullptr;
}

std::string Milliseconds(double seconds) { return FormatFixed(seconds * 1000, 1); }

// "3.1" for three times as fast as the peer; "-" when it has no such length.
std::string Faster(const PeerPoint* peer, double PeerPoint::*theirs, double ours) {
  return FormatFixed(peer == nullptr ? std::numeric_limits<double>::quiet_NaN() : peer->*theirs / ours, 1);
}

Rows Comparison(const SpeedResult& result) {
  const bool peer = !result.peer.empty();
  Rows rows = {{"tokens of context", "read, s", "tokens per second", "exact, ms", "wave, ms"}};
  if (peer) {
    const std::vector<std::string> more = {result.peer + " read, s", "step, ms", "reading, times as fast",
                                           "exact, times as fast", "wave, times as fast"};
    rows[0].insert(rows[0].end(), more.begin(), more.end());
  }
  int64_t before = 0;
  for (const SpeedPoint& point : result.points) {
    rows.push_back({FormatCount(point.tokens), FormatFixed(point.read.total, 2),
                    FormatFixed(static_cast<double>(point.tokens - before) / point.read.total, 0),
                    Milliseconds(point.steps[0].total), Milliseconds(point.steps[1].total)});
    before = point.tokens;
    if (!peer) continue;
    const PeerPoint* other = FindPeer(result, point.tokens);
    rows.back().push_back(other == nullptr ? "-" : FormatFixed(other->read_seconds, 2));
    rows.back().push_back(other == nullptr ? "-" : Milliseconds(other->step_seconds));
    rows.back().push_back(Faster(other, &PeerPoint::read_seconds, point.read.total));
    for (const Times& step : point.steps) {
      rows.back().push_back(Faster(other, &PeerPoint::step_seconds, step.total));
    }
  }
  return rows;
}

Rows Parts(const SpeedResult& result) {
  Rows rows = {{"tokens of context", "", "all, ms", "products of the weights", "attention", "writing K and V", "rest"}};
  const auto add = [&](const SpeedPoint& point, const std::string& what, const Times& times, double scale) {
    rows.push_back({FormatCount(point.tokens), what});
    for (const double part : {times.total, times.products, times.attention, times.put, times.rest()}) {
      rows.back().push_back(FormatFixed(part * scale, scale > 1000 ? 3 : 2));
    }
  };
  int64_t before = 0;
  for (const SpeedPoint& point : result.points) {
    add(point, "reading, a token", point.read, 1000.0 / static_cast<double>(point.tokens - before));
    for (size_t side = 0; side < 2; ++side) {
      add(point, std::string("decoding, ") + kSides[side], point.steps[side], 1000);
    }
    before = point.tokens;
  }
  return rows;
}

std::string Markdown(const Rows& rows) {
  std::string text;
  for (size_t row = 0; row < rows.size(); ++row) {
    text += "|";
    for (const std::string& cell : rows[row]) text += " " + cell + " |";
    text += "\n";
    if (row > 0) continue;
    text += "|";
    for (size_t column = 0; column < rows[0].size(); ++column) text += " --- |";
    text += "\n";
  }
  return text;
}

std::string Memory(const SpeedResult& result) {
  return "Weights in memory " + report::FormatBytes(static_cast<double>(result.weight_bytes)) +
         ", of the process at most " + report::FormatBytes(static_cast<double>(result.peak_bytes)) + ".";
}

void AddTable(const Rows& rows, report::Page& page) {
  std::vector<std::vector<report::Cell>> cells;
  for (size_t row = 1; row < rows.size(); ++row) cells.emplace_back(rows[row].begin(), rows[row].end());
  page.Table(rows[0], cells);
}

std::string StepPlot(const SpeedResult& result) {
  std::vector<report::Series> series;
  for (size_t side = 0; side < 2; ++side) {
    report::Series one{side == 0 ? "exact attention" : "wave index", {}, {}};
    for (const SpeedPoint& point : result.points) {
      one.x.push_back(static_cast<double>(point.tokens));
      one.y.push_back(point.steps[side].total * 1000);
    }
    series.push_back(std::move(one));
  }
  if (!result.peer.empty()) {
    report::Series one{result.peer, {}, {}};
    for (const PeerPoint& point : result.peer_points) {
      one.x.push_back(static_cast<double>(point.tokens));
      one.y.push_back(point.step_seconds * 1000);
    }
    series.push_back(std::move(one));
  }
  return report::LinePlot({"Time of one decoded token", "tokens of context", "ms per token"}, series);
}

// Seconds since the beginning, at each length.
std::string ReadPlot(const SpeedResult& result) {
  std::vector<report::Series> series = {{"Swell", {}, {}}};
  double seconds = 0;
  for (const SpeedPoint& point : result.points) {
    series[0].x.push_back(static_cast<double>(point.tokens));
    series[0].y.push_back(seconds += point.read.total);
  }
  if (!result.peer.empty()) {
    report::Series one{result.peer, {}, {}};
    seconds = 0;
    for (const PeerPoint& point : result.peer_points) {
      one.x.push_back(static_cast<double>(point.tokens));
      one.y.push_back(seconds += point.read_seconds);
    }
    series.push_back(std::move(one));
  }
  return report::LinePlot({"Time to read the text", "tokens of context", "seconds"}, series);
}

std::string PartsPlot(const SpeedResult& result) {
  std::vector<report::Series> series = {
      {"products of the weights", {}, {}}, {"attention", {}, {}}, {"writing K and V", {}, {}}, {"rest", {}, {}}};
  std::vector<std::string> groups;
  for (const SpeedPoint& point : result.points) {
    for (size_t side = 0; side < 2; ++side) {
      const Times& step = point.steps[side];
      groups.push_back(FormatCount(point.tokens) + " " + kSides[side]);
      const double parts[] = {step.products, step.attention, step.put, step.rest()};
      for (size_t part = 0; part < series.size(); ++part) series[part].y.push_back(parts[part] * 1000);
    }
  }
  return report::BarPlot({"Where the time of a decoded token goes", "ms per token", true}, groups, series);
}

}  // namespace

std::string SpeedJson(const SpeedResult& result) {
  nlohmann::json json = {{"program", "swell speed"},
                         {"version", SWELL_VERSION},
                         {"text", result.text},
                         {"weight_bytes", result.weight_bytes},
                         {"peak_bytes", result.peak_bytes},
                         {"points", nlohmann::json::array()}};
  for (const SpeedPoint& point : result.points) {
    nlohmann::json one = {
        {"tokens", point.tokens}, {"read", TimesJson(point.read)}, {"seal_seconds", point.seal_seconds}};
    for (size_t side = 0; side < 2; ++side) one["step"][kSides[side]] = TimesJson(point.steps[side]);
    if (const PeerPoint* peer = FindPeer(result, point.tokens)) {
      one["peer"] = {{"name", result.peer}, {"read_seconds", peer->read_seconds}, {"step_seconds", peer->step_seconds}};
    }
    json["points"].push_back(std::move(one));
  }
  return JsonText(json);
}

std::string SpeedMarkdown(const SpeedResult& result) {
  return Markdown(Comparison(result)) + "\n" + Markdown(Parts(result)) + "\n" + Memory(result) + "\n";
}

std::string SpeedHtml(const SpeedResult& result) {
  report::Page page("Swell: how fast a text is read and continued");
  page.Paragraph(
      "A text was read in chunks with exact attention. At each length a few tokens were decoded twice, with "
      "exact attention, which reads all keys and values, and with the wave index, which reads those that matter "
      "and estimates the others; the token with the median time counts. Up to 1,024 tokens are always read exactly, so "
      "that the two begin to differ beyond. " +
      Memory(result));
  page.Figure(StepPlot(result), "How long one more token takes after a text of that length. Lower is faster.");
  page.Figure(
      PartsPlot(result),
      "The products with the model's weights take the same time at every length; attention grows with the text.");
  page.Figure(ReadPlot(result), "Seconds since the beginning of the text, with exact attention. Lower is faster.");
  page.Heading("Times at each length");
  AddTable(Comparison(result), page);
  page.Heading("Parts of the time of one token");
  AddTable(Parts(result), page);
  return page.Html();
}

Status ReadPeer(const std::string& json, SpeedResult& result) {
  try {
    const nlohmann::json peer = nlohmann::json::parse(json);
    result.peer = peer.at("name").get<std::string>();
    for (const nlohmann::json& point : peer.at("points")) {
      result.peer_points.push_back({point.at("tokens").get<int64_t>(), point.at("read_seconds").get<double>(),
                                    point.at("step_seconds").get<double>()});
    }
    return OkStatus();
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument(std::string("--peer: ") + error.what());
  }
}

}  // namespace swell::cli
