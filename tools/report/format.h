// Numbers as text for a reader, the same in a terminal and on a page.
#ifndef SWELL_TOOLS_REPORT_FORMAT_H_
#define SWELL_TOOLS_REPORT_FORMAT_H_

#include <cstdint>
#include <string>

namespace swell::report {

// Three digits: "0.25", "1.2e-05"; whole with separators from 1,000: "16,384"; "-" when not finite.
std::string FormatNumber(double value);

std::string FormatCount(int64_t count);             // "16,384"
std::string FormatPercent(double share);            // 0.0213: "2.13 %"
std::string FormatBytes(double bytes);              // "12.3 MiB"
std::string FormatDuration(double seconds);         // "0:07", "12:34", "1:02:03"
std::string FormatFixed(double value, int digits);  // "-" when not finite

}  // namespace swell::report

#endif  // SWELL_TOOLS_REPORT_FORMAT_H_
