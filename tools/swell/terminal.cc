#include "tools/swell/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include "tools/report/file.h"
#include "tools/report/format.h"

namespace swell::cli {
namespace {

constexpr char kHideCursor[] = "\x1b[?25l";
constexpr char kRestore[] = "\r\x1b[K\x1b[?25h";  // clears the line, shows the cursor
constexpr double kRedrawSeconds = 0.1;

volatile std::sig_atomic_t bar_is_drawn = 0;
volatile std::sig_atomic_t interrupts_are_noted = 0;
volatile std::sig_atomic_t interrupt_seen = 0;

void WriteError(const char* text) {
  const ssize_t ignored = write(STDERR_FILENO, text, std::strlen(text));
  static_cast<void>(ignored);
}

void OnSignal(int signal) {
  if (signal == SIGINT && interrupts_are_noted != 0) {
    interrupt_seen = 1;
    return;
  }
  if (bar_is_drawn != 0) WriteError(kRestore);
  report::RemoveTemporary();
  _exit(128 + signal);
}

int TerminalColumns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

void InstallSignalHandlers() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe becomes a write error, with a message
}

InterruptNote::InterruptNote() {
  interrupt_seen = 0;
  interrupts_are_noted = 1;
}

InterruptNote::~InterruptNote() { interrupts_are_noted = 0; }

bool InterruptNote::seen() const { return interrupt_seen != 0; }

std::string Printable(std::string text, std::string_view kept) {
  for (char& byte : text) {
    const auto code = static_cast<unsigned char>(byte);
    if ((code < 0x20 || code == 0x7F) && kept.find(byte) == std::string_view::npos) byte = ' ';
  }
  return text;
}

double SecondsLeft(const std::vector<ProgressPoint>& points, double total) {
  if (points.empty() || points.back().done <= 0) return -1;
  const ProgressPoint& last = points.back();
  double linear = last.seconds / last.done, square = 0;
  const auto middle = std::find_if(points.begin(), points.end(),
                                   [&](const ProgressPoint& point) { return point.done >= last.done / 2; });
  if (middle->done > 0 && middle->done < last.done) {
    const double slope = (linear - middle->seconds / middle->done) / (last.done - middle->done);
    square = std::max(slope, 0.0);
    linear -= square * last.done;
  }
  return std::max(0.0, (total - last.done) * (linear + square * (total + last.done)));
}

std::string RenderProgress(const std::string& label, int64_t done, int64_t total, double seconds_left, int columns) {
  total = std::max<int64_t>(total, 1);
  done = std::clamp<int64_t>(done, 0, total);
  std::string tail = " ";
  tail += std::to_string(done * 100 / total) + " %  " + report::FormatCount(done) + " / " + report::FormatCount(total);
  if (seconds_left >= 0) tail += "  " + report::FormatDuration(seconds_left) + " left";
  const int64_t cells = std::min<int64_t>(30, columns - 4 - static_cast<int64_t>(label.size() + tail.size()));
  std::string line = label;
  if (cells >= 5) {
    const int64_t filled = cells * done / total;
    line += " [" + std::string(filled, '#') + std::string(cells - filled, '.') + "]";
  }
  return (line + tail).substr(0, static_cast<size_t>(std::max(columns - 1, 1)));
}

Progress::Progress(std::string label, int64_t total)
    : label_(std::move(label)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()) {
  if (terminal_) {
    bar_is_drawn = 1;
    WriteError(kHideCursor);
  }
  Update(0);
}

Progress::~Progress() {
  if (!terminal_) return;
  WriteError(kRestore);
  bar_is_drawn = 0;
}

void Progress::Update(int64_t done) {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  points_.push_back({static_cast<double>(done), seconds});
  const double left = seconds > 1 ? SecondsLeft(points_, static_cast<double>(total_)) : -1;
  if (terminal_) {
    if (drawn_at_ >= 0 && seconds - drawn_at_ < kRedrawSeconds && done < total_) return;
    drawn_at_ = seconds;
    WriteError(("\r\x1b[K" + RenderProgress(label_, done, total_, left, TerminalColumns())).c_str());
  } else if (const int64_t tenths = done * 10 / std::max<int64_t>(total_, 1); tenths > tenths_) {
    tenths_ = tenths;
    WriteError((RenderProgress(label_, done, total_, left, 0x1000) + "\n").c_str());
  }
}

}  // namespace swell::cli
