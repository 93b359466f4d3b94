// Writing a result so that a full disk is an error and never half a file.
#ifndef SWELL_TOOLS_REPORT_FILE_H_
#define SWELL_TOOLS_REPORT_FILE_H_

#include <string>
#include <string_view>

#include "swell/status.h"

namespace swell::report {

// Fails early where WriteFile is certain to fail: the folder is missing, or may not be written, or `path` is a folder.
Status CheckWritable(const std::string& path);

// Writes a temporary file beside `path`, checks and syncs it, and renames it over `path`; what is not a regular file (a
// device, a pipe) is written in place. The message names the path and the system's reason; on failure the temporary
// file is removed and what stood at `path` is untouched. Not for concurrent use: a signal handler may call
// RemoveTemporary().
Status WriteFile(const std::string& path, std::string_view content);

// Removes the temporary file of a WriteFile that is under way. Async-signal-safe.
void RemoveTemporary();

// The whole file, at most `max_bytes` of it (kResourceExhausted above).
Result<std::string> ReadFile(const std::string& path, size_t max_bytes);

}  // namespace swell::report

#endif  // SWELL_TOOLS_REPORT_FILE_H_
