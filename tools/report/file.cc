#include "tools/report/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

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

// Returns 0 or the errno of what failed. Syncs regular files only: a device or a pipe has nothing to sync.
int WriteAll(int file, std::string_view content, bool sync) {
  while (!content.empty()) {
    const ssize_t written = write(file, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    content.remove_prefix(static_cast<size_t>(written));
  }
  return sync && fsync(file) != 0 ? errno : 0;
}

int WriteAndClose(int file, std::string_view content, bool sync) {
  const int error = WriteAll(file, content, sync);
  const int closed = close(file) == 0 ? 0 : errno;
  return error != 0 ? error : closed;
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

Status WriteFile(const std::string& path, std::string_view content) {
  if (IsSpecial(path)) {
    const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (file < 0) return SystemError("write", path, errno);
    const int error = WriteAndClose(file, content, false);
    return error == 0 ? OkStatus() : SystemError("write", path, error);
  }
  const std::string temporary = path + ".tmp-" + std::to_string(getpid());
  if (temporary.size() >= sizeof(temporary_path)) return SystemError("write", path, ENAMETOOLONG);
  std::memcpy(temporary_path, temporary.c_str(), temporary.size() + 1);
  const int file = open(temporary_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return SystemError("write", path, errno);
  temporary_exists = true;
  int error = WriteAndClose(file, content, true);
  if (error == 0 && rename(temporary_path, path.c_str()) != 0) error = errno;
  if (error != 0) unlink(temporary_path);
  temporary_exists = false;
  return error == 0 ? OkStatus() : SystemError("write", path, error);
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
