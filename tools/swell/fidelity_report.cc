#include <algorithm>
#include <cmath>
#include <limits>

#include "tools/report/format.h"
#include "tools/report/plot.h"
#include "tools/swell/fidelity.h"
#include "tools/swell/table.h"

namespace swell::cli {
namespace {

using report::FormatBytes;
using report::FormatCount;
using report::FormatFixed;
using report::FormatPercent;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

double Ratio(double part, double whole) { return whole > 0 ? part / whole : kNone; }

// The columns of the table, in the terminal and on the page alike.
const std::vector<std::string> kHeader = {"task",      "configuration", "answers right", "tokens right",
                                          "NLL",       "output error",  "predicted",     "within x2",
                                          "within x3", "tokens read",   "share read",    "bytes read"};

std::vector<std::string> Row(const FidelityReport& report, const FidelityResult& result) {
  const ReadingMeans means = Means(result.readings, report.group, result.query_positions);
  const bool exact = std::isnan(means.error);
  return {result.task,
          result.config,
          FormatCount(result.exact_matches) + " of " + FormatCount(result.questions),
          FormatFixed(Ratio(result.correct_tokens, result.answer_tokens), 3),
          FormatFixed(Ratio(result.nll, result.answer_tokens), 4),
          exact ? "-" : FormatFixed(means.error, 4),
          exact ? "-" : FormatFixed(means.predicted_error, 4),
          exact ? "-" : FormatPercent(WithinFactor(2, result.pairs)),
          exact ? "-" : FormatPercent(WithinFactor(3, result.pairs)),
          FormatCount(std::llround(means.tokens_read)),
          FormatPercent(means.share_read),
          FormatBytes(means.bytes_read)};
}

const FidelityResult& At(const FidelityReport& report, size_t task, size_t config) {
  return report.results[task * report.configs.size() + config];
}

template <typename Value>
std::string Bars(const FidelityReport& report, const std::string& title, const std::string& label, Value value) {
  std::vector<report::Series> series;
  for (size_t c = 0; c < report.configs.size(); ++c) {
    report::Series one{report.configs[c], {}, {}};
    for (size_t t = 0; t < report.tasks.size(); ++t) one.y.push_back(value(At(report, t, c)));
    series.push_back(std::move(one));
  }
  return report::BarPlot({title, label}, report.tasks, series);
}

// Share read or error of each KV head, [kv_heads, layers] as the heat map wants it, over all tasks.
std::vector<double> HeadValues(const FidelityReport& report, size_t config, bool error) {
  std::vector<double> values(static_cast<size_t>(report.layers) * report.kv_heads, kNone);
  for (int32_t layer = 0; layer < report.layers; ++layer) {
    for (int32_t head = 0; head < report.kv_heads; ++head) {
      double part = 0, whole = 0;
      for (size_t t = 0; t < report.tasks.size(); ++t) {
        const HeadReading& reading = At(report, t, config).readings[layer * report.kv_heads + head];
        part += error ? reading.error : static_cast<double>(reading.tokens_read);
        whole += static_cast<double>(error ? reading.audited : reading.tokens_visible);
      }
      values[head * report.layers + layer] = Ratio(part, whole);
    }
  }
  return values;
}

constexpr float kLeastShown = 1e-3F;

void AddErrorFigures(const FidelityReport& report, report::Page& page) {
  std::vector<report::Series> scatter;
  bool any = false;
  for (size_t c = 0; c < report.configs.size(); ++c) {
    report::Series one{report.configs[c], {}, {}};
    for (size_t t = 0; t < report.tasks.size(); ++t) {
      for (const ErrorPair& pair : At(report, t, c).pairs) {
        if (one.x.size() >= 1000) continue;
        one.x.push_back(std::max(pair.actual, kLeastShown));
        one.y.push_back(std::max(pair.predicted, kLeastShown));
      }
    }
    any = any || !one.x.empty();
    scatter.push_back(std::move(one));
  }
  if (!any) return;
  page.Heading("Does the engine know its error?");
  page.Figure(report::LinePlot({"Predicted and actual error of single queries", "actual error, |o - exact| / |exact|",
                                "predicted error", true, true, true, 3},
                               scatter),
              "Each point is one query head at one position. On the line the prediction is right, between the dashed "
              "lines within "
              "a factor of three. Up to 1,000 points a configuration; errors below 0.001 stand at 0.001.");
  page.Heading("Where the error is");
  page.Paragraph(
      "Each cell is one KV head of one layer: keys and values of their own, which the model attends to side by side "
      "with "
      "the others. All configurations have the same scale.");
  std::vector<size_t> audited;
  double largest_error = 0, largest_share = 0;
  for (size_t c = 0; c < report.configs.size(); ++c) {
    const std::vector<double> errors = HeadValues(report, c, true), shares = HeadValues(report, c, false);
    if (std::all_of(errors.begin(), errors.end(), [](double value) { return std::isnan(value); })) continue;
    audited.push_back(c);
    for (const double error : errors) largest_error = std::max(largest_error, error);  // which passes NaN over
    for (const double share : shares) largest_share = std::max(largest_share, share);
  }
  for (const size_t c : audited) {
    page.Figure(report::HeatMap({"Output error, " + report.configs[c], "KV head", "layer", true, largest_error},
                                report.kv_heads, report.layers, HeadValues(report, c, true)),
                "Relative difference to exact attention on the same queries, keys and values, by layer and KV head.");
    page.Figure(report::HeatMap({"Share of tokens read, " + report.configs[c], "KV head", "layer", true, largest_share},
                                report.kv_heads, report.layers, HeadValues(report, c, false)),
                "Tokens read exactly, of those visible.");
  }
}

}  // namespace

ReadingMeans Means(const std::vector<HeadReading>& readings, int32_t group, int64_t query_positions) {
  HeadReading sum;
  for (const HeadReading& reading : readings) sum += reading;
  const auto queries = static_cast<double>(sum.queries), audited = static_cast<double>(sum.audited);
  ReadingMeans means;
  means.tokens_read = Ratio(static_cast<double>(sum.tokens_read), queries);
  means.share_read = Ratio(static_cast<double>(sum.tokens_read), static_cast<double>(sum.tokens_visible));
  means.bytes_read = Ratio(static_cast<double>(sum.bytes_read) / group, static_cast<double>(query_positions));
  means.estimated_share = Ratio(sum.estimated_share, queries);
  means.error = Ratio(sum.error, audited);
  means.predicted_error = Ratio(sum.predicted_error, audited);
  return means;
}

double WithinFactor(float factor, const std::vector<ErrorPair>& pairs) {
  const auto within = std::count_if(pairs.begin(), pairs.end(), [factor](const ErrorPair& pair) {
    const float actual = std::max(pair.actual, kLeastPredictedError);
    return pair.predicted <= factor * actual && actual <= factor * pair.predicted;
  });
  return Ratio(static_cast<double>(within), static_cast<double>(pairs.size()));
}

void PrintFidelity(const FidelityReport& report, std::ostream& out) {
  Table table(kHeader);
  for (const FidelityResult& result : report.results) table.Add(Row(report, result));
  table.Print(out);
}

nlohmann::json FidelityJson(const FidelityReport& report) {
  const auto number = [](double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); };
  nlohmann::json json = {
      {"program", "swell fidelity"}, {"version", SWELL_VERSION},        {"tokens", report.tokens},
      {"seeds", report.seeds},       {"first_seed", report.first_seed}, {"texts", report.texts},
      {"tasks", report.tasks},       {"configs", report.configs},       {"results", nlohmann::json::array()}};
  for (const FidelityResult& result : report.results) {
    const ReadingMeans means = Means(result.readings, report.group, result.query_positions);
    nlohmann::json heads = nlohmann::json::array();
    for (const HeadReading& reading : result.readings) {
      heads.push_back(number(Ratio(reading.error, static_cast<double>(reading.audited))));
    }
    json["results"].push_back({{"task", result.task},
                               {"config", result.config},
                               {"questions", result.questions},
                               {"exact_match", number(Ratio(result.exact_matches, result.questions))},
                               {"token_accuracy", number(Ratio(result.correct_tokens, result.answer_tokens))},
                               {"nll", number(Ratio(result.nll, result.answer_tokens))},
                               {"output_error", number(means.error)},
                               {"predicted_error", number(means.predicted_error)},
                               {"predicted_within_factor_2", number(WithinFactor(2, result.pairs))},
                               {"predicted_within_factor_3", number(WithinFactor(3, result.pairs))},
                               {"estimated_share", number(means.estimated_share)},
                               {"tokens_read", number(means.tokens_read)},
                               {"share_read", number(means.share_read)},
                               {"bytes_read", number(means.bytes_read)},
                               {"seconds", number(result.seconds)},
                               {"head_errors", std::move(heads)}});
  }
  return json;
}

