// A table for the terminal.
#ifndef SWELL_TOOLS_SWELL_TABLE_H_
#define SWELL_TOOLS_SWELL_TABLE_H_

#include <ostream>
#include <string>
#include <vector>

namespace swell::cli {

// Columns are as wide as their widest cell (in characters, text being UTF-8), two spaces apart.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }  // as many cells as the header
  // Control characters, which could drive the terminal, are printed as spaces.
  void Print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_TABLE_H_
