#include "tools/report/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "tools/report/format.h"

namespace swell::report {
namespace {

constexpr double kWidth = 640, kDataHeight = 232;
constexpr double kLeft = 72, kRight = 28, kTop = 40, kBottom = 48;
constexpr double kCharacter = 6.6;  // mean width of one
constexpr int kColours = 5;         // classes c0 .. c4 of the page

std::string Fixed(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", value);
  return text;
}

std::string Text(double x, double y, const char* anchor, std::string_view text, const char* style = "") {
  return "<text x=\"" + Fixed(x) + "\" y=\"" + Fixed(y) + "\" text-anchor=\"" + anchor + "\"" + style + ">" +
         Escape(text) + "</text>\n";
}

// Attribute of a text that is read from below.
std::string Upwards(double x, double y) { return " transform=\"rotate(-90 " + Fixed(x) + " " + Fixed(y) + ")\""; }

std::string Line(const char* style, double x1, double y1, double x2, double y2) {
  return std::string("<line class=\"") + style + "\" x1=\"" + Fixed(x1) + "\" y1=\"" + Fixed(y1) + "\" x2=\"" +
         Fixed(x2) + "\" y2=\"" + Fixed(y2) + "\"/>\n";
}

// The page's class for the series of that number.
std::string Colour(size_t number) {
  std::string name(1, 'c');
  name += std::to_string(number % kColours);
  return name;
}

std::string Open(double width, double height, std::string_view title) {
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + Fixed(width) + " " + Fixed(height) +
         "\" role=\"img\" aria-label=\"" + Escape(title) + "\">\n" + Text(8, 20, "start", title, " class=\"title\"");
}

// Largest of 1, 2, 5 times a power of ten that gives at least four steps up to `top`.
double Step(double top) {
  const double power = std::pow(10.0, std::floor(std::log10(top / 4)));
  for (double factor : {5.0, 2.0}) {
    if (factor * power * 4 <= top) return factor * power;
  }
  return power;
}

struct Range {
  double smallest = std::numeric_limits<double>::infinity();  // above 0
  double largest = 0;
  void Add(const std::vector<double>& values) {
    for (const double value : values) {
      if (!std::isfinite(value)) continue;
      if (value > 0) smallest = std::min(smallest, value);
      largest = std::max(largest, value);
    }
  }
};

// Linear from 0 to a little above the largest value, or logarithmic over whole decades.
struct Axis {
  static Axis Linear(double largest) {
    Axis axis;
    if (largest <= 0) largest = 1;
    axis.step = Step(largest);
    axis.length = std::ceil(largest / axis.step - 1e-9) * axis.step;
    return axis;
  }
  static Axis Logarithmic(const Range& range) {
    Axis axis;
    axis.logarithmic = true;
    if (range.largest <= 0) return axis;
    axis.low = std::floor(std::log10(range.smallest) + 1e-9);
    axis.length = std::max(1.0, std::ceil(std::log10(range.largest) - 1e-9) - axis.low);
    return axis;
  }
  int steps() const { return static_cast<int>(std::lround(length / step)); }
  double Tick(int i) const { return logarithmic ? std::pow(10.0, low + i) : i * step; }
  double top() const { return Tick(steps()); }
  // Not finite for what a logarithmic axis cannot show.
  double Fraction(double value) const { return (logarithmic ? std::log10(value) - low : value) / length; }