std::string FidelityHtml(const FidelityReport& report) {
  report::Page page("Swell: fidelity at " + FormatCount(report.tokens) + " tokens");
  page.Paragraph(
      "Each task is one long context with independent questions. The context is read once with exact attention; every "
      "question is then answered under each configuration on a fork of it. \"Exact\" reads all keys and values; the "
      "others read the clusters of tokens that matter most and estimate the rest from cluster means.");
  std::vector<std::vector<report::Cell>> rows;
  for (const FidelityResult& result : report.results) {
    const std::vector<std::string> row = Row(report, result);
    rows.emplace_back(row.begin(), row.end());
  }
  page.Table(kHeader, rows);
  page.Paragraph(
      "Answers right: all tokens of the answer were the model's first choice, each after the true tokens before it. "
      "NLL: "
      "mean negative log-likelihood of the answer's tokens, the steadier figure. Output error: |o - exact| / |exact|, "
      "mean over layers and heads; predicted: what the engine said it would be; within x2: how often it was right "
      "within "
      "a factor of two. Tokens read: exactly, per head and token generated. Bytes read: keys, values and index, per "
      "token generated.");
  page.Heading("Answers");
  page.Figure(Bars(report, "Tokens of the answers that were right", "share",
                   [](const FidelityResult& result) { return Ratio(result.correct_tokens, result.answer_tokens); }),
              "Higher is better.");
  page.Figure(Bars(report, "Negative log-likelihood of the answers", "nats per token",
                   [](const FidelityResult& result) { return Ratio(result.nll, result.answer_tokens); }),
              "Lower is better.");
  page.Figure(Bars(report, "Bytes of keys, values and index read per token", "MiB",
                   [&](const FidelityResult& result) {
                     return Means(result.readings, report.group, result.query_positions).bytes_read / (1 << 20);
                   }),
              "Lower is faster.");
  AddErrorFigures(report, page);
  return page.Html();
}

}  // namespace swell::cli
