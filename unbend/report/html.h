// A report as one HTML file that needs nothing else: styles, plotting library (uPlot) and data are inside it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/base/drawing.h"
#include "unbend/base/json.h"
#include "unbend/report/table.h"

namespace unbend {

enum class Scale { Linear, Log2, Log10 };

struct Axis {
  std::string label;  ///< with its unit: "context (tokens)"
  Scale scale = Scale::Linear;
  std::optional<double> min = {}, max = {};  ///< otherwise chosen from the data
};

/// One curve. `x` increases strictly; NaN in `y` interrupts the line. `low` and `high`, when given, are as long as `y`.
struct Series {
  std::string name;
  std::vector<double> x, y;
  std::vector<double> low = {}, high = {};
  bool dashed = false;
  int color = -1;  ///< 0 to 7, so that one thing keeps its colour over several plots; -1: by order
};

/// How `low` and `high` are drawn.
enum class Spread { Bars, Band };

struct LinePlot {
  std::string title;
  Axis x, y;
  std::vector<Series> series;
  std::string caption = {};
  Spread spread = Spread::Bars;
};

/// Bars of one series: a value per category, and optionally the half-width of its error bar.
struct Bars {
  std::string name;
  std::vector<double> values;
  std::vector<double> errors = {};
};

struct BarPlot {
  std::string title, value_label;
  std::vector<std::string> categories;
  std::vector<Bars> series;
  std::string caption = {};
};

/// A map of classes over a grid: phase diagrams.
struct CellPlot {
  std::string title;
  Axis x, y;                          ///< labels and scales
  std::vector<double> columns, rows;  ///< centres, increasing and evenly spaced on their scale
  std::vector<std::string> classes;
  std::vector<int> cells;         ///< [rows, columns], the class of each; -1: none
  std::vector<bool> marked = {};  ///< likewise: cells with a frame
  std::string caption = {};
};

/// Paths in the plane from their starts to their ends, and points that stay: trajectories.
struct PathPlot {
  struct Path {
    std::string name;  ///< paths of the same name share a colour
    std::vector<double> x, y;
  };
  std::string title;
  Axis x, y;  ///< labels; both axes have the same unit length
  std::vector<Path> paths;
  Path points = {};
  std::string caption = {};
};

/// A number that a reader should not miss, shown large: "1.8x", "decode speed at 32K", "control: 1.2x".
struct KeyFigure {
  std::string value, label, detail = {};
};

/// Builds the page from top to bottom. All text is plain text: it is escaped. Plots and tables are checked when added:
/// Input errors name the plot and the series.
class HtmlReport {
 public:
  explicit HtmlReport(std::string title, std::string subtitle = {});

  HtmlReport& heading(std::string_view text);
  HtmlReport& paragraph(std::string_view text);
  HtmlReport& list(const std::vector<std::string>& items);
  HtmlReport& key_figures(const std::vector<KeyFigure>& figures);
  HtmlReport& table(const Table& table);
  HtmlReport& plot(const LinePlot& plot);
  HtmlReport& plot(const BarPlot& plot);
  HtmlReport& drawing(const Drawing& drawing);
  HtmlReport& plot(const CellPlot& plot);
  HtmlReport& plot(const PathPlot& plot);
  HtmlReport& text_block(std::string_view title, std::string_view text);  ///< preformatted; `title` may be empty

  std::string html() const;
  void write(const std::filesystem::path& path) const;  ///< atomic

 private:
  void open_figures(bool open);
  std::string title_, subtitle_, body_, contents_;
  Json plots_ = Json::array();
  int headings_ = 0;
  bool in_figures_ = false;
};

/// `text` with the five characters that mean something in HTML replaced.
std::string escape_html(std::string_view text);

/// `json` as text that can stand inside a <script> element; NaN and infinities become null.
std::string script_json(const Json& json);

}  // namespace unbend