  bool logarithmic = false;
  double low = 0;  // logarithm of the first tick
  double step = 1;
  double length = 1;
};

// The area of the data; `top` leaves room for title and legend.
struct Frame {
  Axis x, y;
  double top;
  double bottom() const { return top + kDataHeight; }
  double X(double value) const { return kLeft + x.Fraction(value) * (kWidth - kLeft - kRight); }
  double Y(double value) const { return bottom() - y.Fraction(value) * kDataHeight; }
};

std::string VerticalAxis(const Frame& frame, const std::string& label) {
  std::string svg;
  for (int i = 0; i <= frame.y.steps(); ++i) {
    const double tick = frame.y.Tick(i);
    svg += Line(i > 0 ? "grid" : "axis", kLeft, frame.Y(tick), kWidth - kRight, frame.Y(tick));
    svg += Text(kLeft - 6, frame.Y(tick) + 4, "end", FormatNumber(tick));
  }
  const double middle = frame.top + kDataHeight / 2;
  return svg + Text(16, middle, "middle", label, Upwards(16, middle).c_str());
}

// Under the title, in as many lines as it takes; series without data are left out, but keep their colour.
struct Legend {
  explicit Legend(const std::vector<Series>& series) {
    constexpr double kSquare = 15, kGap = 18, kLine = 18;
    double x = 8;
    for (size_t s = 0; s < series.size(); ++s) {
      if (series[s].y.empty()) continue;
      const double width = kSquare + kCharacter * static_cast<double>(series[s].name.size());
      if (height == 0 || x + width > kWidth - 8) {
        x = 8;
        height += kLine;
      }
      const double y = kTop - 4 + height - kLine;
      svg += "<rect class=\"fill " + Colour(s) + "\" x=\"" + Fixed(x) + "\" y=\"" + Fixed(y - 9) +
             "\" width=\"10\" height=\"10\"/>\n";
      svg += Text(x + kSquare, y, "start", series[s].name);
      x += width + kGap;
    }
  }
  std::string svg;
  double height = 0;
};

// Title, legend, vertical axis: what line plots and bar plots begin with.
std::string Begin(const Frame& frame, std::string_view title, const Legend& legend, const std::string& y_label) {
  return Open(kWidth, frame.bottom() + kBottom, title) + legend.svg + VerticalAxis(frame, y_label);
}

std::string Point(const Frame& frame, const Series& series, size_t i, const std::string& colour, double radius) {
  std::string label = Escape(series.name);
  label += ": " + FormatNumber(series.x[i]) + ", " + FormatNumber(series.y[i]);
  return "<circle class=\"fill " + colour + "\" cx=\"" + Fixed(frame.X(series.x[i])) + "\" cy=\"" +
         Fixed(frame.Y(series.y[i])) + "\" r=\"" + Fixed(radius) + "\"><title>" + label + "</title></circle>\n";
}

std::string DrawSeries(const Frame& frame, const Series& series, size_t number, bool points_only) {
  const std::string colour = Colour(number);
  std::string path, points;
  for (size_t i = 0; i < series.x.size(); ++i) {
    if (!std::isfinite(frame.X(series.x[i])) || !std::isfinite(frame.Y(series.y[i]))) continue;
    path += path.empty() ? "M" : "L";
    path += Fixed(frame.X(series.x[i]));
    path += ' ';
    path += Fixed(frame.Y(series.y[i]));
    points += Point(frame, series, i, colour, points_only ? 2.5 : 4);
  }
  if (points_only || path.empty()) return points;
  return "<path class=\"line " + colour + "\" d=\"" + path + "\"/>\n" + points;
}

// The names under the groups, in two lines each where one would be too wide.
std::string GroupNames(const Frame& frame, const std::vector<std::string>& groups) {
  const double width = (kWidth - kLeft - kRight) / static_cast<double>(std::max<size_t>(groups.size(), 1));
  const bool split = std::any_of(groups.begin(), groups.end(), [&](const std::string& name) {
    return kCharacter * static_cast<double>(name.size()) > width;
  });
  std::string svg;
  for (size_t g = 0; g < groups.size(); ++g) {
    const double x = kLeft + width * (static_cast<double>(g) + 0.5), y = frame.bottom() + 18;
    const size_t space = split ? groups[g].find(' ') : std::string::npos;
    svg += Text(x, y, "middle", groups[g].substr(0, space));
    if (space != std::string::npos) svg += Text(x, y + 15, "middle", groups[g].substr(space + 1));
  }
  return svg;
}

double Largest(const std::vector<double>& values, double start) {
  for (double value : values) {
    if (std::isfinite(value)) start = std::max(start, value);
  }
  return start;
}

// Right-aligned in the title's line: from pale to full colour, and what the ends stand for.
std::string Scale(const std::string& low, const std::string& high) {
  constexpr double kCell = 14, kTextWidth = 62;
  constexpr int kCells = 6;
  double x = kWidth - kRight - kTextWidth - kCell * kCells;
  std::string svg = Text(x - 5, 20, "end", low);
  for (int i = 0; i < kCells; ++i, x += kCell) {
    svg += "<rect class=\"scale\" fill-opacity=\"" + Fixed(i / (kCells - 1.0)) + "\" x=\"" + Fixed(x) +
           "\" y=\"10\" width=\"" + Fixed(kCell) + "\" height=\"12\"/>\n";
  }
  return svg + Text(x + 5, 20, "start", high);
}

// Bytes of the UTF-8 character at the start of `text`, 0 when it is not one (RFC 3629).
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  const size_t bytes = lead < 0x80                   ? 1
                       : lead >= 0xC2 && lead < 0xE0 ? 2
                       : (lead & 0xF0) == 0xE0       ? 3
                       : lead >= 0xF0 && lead < 0xF5 ? 4
                                                     : 0;
  if (bytes == 0 || bytes > text.size()) return 0;
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (bytes < 3) return bytes;
  const unsigned second = byte(1);
  const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool outside = (lead == 0xED && second > 0x9F) || (lead == 0xF4 && second > 0x8F);
  return overlong || outside ? 0 : bytes;
}

}  // namespace

