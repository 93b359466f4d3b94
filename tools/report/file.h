// Writing a result so that a full disk is an error and never half a file.
#ifndef SWELL_TOOLS_REPORT_FILE_H_
#define SWELL_TOOLS_REPORT_FILE_H_

#include <string>
#include <string_view>
#include <utility>

#include "swell/status.h"

namespace swell::report {

// Fails early where WriteFile is certain to fail: the folder is missing, or may not be written, or `path` is a folder.
Status CheckWritable(const std::string& path);

// Writes a temporary file beside `path`, piece by piece; Commit checks and syncs it and renames it over `path`. What is
// not a regular file (a device, a pipe) is written in place; a symbolic link stays and its target is written. Messages
// name the path and the system's reason; without a Commit that succeeded the temporary file is removed and what stood
// at `path` is untouched. One at a time in a process: a signal handler may call RemoveTemporary().
class FileWriter {
 public:
  static Result<FileWriter> Open(const std::string& path);
  ~FileWriter();
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&&) = delete;

  Status Append(std::string_view content);
  Status Commit();  // once, at the end

 private:
  FileWriter(std::string path, int file, bool in_place) : path_(std::move(path)), file_(file), in_place_(in_place) {}

  std::string path_;
  int file_;  // -1: closed
  bool in_place_;
};

// The same in one piece.
Status WriteFile(const std::string& path, std::string_view content);

// Removes the temporary file of a FileWriter that is under way. Async-signal-safe.
void RemoveTemporary();

// The whole file, at most `max_bytes` of it (kResourceExhausted above).
Result<std::string> ReadFile(const std::string& path, size_t max_bytes);

}  // namespace swell::report

#endif  // SWELL_TOOLS_REPORT_FILE_H_
