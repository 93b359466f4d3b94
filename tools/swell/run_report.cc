#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/plot.h"
#include "tools/swell/fidelity.h"
#include "tools/swell/json.h"
#include "tools/swell/run.h"
#include "tools/swell/table.h"

namespace swell::cli {
namespace {

using report::FormatBytes;
using report::FormatCount;
using report::FormatFixed;
using report::FormatPercent;

constexpr const char* kSideKeys[] = {"exact", "wave"};

double Ratio(double part, double whole) { return whole > 0 ? part / whole : std::numeric_limits<double>::quiet_NaN(); }

// What both sides cost and achieved, a row each; the first row is the header.
std::vector<std::vector<std::string>> Comparison(const RunResult& result) {
  std::vector<std::vector<std::string>> rows = {{""},
                                                {"answers right"},
                                                {"tokens per second while answering"},
                                                {"time per token"},
                                                {"of that, attention"},
                                                {"keys, values and index read per token"},
                                                {"share of the tokens read"},
                                                {"memory for keys, values and index"}};
  for (const Side& side : result.sides) {
    const ReadingMeans means = Means(side.readings, result.group, side.tokens);
    const auto tokens = static_cast<double>(side.tokens);
    size_t row = 0;
    rows[row++].push_back(side.name);
    rows[row++].push_back(side.right.empty() ? "not known"
                                             : std::to_string(std::count(side.right.begin(), side.right.end(), true)) +
                                                   " of " + std::to_string(side.right.size()));
    rows[row++].push_back(FormatFixed(Ratio(tokens, side.seconds), 1));
    rows[row++].push_back(FormatFixed(Ratio(side.seconds * 1000, tokens), 1) + " ms");
    rows[row++].push_back(FormatFixed(Ratio(side.attend_seconds * 1000, tokens), 1) + " ms");
    rows[row++].push_back(FormatBytes(means.bytes_read));
    rows[row++].push_back(FormatPercent(means.share_read));
    rows[row++].push_back(FormatBytes(side.memory_bytes));
  }
  return rows;
}

std::string Summary(const RunResult& result) {
  std::string text = "Read " + FormatCount(result.tokens) + " tokens of " + result.text;
  if (result.facts > 0) text += ", with " + FormatCount(result.facts) + " facts planted in it,";
  return text + " in " + report::FormatDuration(result.read_seconds) + " (" +
         FormatFixed(Ratio(static_cast<double>(result.tokens), result.read_seconds), 0) + " tokens per second).";
}

void AddAnswers(const RunResult& result, report::Page& page) {
  std::vector<std::vector<report::Cell>> rows;
  for (size_t q = 0; q < result.questions.size(); ++q) {
    std::vector<report::Cell> row = {result.questions[q]};
    if (!result.expected[q].empty()) row.emplace_back(result.expected[q]);
    for (const Side& side : result.sides) {
      using Mark = report::Cell::Mark;
      row.emplace_back(side.answers[q], side.right.empty() ? Mark::kNone : side.right[q] ? Mark::kGood : Mark::kBad);
    }
    rows.push_back(std::move(row));
  }
  std::vector<std::string> header = {"question"};
  if (!result.sides[0].right.empty()) header.emplace_back("planted in the text");
  for (const Side& side : result.sides) header.push_back(side.name);
  page.Table(header, rows);
}

std::string SpeedPlot(const RunResult& result, const std::string& title, double Times::*part) {
  std::vector<report::Series> series;
  for (size_t side = 0; side < result.sides.size(); ++side) {
    report::Series one{result.sides[side].name, {}, {}};
    for (const Speed& speed : result.speeds) {
      one.x.push_back(static_cast<double>(speed.tokens));
      one.y.push_back(speed.steps[side].*part * 1000);
    }
    series.push_back(std::move(one));
  }
  return report::LinePlot({title, "tokens of context", "ms per token"}, series);
}

// [kv_heads, layers] as the heat map wants it.
template <typename Value>
std::string LayerMap(const RunResult& result, const std::string& title, Value value) {
  std::vector<double> values(result.audit.size());
  for (int32_t layer = 0; layer < result.layers; ++layer) {
    for (int32_t head = 0; head < result.kv_heads; ++head) {
      values[head * result.layers + layer] = value(result.audit[layer * result.kv_heads + head]);
    }
  }
  return report::HeatMap({title, "KV head", "layer", true}, result.kv_heads, result.layers, values);
}

void AddFigures(const RunResult& result, report::Page& page) {
  page.Heading("Time per token as the context grows");
  page.Figure(
      SpeedPlot(result, "Time of one decoded token", &Times::total),
      "Measured while the text was being read, each time on a fork of the sequence: median of a few tokens. The "
      "part that does not grow is the model's own weights.");
  page.Figure(SpeedPlot(result, "Attention's part of that time", &Times::attention),
              "Exact attention reads all keys and values for every token, so its time grows with the text.");
  page.Heading("How far the wave index is from exact attention, and where");
  const ReadingMeans means = Means(result.audit, result.group, 1);
  page.Paragraph(
      "Every query of the audited answers was answered twice from the same keys and values. The outputs "
      "differ by " +
      FormatPercent(means.error) +
      " on average (|o - exact| / |exact|); the engine itself "
      "predicted " +
      FormatPercent(means.predicted_error) +
      ". Each cell below is one KV head of one layer: keys and values of their own, which the model attends to side by "
      "side with the others.");
  page.Figure(
      LayerMap(result, "Output error",
               [](const HeadReading& reading) { return Ratio(reading.error, reading.audited); }),
      "The stronger the colour, the further from exact attention: |o - exact| / |exact|, mean of the audited queries.");
  page.Figure(LayerMap(result, "Share of the tokens read",
                       [](const HeadReading& reading) { return Ratio(reading.tokens_read, reading.tokens_visible); }),
              "All other tokens were estimated from the means of their clusters. Up to 1,024 tokens are always read, "
              "so that the "
              "share falls as the text grows.");
}

}  // namespace

void PrintRun(const RunResult& result, std::ostream& out) {
  out << Summary(result) << "\n\n";
  const bool known = !result.sides[0].right.empty();
  std::vector<std::string> header = {"question"};
  if (known) header.emplace_back("planted");
  for (const Side& side : result.sides) header.push_back(side.name);
  Table answers(header);
  for (size_t q = 0; q < result.questions.size(); ++q) {
    std::vector<std::string> row = {result.questions[q]};
    if (known) row.push_back(result.expected[q]);
    for (const Side& side : result.sides) {
      row.push_back(side.answers[q] + (known ? (side.right[q] ? "  right" : "  WRONG") : ""));
    }
    answers.Add(row);
  }
  answers.Print(out);
  out << "\n";
  const std::vector<std::vector<std::string>> rows = Comparison(result);
  Table comparison(rows[0]);
  for (size_t row = 1; row < rows.size(); ++row) comparison.Add(rows[row]);
  comparison.Print(out);
  out << "\nPlots: " << result.report << "\n";
}

std::string RunHtml(const RunResult& result) {
  report::Page page("Swell: one text, read once, asked twice");
  page.Paragraph(
      "A language model keeps two vectors per token, layer and head: a key and a value. To write the next token, exact "
      "attention reads all of them. Swell keeps them in an index: tokens with similar keys form clusters; the clusters "
      "that matter for a query are read, and all others are estimated from their means (the wave index of RetroInfer, "
      "arXiv 2505.02922).");
  page.Paragraph(Summary(result) +
                 " Then the same questions were answered twice, each time from the same sequence: with "
                 "exact attention and with the wave index.");
  page.Heading("Answers");
  AddAnswers(result, page);
  page.Heading("Side by side");
  const std::vector<std::vector<std::string>> text_rows = Comparison(result);
  std::vector<std::vector<report::Cell>> rows;
  for (size_t row = 1; row < text_rows.size(); ++row) rows.emplace_back(text_rows[row].begin(), text_rows[row].end());
  page.Table(text_rows[0], rows);
  AddFigures(result, page);
  return page.Html();
}

std::string RunJson(const RunResult& result) {
  nlohmann::json json = {
      {"program", "swell run"},           {"version", SWELL_VERSION},        {"text", result.text},
      {"tokens", result.tokens},          {"facts", result.facts},           {"read_seconds", result.read_seconds},
      {"sides", nlohmann::json::array()}, {"steps", nlohmann::json::array()}};
  const ReadingMeans audit = Means(result.audit, result.group, 1);
  json["audit"] = {{"output_error", audit.error}, {"predicted_error", audit.predicted_error}};
  for (size_t s = 0; s < result.sides.size(); ++s) {
    const Side& side = result.sides[s];
    const ReadingMeans means = Means(side.readings, result.group, side.tokens);
    const auto tokens = static_cast<double>(side.tokens);
    nlohmann::json answers = nlohmann::json::array();
    for (size_t q = 0; q < side.answers.size(); ++q) {
      answers.push_back({{"question", result.questions[q]}, {"answer", side.answers[q]}});
      if (side.right.empty()) continue;
      answers.back()["expected"] = result.expected[q];
      answers.back()["right"] = static_cast<bool>(side.right[q]);
    }
    json["sides"].push_back({{"name", kSideKeys[s]},
                             {"answers", std::move(answers)},
                             {"tokens", side.tokens},
                             {"seconds", side.seconds},
                             {"tokens_per_second", Ratio(tokens, side.seconds)},
                             {"attention_seconds", side.attend_seconds},
                             {"bytes_read_per_token", means.bytes_read},
                             {"share_read", means.share_read},
                             {"memory_bytes", side.memory_bytes}});
  }
  for (const Speed& speed : result.speeds) {
    nlohmann::json step = {{"tokens", speed.tokens}};
    for (size_t s = 0; s < speed.steps.size(); ++s) {
      step[kSideKeys[s]] = {{"seconds", speed.steps[s].total}, {"attention", speed.steps[s].attention}};
    }
    json["steps"].push_back(std::move(step));
  }
  return JsonText(json);
}

}  // namespace swell::cli