std::string Escape(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    const char first = text[0];
    if (bytes == 0) {
      out += "\xEF\xBF\xBD";
    } else if (first == '&') {
      out += "&amp;";
    } else if (first == '<') {
      out += "&lt;";
    } else if (first == '>') {
      out += "&gt;";
    } else if (first == '"') {
      out += "&quot;";
    } else if (bytes > 1 || static_cast<unsigned char>(first) >= 0x20 || first == '\n' || first == '\t') {
      out += text.substr(0, bytes);
    }
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return out;
}

std::string LinePlot(const LinePlotOptions& options, const std::vector<Series>& series) {
  Range x, y;
  for (const Series& one : series) {
    x.Add(one.x);
    y.Add(one.y);
    if (!options.diagonal) continue;
    x.Add(one.y);
    y.Add(one.x);
  }
  const Legend legend(series);
  const auto axis = [&](const Range& range) {
    return options.logarithmic ? Axis::Logarithmic(range) : Axis::Linear(range.largest);
  };
  const Frame frame{axis(x), axis(y), kTop + legend.height};
  std::string svg = Begin(frame, options.title, legend, options.y_label);
  for (int i = 0; i <= frame.x.steps(); ++i) {
    const double tick = frame.x.Tick(i);
    svg += Line("axis", frame.X(tick), frame.bottom(), frame.X(tick), frame.bottom() + 4);
    svg += Text(frame.X(tick), frame.bottom() + 18, "middle", FormatNumber(tick));
  }
  svg += Text((kLeft + kWidth - kRight) / 2, frame.bottom() + kBottom - 10, "middle", options.x_label);
  if (options.diagonal) {
    const double low = frame.x.Tick(0), high = frame.x.top(), factor = options.guide_factor;
    svg += Line("axis", frame.X(low), frame.Y(low), frame.X(high), frame.Y(high));
    if (factor > 1) {
      svg += Line("guide", frame.X(low), frame.Y(low * factor), frame.X(high / factor), frame.Y(high));
      svg += Line("guide", frame.X(low * factor), frame.Y(low), frame.X(high), frame.Y(high / factor));
    }
  }
  for (size_t s = 0; s < series.size(); ++s) svg += DrawSeries(frame, series[s], s, options.points_only);
  return svg + "</svg>\n";
}

std::string BarPlot(const BarPlotOptions& options, const std::vector<std::string>& groups,
                    const std::vector<Series>& series) {
  const auto bar = [&](size_t s, size_t g) { return std::isfinite(series[s].y[g]) ? series[s].y[g] : 0; };
  double top = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    double sum = 0;
    for (size_t s = 0; s < series.size(); ++s) {
      sum = options.stacked ? sum + std::max(bar(s, g), 0.0) : bar(s, g);
      top = std::max(top, sum);
    }
  }
  const Legend legend(series);
  const Frame frame{Axis::Linear(1), Axis::Linear(top), kTop + legend.height};
  std::string svg = Begin(frame, options.title, legend, options.y_label) + GroupNames(frame, groups);
  const double group_width = (kWidth - kLeft - kRight) / static_cast<double>(std::max<size_t>(groups.size(), 1));
  const size_t columns = options.stacked ? 1 : std::max<size_t>(series.size(), 1);
  const double bar_width = group_width * 0.8 / static_cast<double>(columns);
  for (size_t g = 0; g < groups.size(); ++g) {
    const double left = kLeft + group_width * (static_cast<double>(g) + 0.1);
    double below = 0;
    for (size_t s = 0; s < series.size(); ++s) {
      if (!std::isfinite(series[s].y[g])) continue;
      const double value = std::max(bar(s, g), 0.0);
      const double x = options.stacked ? left : left + bar_width * static_cast<double>(s);
      svg += "<rect class=\"fill " + Colour(s) + "\" x=\"" + Fixed(x) + "\" y=\"" + Fixed(frame.Y(below + value)) +
             "\" width=\"" + Fixed(bar_width * 0.92) + "\" height=\"" + Fixed(frame.Y(below) - frame.Y(below + value)) +
             "\"><title>" + Escape(groups[g]) + ", " + Escape(series[s].name) + ": " + FormatNumber(series[s].y[g]) +
             "</title></rect>\n";
      if (options.stacked) below += value;
    }
  }
  return svg + "</svg>\n";
}

