// A self-contained HTML page: text, tables and plots, nothing loaded from elsewhere, light or dark as the reader's
// system asks. The page is well-formed XML, too.
#ifndef SWELL_TOOLS_REPORT_PAGE_H_
#define SWELL_TOOLS_REPORT_PAGE_H_

#include <string>
#include <string_view>
#include <vector>

namespace swell::report {

struct Cell {
  enum class Mark { kNone, kGood, kBad };

  Cell(std::string cell_text) : text(std::move(cell_text)) {}  // NOLINT(google-explicit-constructor)
  Cell(const char* cell_text) : text(cell_text) {}             // NOLINT(google-explicit-constructor)
  Cell(std::string cell_text, Mark cell_mark) : text(std::move(cell_text)), mark(cell_mark) {}

  std::string text;
  Mark mark = Mark::kNone;  // green or red, with a sign beside the colour
};

// All texts are escaped by the page; `svg` is taken as it is.
class Page {
 public:
  explicit Page(std::string_view title);

  void Heading(std::string_view text);
  void Paragraph(std::string_view text);
  void Table(const std::vector<std::string>& header, const std::vector<std::vector<Cell>>& rows);
  void Figure(std::string_view svg, std::string_view caption);
  std::string Html() const;

 private:
  std::string title_;
  std::string body_;
};

}  // namespace swell::report

#endif  // SWELL_TOOLS_REPORT_PAGE_H_
