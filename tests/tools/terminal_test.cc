#include "tools/swell/terminal.h"

#include <gtest/gtest.h>

#include <csignal>
#include <string>
#include <vector>

namespace swell::cli {
namespace {

TEST(RenderProgressTest, ShowsBarPercentCountAndTimeLeft) {
  EXPECT_EQ(RenderProgress("reading", 8192, 16384, 75, 80),
            "reading [###############...............] 50 %  8,192 / 16,384  1:15 left");
  EXPECT_EQ(RenderProgress("reading", 0, 100, -1, 80), "reading [..............................] 0 %  0 / 100");
}

TEST(RenderProgressTest, KeepsToTheWidthAndToItsRange) {
  for (int columns = 1; columns < 120; ++columns) {
    const std::string line = RenderProgress("reading", 5000, 131072, 3700, columns);
    EXPECT_LE(static_cast<int>(line.size()), std::max(columns - 1, 1)) << columns;
  }
  EXPECT_NE(RenderProgress("x", 300, 200, 0, 80).find(" 100 %"), std::string::npos);
  EXPECT_NE(RenderProgress("x", -3, 0, 0, 80).find(" 0 %"), std::string::npos);
}

TEST(PrintableTest, LeavesNothingThatDrivesTheTerminal) {
  EXPECT_EQ(Printable("a\x1b[2J\tb\n\x7f\xc3\xa9"), "a [2J b  \xc3\xa9");
  EXPECT_EQ(Printable("a\tb\r\n", "\n\t"), "a\tb \n");
}

TEST(InterruptNoteTest, NotesAnInterruptAndForgetsItsPredecessors) {
  InstallSignalHandlers();
  {
    const InterruptNote note;
    EXPECT_FALSE(note.seen());
    std::raise(SIGINT);
    EXPECT_TRUE(note.seen());
  }
  EXPECT_FALSE(InterruptNote().seen());
  EXPECT_EXIT(std::raise(SIGINT), testing::ExitedWithCode(kExitInterrupt), "");
}

TEST(SecondsLeftTest, KnowsThatReadingGetsSlower) {
  std::vector<ProgressPoint> points;  // seconds = 2 n + n^2
  for (double n = 1; n <= 8; ++n) points.push_back({n, 2 * n + n * n});
  EXPECT_NEAR(SecondsLeft(points, 16), (2 * 16 + 16 * 16) - (2 * 8 + 8 * 8), 1e-9);
  EXPECT_NEAR(SecondsLeft(points, 8), 0, 1e-9);
}

TEST(SecondsLeftTest, IsLinearWithoutACurveAndSilentWithoutData) {
  EXPECT_NEAR(SecondsLeft({{1, 3}, {2, 6}, {4, 12}}, 8), 12, 1e-9);
  EXPECT_NEAR(SecondsLeft({{4, 12}}, 8), 12, 1e-9);
  EXPECT_NEAR(SecondsLeft({{1, 10}, {2, 12}}, 4), 12, 1e-9);  // it got faster: never below the plain mean
  EXPECT_LT(SecondsLeft({}, 8), 0);
  EXPECT_LT(SecondsLeft({{0, 1}}, 8), 0);
}

}  // namespace
}  // namespace swell::cli
