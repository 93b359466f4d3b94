#include "tools/swell/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

namespace swell::cli {
namespace {

constexpr int kCannotStart = 127;

// In the new process: never returns.
[[noreturn]] void Become(const std::string& path, const std::vector<std::string>& arguments, int output) {
  std::vector<char*> words = {const_cast<char*>(path.c_str())};
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  std::signal(SIGPIPE, SIG_DFL);
  if (dup2(output, STDOUT_FILENO) >= 0) execv(path.c_str(), words.data());
  _exit(kCannotStart);
}

Status Ended(const std::string& path, int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return OkStatus();
  if (WIFEXITED(status) && WEXITSTATUS(status) == kCannotStart) {
    return Status(StatusCode::kNotFound, "cannot start '" + path + "'");
  }
  return Status(StatusCode::kUnavailable,
                "'" + path + "' ended " +
                    (WIFEXITED(status) ? "with code " + std::to_string(WEXITSTATUS(status))
                                       : "by the signal " + std::string(strsignal(WTERMSIG(status)))));
}

}  // namespace

Result<std::string> RunProgram(const std::string& path, const std::vector<std::string>& arguments, size_t max_bytes,
                               const std::function<void(std::string_view)>& watch) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return Status(StatusCode::kUnavailable, std::string("no pipe: ") + std::strerror(errno));
  }
  const pid_t child = fork();
  if (child == 0) Become(path, arguments, ends[1]);
  close(ends[1]);
  std::string output;
  char buffer[16384];
  while (child > 0 && output.size() <= max_bytes) {
    const ssize_t got = read(ends[0], buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    output.append(buffer, static_cast<size_t>(got));
    if (watch) watch(output);
  }
  close(ends[0]);  // a program that goes on printing ends here, by SIGPIPE
  if (child < 0) return Status(StatusCode::kUnavailable, "cannot start '" + path + "': no process");
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (output.size() > max_bytes) {
    return Status(StatusCode::kResourceExhausted,
                  "'" + path + "' prints more than " + std::to_string(max_bytes >> 20) + " MiB");
  }
  SWELL_RETURN_IF_ERROR(Ended(path, status));
  return output;
}

}  // namespace swell::cli
