#include "tools/report/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace swell::report {
namespace {

// Path of the temporary file that exists right now. The array is written before the flag is raised, so that a signal
// handler sees a whole path or none.
char temporary_path[4096];
std::atomic<bool> temporary_exists{false};

Status SystemError(const std::string& what, const std::string& path, int error) {
  const StatusCode code = error == ENOSPC   ? StatusCode::kResourceExhausted
                          : error == ENOENT ? StatusCode::kNotFound
                          : error == EACCES ? StatusCode::kPermissionDenied
                                            : StatusCode::kUnavailable;
  return Status(code, "cannot " + what + " '" + path + "': " + std::strerror(error));
}

// Returns 0 or the errno of what failed.
int WriteAll(int file, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = write(file, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    content.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

// Where the links of `path` lead; `path` itself where nothing is there yet.
std::string Resolve(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> resolved(realpath(path.c_str(), nullptr), &std::free);
  return resolved == nullptr ? path : resolved.get();
}

bool IsSpecial(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode);
}

}  // namespace

Status CheckWritable(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) return SystemError("write", path, EISDIR);
    if (!S_ISREG(info.st_mode)) return access(path.c_str(), W_OK) == 0 ? OkStatus() : SystemError("write", path, errno);
  }
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  if (stat(folder.c_str(), &info) != 0) return SystemError("write", path, errno);
  if (!S_ISDIR(info.st_mode)) return SystemError("write", path, ENOTDIR);
  return access(folder.c_str(), W_OK) == 0 ? OkStatus() : SystemError("write", path, errno);
}

Result<FileWriter> FileWriter::Open(const std::string& path) {
  if (IsSpecial(path)) {
    const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (file < 0) return SystemError("write", path, errno);
    return FileWriter(path, file, true);
  }
  const std::string target = Resolve(path);
  const std::string temporary = target + ".tmp-" + std::to_string(getpid());
  if (temporary.size() >= sizeof(temporary_path)) return SystemError("write", path, ENAMETOOLONG);
  std::memcpy(temporary_path, temporary.c_str(), temporary.size() + 1);
  const int file = open(temporary_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return SystemError("write", path, errno);
  temporary_exists = true;
  return FileWriter(target, file, false);
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)), in_place_(other.in_place_) {}

FileWriter::~FileWriter() {
  if (file_ < 0) return;
  close(file_);
  if (in_place_) return;
  unlink(temporary_path);
  temporary_exists = false;
}

Status FileWriter::Append(std::string_view content) {
  const int error = WriteAll(file_, content);
  return error == 0 ? OkStatus() : SystemError("write", path_, error);
}

// Only a regular file is synced: a device or a pipe has nothing to sync.
Status FileWriter::Commit() {
  int error = in_place_ || fsync(file_) == 0 ? 0 : errno;
  if (close(std::exchange(file_, -1)) != 0 && error == 0) error = errno;
  if (!in_place_) {
    if (error == 0 && rename(temporary_path, path_.c_str()) != 0) error = errno;
    if (error != 0) unlink(temporary_path);
    temporary_exists = false;
  }
  return error == 0 ? OkStatus() : SystemError("write", path_, error);
}

Status WriteFile(const std::string& path, std::string_view content) {
  Result<FileWriter> writer = FileWriter::Open(path);
  if (!writer.ok()) return writer.status();
  SWELL_RETURN_IF_ERROR(writer.value().Append(content));
  return writer.value().Commit();
}

void RemoveTemporary() {
  if (temporary_exists) unlink(temporary_path);
}

Result<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return SystemError("read", path, errno);
  std::string content;
  char buffer[65536];
  int error = 0;
  while (error == 0 && content.size() <= max_bytes) {
    const ssize_t got = read(file, buffer, sizeof(buffer));
    if (got == 0) break;
    if (got > 0) {
      content.append(buffer, static_cast<size_t>(got));
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  close(file);
  if (error != 0) return SystemError("read", path, error);
  if (content.size() > max_bytes) {
    return Status(StatusCode::kResourceExhausted,
                  "'" + path + "' is larger than " + std::to_string(max_bytes >> 20) + " MiB");
  }
  return content;
}

}  // namespace swell::report
