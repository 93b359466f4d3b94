#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>

#include "tools/report/file.h"
#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/plot.h"

namespace swell::report {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

int64_t Count(const std::string& text, const std::string& part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/swell_report_XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  int64_t Files() const {
    return std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator());
  }

 private:
  std::string path_;
};

TEST(FormatTest, Numbers) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(-1234567), "-1,234,567");
  EXPECT_EQ(FormatNumber(0.25), "0.25");
  EXPECT_EQ(FormatNumber(16384), "16,384");
  EXPECT_EQ(FormatNumber(kNan), "-");
  EXPECT_EQ(FormatPercent(0.02134), "2.13 %");
  EXPECT_EQ(FormatFixed(0.0586, 3), "0.059");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(3.0 * 1024 * 1024 * 1024), "3.0 GiB");
  EXPECT_EQ(FormatDuration(7.4), "0:07");
  EXPECT_EQ(FormatDuration(754), "12:34");
  EXPECT_EQ(FormatDuration(3723), "1:02:03");
}

TEST(EscapeTest, MarkupControlCharactersAndBrokenUtf8) {
  EXPECT_EQ(Escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
  EXPECT_EQ(Escape(std::string("x\0\x1by\n", 5)), "xy\n");
  EXPECT_EQ(Escape("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82"), "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82");
  EXPECT_EQ(Escape("\xC3"), "\xEF\xBF\xBD");
  EXPECT_EQ(Escape("\xFFz"), "\xEF\xBF\xBDz");
  EXPECT_EQ(Escape("\xC0\xAF"), "\xEF\xBF\xBD\xEF\xBF\xBD");                  // overlong
  EXPECT_EQ(Escape("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // surrogate
}

TEST(PlotTest, LinesHaveAPathAndPointsPerSeries) {
  const std::string svg =
      LinePlot({"time <ms>", "tokens", "ms"}, {{"exact", {1, 2, 3}, {1, 2, 4}}, {"wave", {1, kNan}, {1, 1}}});
  EXPECT_EQ(Count(svg, "<path"), 2);
  EXPECT_EQ(Count(svg, "<circle"), 4);
  EXPECT_NE(svg.find("time &lt;ms&gt;"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(PlotTest, EmptyAndZeroDataStayFinite) {
  for (const std::string& svg : {LinePlot({"t", "x", "y"}, {}), LinePlot({"t", "x", "y"}, {{"s", {0}, {0}}}),
                                 BarPlot({"t", "y"}, {"a"}, {{"s", {}, {0}}}), HeatMap({"t", "r", "c"}, 1, 2, {0, 0}),
                                 LinePlot({"t", "x", "y"}, {{"s", {1e-9}, {1e12}}})}) {
    EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
  }
}

TEST(PlotTest, LogarithmicAxesHaveDecadesAndLeaveOutZero) {
  LinePlotOptions options{"errors", "actual", "predicted"};
  options.points_only = options.diagonal = options.logarithmic = true;
  options.guide_factor = 3;
  const std::string svg = LinePlot(options, {{"s", {0.002, 0.05, 0}, {0.5, 0.02, 0.1}}});
  EXPECT_EQ(Count(svg, "<circle"), 2);
  EXPECT_EQ(Count(svg, "class=\"guide\""), 2);
  for (const char* tick : {">0.001<", ">0.01<", ">0.1<", ">1<"}) EXPECT_EQ(Count(svg, tick), 2) << tick;
  EXPECT_EQ(Count(svg, ">10<"), 0);
  const std::string empty = LinePlot(options, {{"s", {0, -1}, {0, 2}}});
  EXPECT_EQ(Count(empty, "<circle"), 0);
  for (const char* word : {"nan", "inf"}) EXPECT_EQ(Count(svg + empty, word), 0);
}

TEST(PlotTest, StackedBarsStandOnEachOther) {
  const std::string svg = BarPlot({"t", "ms", true}, {"a"}, {{"one", {}, {6}}, {"two", {}, {4}}});
  // The axis ends at 10, so that the sum fills the 232 units of the plot.
  EXPECT_EQ(Count(svg, "height=\"139.2\""), 1);
  EXPECT_EQ(Count(svg, "height=\"92.8\""), 1);
  EXPECT_EQ(Count(svg, "y=\"58.0\" width"), 1);  // the upper one's top is the plot's
}

TEST(PlotTest, RowsHaveBarsInProportion) {
  const std::string svg = RowPlot("time", {{"a <b>", 2, "2 ms"}, {"c", 1, "1 ms"}, {"d", kNan, "-"}});
  EXPECT_EQ(Count(svg, "<rect"), 3);
  EXPECT_EQ(Count(svg, "width=\"230.0\""), 1);
  EXPECT_EQ(Count(svg, "width=\"115.0\""), 1);
  EXPECT_EQ(Count(svg, "width=\"0.0\""), 1);
  EXPECT_NE(svg.find("a &lt;b&gt;"), std::string::npos);
}

TEST(PlotTest, ALongLegendTakesMoreLines) {
  const auto height = [](const std::string& svg) {
    double found = 0;
    EXPECT_EQ(std::sscanf(svg.substr(svg.find("viewBox")).c_str(), "viewBox=\"0 0 640.0 %lf", &found), 1);
    return found;
  };
  std::vector<Series> series = {{"exact attention", {1}, {1}}};
  const double one = height(LinePlot({"t", "x", "y"}, series));
  for (int i = 0; i < 5; ++i) series.push_back({"a configuration with a long name", {1}, {1}});
  EXPECT_GT(height(LinePlot({"t", "x", "y"}, series)), one);
  EXPECT_GT(one, height(LinePlot({"t", "x", "y"}, {})));
}

TEST(PlotTest, HeatMapScalesToItsLargestValue) {
  const std::string svg = HeatMap({"error", "KV head", "layer", true}, 2, 2, {0, 0.05, 0.1, kNan});
  EXPECT_EQ(Count(svg, "<rect class=\"heat\""), 4);
  EXPECT_EQ(Count(svg, "fill-opacity=\"1.000\""), 1);
  EXPECT_EQ(Count(svg, "fill-opacity=\"0.500\""), 1);
  EXPECT_EQ(Count(svg, "fill-opacity=\"0.000\""), 2);
  EXPECT_NE(svg.find("layer 0, KV head 1: 10 %"), std::string::npos);
  const std::string half = HeatMap({"error", "KV head", "layer", true, 0.2}, 1, 1, {0.1});
  EXPECT_EQ(Count(half, "class=\"heat\" fill-opacity=\"0.500\""), 1);
  EXPECT_NE(half.find(">20 %<"), std::string::npos);
}

TEST(PageTest, EscapesTextAndMarksCells) {
  Page page("A & B");
  page.Heading("<h>");
  page.Table({"n"}, {{Cell("1<2", Cell::Mark::kGood)}, {Cell("x", Cell::Mark::kBad)}});
  const std::string html = page.Html();
  EXPECT_NE(html.find("<title>A &amp; B</title>"), std::string::npos);
  EXPECT_NE(html.find("<h2>&lt;h&gt;</h2>"), std::string::npos);
  EXPECT_NE(html.find("class=\"good\">&#x2713; 1&lt;2"), std::string::npos);
  EXPECT_EQ(Count(html, "class=\"bad\""), 1);
  EXPECT_NE(html.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_EQ(Count(html, "src="), 0);
  EXPECT_EQ(Count(html, "@import"), 0);
  EXPECT_EQ(Count(html, "url("), 0);
}

TEST(FileTest, WritesWholeFilesAndLeavesNothingElse) {
  const Folder folder;
  const std::string path = folder.File("report.html");
  ASSERT_TRUE(WriteFile(path, "first").ok());
  ASSERT_TRUE(WriteFile(path, std::string(200000, 'x')).ok());
  EXPECT_EQ(ReadFile(path, 1 << 20).value(), std::string(200000, 'x'));
  EXPECT_EQ(folder.Files(), 1);
  EXPECT_EQ(ReadFile(path, 100).status().code(), StatusCode::kResourceExhausted);
}

TEST(FileTest, WritesWhereALinkLeads) {
  const Folder folder;
  const std::string path = folder.File("report.html"), link = folder.File("link.html");
  ASSERT_TRUE(WriteFile(path, "old").ok());
  ASSERT_EQ(symlink(path.c_str(), link.c_str()), 0);
  ASSERT_TRUE(WriteFile(link, "new").ok());
  EXPECT_EQ(ReadFile(path, 100).value(), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(link));
}

TEST(FileTest, WithoutACommitNothingIsLeft) {
  const Folder folder;
  {
    Result<FileWriter> writer = FileWriter::Open(folder.File("trace.bin"));
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    EXPECT_TRUE(writer.value().Append("half").ok());
    EXPECT_EQ(folder.Files(), 1);
  }
  EXPECT_EQ(folder.Files(), 0);
  Result<FileWriter> writer = FileWriter::Open(folder.File("trace.bin"));
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  for (const char* part : {"one, ", "two"}) EXPECT_TRUE(writer.value().Append(part).ok());
  EXPECT_TRUE(writer.value().Commit().ok());
  EXPECT_EQ(ReadFile(folder.File("trace.bin"), 100).value(), "one, two");
}

TEST(FileTest, FullDiskIsAnError) {
  const Status status = WriteFile("/dev/full", "report");
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "cannot write '/dev/full': No space left on device");
}

TEST(FileTest, AFailureLeavesTheOldFile) {
  const Folder folder;
  const std::string path = folder.File("report.html");
  ASSERT_TRUE(WriteFile(path, "old").ok());
  ASSERT_EQ(mkdir((path + ".tmp-" + std::to_string(getpid())).c_str(), 0755), 0);  // in the temporary file's place
  EXPECT_FALSE(WriteFile(path, "new").ok());
  EXPECT_EQ(ReadFile(path, 100).value(), "old");
}

TEST(FileTest, NamesWhatIsMissing) {
  const Folder folder;
  EXPECT_EQ(WriteFile(folder.File("no/report.html"), "x").code(), StatusCode::kNotFound);
  EXPECT_EQ(CheckWritable(folder.File("no/report.html")).code(), StatusCode::kNotFound);
  EXPECT_FALSE(CheckWritable(folder.File("")).ok());  // a folder
  EXPECT_TRUE(CheckWritable(folder.File("report.html")).ok());
  EXPECT_TRUE(CheckWritable("/dev/full").ok());  // only writing tells
  EXPECT_TRUE(CheckWritable("report.html").ok());
  EXPECT_EQ(ReadFile(folder.File("none.txt"), 100).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace swell::report
