// Plots as SVG text. Colours are CSS classes of the page (page.h), so that one plot serves light and dark.
// Names and labels are escaped here; every function is pure.
#ifndef SWELL_TOOLS_REPORT_PLOT_H_
#define SWELL_TOOLS_REPORT_PLOT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace swell::report {

// Text safe inside XML: markup escaped, control characters dropped, bytes that are not UTF-8 replaced by U+FFFD.
std::string Escape(std::string_view text);

struct Series {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;  // as many as x
};

struct LinePlotOptions {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool points_only = false;  // scatter
  bool diagonal = false;     // draws y = x, over one range for both axes
  bool logarithmic = false;  // both axes; points at 0 and below are left out
  double guide_factor = 0;   // > 1, with a logarithmic diagonal: dashed lines so many times above and below it
};

// Both axes start at 0 unless they are logarithmic. A series without points is left out and keeps its colour. Points
// that are not finite are left out.
std::string LinePlot(const LinePlotOptions& options, const std::vector<Series>& series);

struct BarPlotOptions {
  std::string title;
  std::string y_label;
  bool stacked = false;  // the bars of a group on top of each other
};

// One group of bars per entry of `groups`; series[s].y has one value per group, series[s].x is not used.
std::string BarPlot(const BarPlotOptions& options, const std::vector<std::string>& groups,
                    const std::vector<Series>& series);

struct Row {
  std::string name;
  double value = 0;   // >= 0
  std::string label;  // the value as a reader wants it
};

// Horizontal bars from 0, one per row, with the row's name before it and its label behind.
std::string RowPlot(const std::string& title, const std::vector<Row>& rows);

struct HeatMapOptions {
  std::string title;
  std::string row_name;     // "KV head"
  std::string column_name;  // "layer"
  bool percent = false;     // values are shares, shown as percent
  double full = 0;          // value of the fullest colour; 0: the largest
};

// `values` [rows, columns], >= 0 and at most options.full.
std::string HeatMap(const HeatMapOptions& options, int64_t rows, int64_t columns, const std::vector<double>& values);

}  // namespace swell::report

#endif  // SWELL_TOOLS_REPORT_PLOT_H_
