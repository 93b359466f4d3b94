// What the program shows while it works, and how it leaves the terminal when it is interrupted.
#ifndef SWELL_TOOLS_SWELL_TERMINAL_H_
#define SWELL_TOOLS_SWELL_TERMINAL_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace swell::cli {

// Exit codes of the program.
inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;        // something failed while running
inline constexpr int kExitUsage = 2;        // the command line is wrong
inline constexpr int kExitInterrupt = 130;  // Ctrl-C

// From now on Ctrl-C (SIGINT) and SIGTERM clear the progress line, show the cursor, remove a half-written report and
// leave at once with 128 + signal.
void InstallSignalHandlers();

// While one exists, Ctrl-C is noted instead of ending the program. One at a time.
class InterruptNote {
 public:
  InterruptNote();
  ~InterruptNote();
  InterruptNote(const InterruptNote&) = delete;
  InterruptNote& operator=(const InterruptNote&) = delete;
  bool seen() const;
};

// `text` with control characters, which could drive the terminal, as spaces; those in `kept` stay.
std::string Printable(std::string text, std::string_view kept = "");

struct ProgressPoint {
  double done = 0;
  double seconds = 0;
};

// Seconds left until `total`, from a fit of seconds = a done + b done^2 through the points (reading gets slower as the
// context grows); negative when nothing can be said yet. `points` in order of `done`.
double SecondsLeft(const std::vector<ProgressPoint>& points, double total);

// One line of at most `columns` characters: label, bar, percent, count, time left (unless negative).
std::string RenderProgress(const std::string& label, int64_t done, int64_t total, double seconds_left, int columns);

// A progress bar on stderr: redrawn in place on a terminal, a line every 10 % otherwise. One at a time, one thread.
class Progress {
 public:
  Progress(std::string label, int64_t total);
  ~Progress();  // clears the bar
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Update(int64_t done);

 private:
  const std::string label_;
  const int64_t total_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::vector<ProgressPoint> points_;
  double drawn_at_ = -1;  // seconds since start_
  int64_t tenths_ = -1;   // last line printed when this is no terminal
};

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_TERMINAL_H_