std::string RowPlot(const std::string& title, const std::vector<Row>& rows) {
  constexpr double kLine = 20, kNames = 300, kNumbers = 110;
  double largest = 0;
  for (const Row& row : rows) largest = Largest({row.value}, largest);
  std::string svg = Open(kWidth, kTop + kLine * static_cast<double>(rows.size()), title);
  for (size_t r = 0; r < rows.size(); ++r) {
    const double y = kTop + kLine * static_cast<double>(r);
    const double value = std::isfinite(rows[r].value) ? rows[r].value : 0;
    const double width = largest > 0 ? value / largest * (kWidth - kNames - kNumbers) : 0;
    svg += Text(kNames - 8, y + 11, "end", rows[r].name);
    svg += "<rect class=\"fill c0\" x=\"" + Fixed(kNames) + "\" y=\"" + Fixed(y) + "\" width=\"" + Fixed(width) +
           "\" height=\"14\"/>\n";
    svg += Text(kNames + width + 6, y + 11, "start", rows[r].label);
  }
  return svg + "</svg>\n";
}

std::string HeatMap(const HeatMapOptions& options, int64_t rows, int64_t columns, const std::vector<double>& values) {
  const double largest = options.full > 0 ? options.full : Largest(values, 0);
  const auto show = [&](double value) {
    return options.percent ? FormatNumber(value * 100) + " %" : FormatNumber(value);
  };
  const double cell =
      std::clamp((kWidth - kLeft - kRight) / static_cast<double>(std::max<int64_t>(columns, 1)), 4.0, 40.0);
  const double height = kTop + cell * static_cast<double>(rows) + kBottom;
  std::string svg = Open(kWidth, height, options.title);
  svg += Scale("0", show(largest));
  for (int64_t r = 0; r < rows; ++r) {
    const double y = kTop + cell * static_cast<double>(r);
    svg += Text(kLeft - 6, y + cell / 2 + 4, "end", std::to_string(r));
    for (int64_t c = 0; c < columns; ++c) {
      const double value = values[r * columns + c];
      const double x = kLeft + cell * static_cast<double>(c);
      char opacity[16];
      std::snprintf(opacity, sizeof(opacity), "%.3f", largest > 0 && std::isfinite(value) ? value / largest : 0);
      svg += "<rect class=\"heat\" fill-opacity=\"" + std::string(opacity) + "\" x=\"" + Fixed(x) + "\" y=\"" +
             Fixed(y) + "\" width=\"" + Fixed(cell - 1) + "\" height=\"" + Fixed(cell - 1) + "\"><title>" +
             Escape(options.column_name) + " " + std::to_string(c) + ", " + Escape(options.row_name) + " " +
             std::to_string(r) + ": " + show(value) + "</title></rect>\n";
    }
  }
  const int64_t every = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(24 / cell)));
  for (int64_t c = 0; c < columns; c += every) {
    svg += Text(kLeft + cell * (static_cast<double>(c) + 0.5), height - kBottom + 16, "middle", std::to_string(c));
  }
  const double middle = kTop + cell * static_cast<double>(rows) / 2;
  svg += Text(32, middle, "middle", options.row_name, Upwards(32, middle).c_str());
  svg += Text((kLeft + kWidth - kRight) / 2, height - 10, "middle", options.column_name);
  return svg + "</svg>\n";
}

}  // namespace swell::report
