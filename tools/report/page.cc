#include "tools/report/page.h"

#include "tools/report/plot.h"

namespace swell::report {
namespace {

constexpr char kStyle[] = R"(
:root { color-scheme: light dark; --back: #ffffff; --ink: #1c2128; --soft: #59636e; --rule: #d1d9e0; --heat: #0b5cad;
  --good: #1a7f37; --bad: #c0262d; --c0: #0b5cad; --c1: #c2570c; --c2: #1a7f37; --c3: #8250df; --c4: #59636e; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181d; --ink: #e6eaef; --soft: #9aa5b1; --rule: #323a43; --heat: #6cb6ff; --good: #56d364;
    --bad: #ff7b72; --c0: #6cb6ff; --c1: #f0883e; --c2: #56d364; --c3: #bc8cff; --c4: #9aa5b1; } }
body { background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--rule); padding: 0.3rem 0.8rem 0.3rem 0; text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: 0.9rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg text.title { fill: var(--ink); font-weight: 600; font-size: 14px; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); } .line { fill: none; stroke-width: 2; }
.guide { stroke: var(--soft); stroke-dasharray: 4 4; }
.scale { fill: var(--heat); stroke: var(--rule); stroke-width: 0.5; }
.heat { fill: var(--heat); stroke: var(--rule); stroke-width: 0.5; }
.fill.c0 { fill: var(--c0); } .fill.c1 { fill: var(--c1); } .fill.c2 { fill: var(--c2); } .fill.c3 { fill: var(--c3); }
.fill.c4 { fill: var(--c4); }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .line.c4 { stroke: var(--c4); }
)";

std::string Tag(const char* name, std::string_view text) {
  return std::string("<") + name + ">" + Escape(text) + "</" + name + ">";
}

std::string DataCell(const Cell& cell) {
  switch (cell.mark) {
    case Cell::Mark::kGood:
      return "<td class=\"good\">&#x2713; " + Escape(cell.text) + "</td>";
    case Cell::Mark::kBad:
      return "<td class=\"bad\">&#x2717; " + Escape(cell.text) + "</td>";
    case Cell::Mark::kNone:
      break;
  }
  return Tag("td", cell.text);
}

}  // namespace

Page::Page(std::string_view title) : title_(title) {}

void Page::Heading(std::string_view text) { body_ += Tag("h2", text) + "\n"; }

void Page::Paragraph(std::string_view text) { body_ += Tag("p", text) + "\n"; }

void Page::Table(const std::vector<std::string>& header, const std::vector<std::vector<Cell>>& rows) {
  body_ += "<div class=\"scroll\"><table>\n<thead><tr>";
  for (const std::string& name : header) body_ += Tag("th", name);
  body_ += "</tr></thead>\n<tbody>\n";
  for (const std::vector<Cell>& row : rows) {
    body_ += "<tr>";
    for (const Cell& cell : row) body_ += DataCell(cell);
    body_ += "</tr>\n";
  }
  body_ += "</tbody></table></div>\n";
}

void Page::Figure(std::string_view svg, std::string_view caption) {
  body_ += "<figure>\n" + std::string(svg) + Tag("figcaption", caption) + "\n</figure>\n";
}

std::string Page::Html() const {
  return "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta "
         "charset=\"utf-8\"/>\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n" +
         Tag("title", title_) + "\n<style>" + kStyle + "</style>\n</head>\n<body>\n" + Tag("h1", title_) + "\n" +
         body_ + "</body>\n</html>\n";
}

}  // namespace swell::report
