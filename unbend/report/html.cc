#include "unbend/report/html.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/report/assets.h"
#include "unbend/report/svg.h"

namespace unbend {
namespace {

/// Enough digits for a reader of plots: "0.01234", "1234.5".
std::string short_number(double value) { return std::isfinite(value) ? fmt::format("{:.5g}", value) : "-"; }

const char* scale_name(Scale scale) {
  switch (scale) {
    case Scale::Linear: return "linear";
    case Scale::Log2: return "log2";
    case Scale::Log10: return "log10";
  }
  return "linear";
}

Json axis_json(const Axis& axis) {
  Json json{{"label", axis.label}, {"scale", scale_name(axis.scale)}};
  json["min"] = axis.min ? Json(*axis.min) : Json(nullptr);
  json["max"] = axis.max ? Json(*axis.max) : Json(nullptr);
  return json;
}

void check_series(const LinePlot& plot, const Series& series) {
  const auto where = [&] { return fmt::format("plot \"{}\", series \"{}\"", plot.title, series.name); };
  require(series.x.size() == series.y.size(), "{}: {} x values, but {} y values", where(), series.x.size(),
          series.y.size());
  require(series.low.size() == series.high.size(), "{}: {} low values, but {} high values", where(), series.low.size(),
          series.high.size());
  require(series.low.empty() || series.low.size() == series.y.size(), "{}: {} y values, but {} low values", where(),
          series.y.size(), series.low.size());
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    require(std::isfinite(series.x[i]), "{}: x[{}] is {}", where(), i, series.x[i]);
    require(i == 0 || series.x[i] > series.x[i - 1], "{}: x[{}] = {} does not increase", where(), i, series.x[i]);
    require(plot.x.scale == Scale::Linear || series.x[i] > 0, "{}: x[{}] = {} on a logarithmic axis", where(), i,
            series.x[i]);
    require(plot.y.scale == Scale::Linear || !(series.y[i] <= 0), "{}: y[{}] = {} on a logarithmic axis", where(), i,
            series.y[i]);
  }
}

/// The numbers behind a plot, for readers who copy them and for browsers without scripts.
Table data_table(const LinePlot& plot) {
  Table table{"", {"series", plot.x.label, plot.y.label}, {}};
  const bool spread =
      std::any_of(plot.series.begin(), plot.series.end(), [](const Series& s) { return !s.low.empty(); });
  if (spread) table.columns.insert(table.columns.end(), {"low", "high"});
  for (const Series& series : plot.series) {
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      std::vector<std::string> row{series.name, short_number(series.x[i]), short_number(series.y[i])};
      if (spread) {
        row.push_back(series.low.empty() ? "-" : short_number(series.low[i]));
        row.push_back(series.high.empty() ? "-" : short_number(series.high[i]));
      }
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

std::string table_html(const Table& table) {
  check_table(table);
  std::string html = "<div class=\"scroll\"><table>\n";
  if (!table.title.empty()) html += fmt::format("<caption>{}</caption>\n", escape_html(table.title));
  std::vector<const char*> kinds;
  for (std::size_t i = 0; i < table.columns.size(); ++i) {
    kinds.push_back(is_numeric_column(table, i) ? " class=\"n\"" : "");
  }
  html += "<thead><tr>";
  for (std::size_t i = 0; i < table.columns.size(); ++i) {
    html += fmt::format("<th scope=\"col\"{}>{}</th>", kinds[i], escape_html(table.columns[i]));
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) {
      const char* kind = row[i] == "pass"      ? " class=\"pass\""
                         : row[i] == "MISS"    ? " class=\"miss\""
                         : *kinds[i] != '\0'   ? kinds[i]
                         : row[i].size() <= 24 ? " class=\"s\""
                                               : "";
      html += fmt::format("<td{}>{}</td>", kind, escape_html(row[i]));
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string caption_html(const std::string& title, const std::string& caption) {
  std::string html = "<figcaption>";
  if (!title.empty()) html += fmt::format("<strong>{}</strong>", escape_html(title));
  if (!caption.empty()) html += fmt::format(" {}", escape_html(caption));
  return html + "</figcaption>\n";
}

/// Where the bars of a plot begin and end, with zero and the error bars inside.
std::pair<double, double> bar_range(const BarPlot& plot) {
  double low = 0, high = 0;
  for (const Bars& bars : plot.series) {
    for (std::size_t i = 0; i < bars.values.size(); ++i) {
      const double error = bars.errors.empty() || !std::isfinite(bars.errors[i]) ? 0 : bars.errors[i];
      if (!std::isfinite(bars.values[i])) continue;
      low = std::min(low, bars.values[i] - error);
      high = std::max(high, bars.values[i] + error);
    }
  }
  if (low == high) high = 1;
  return {low, high};
}

std::string bar_label(double value, double error) {
  return short_number(value) + (error > 0 && std::isfinite(value) ? fmt::format(" \u00b1 {:.2g}", error) : "");
}

/// One bar with its error bar; `label_width` in characters is the same for all bars of a plot, so that they line up.
std::string bar_html(double value, double error, const std::pair<double, double>& range, std::size_t color,
                     std::size_t label_width) {
  const auto percent = [&](double at) { return 100 * (at - range.first) / (range.second - range.first); };
  const auto span = [&](double from, double to) {
    return fmt::format("left:{:.3f}%;width:{:.3f}%", percent(from), percent(to) - percent(from));
  };
  std::string html = "<div class=\"bar\"><div class=\"track\">";
  if (std::isfinite(value)) {
    html +=
        fmt::format("<i class=\"c{}\" style=\"{}\"></i>", color % 8, span(std::min(value, 0.0), std::max(value, 0.0)));
    if (error > 0) html += fmt::format("<b style=\"{}\"></b>", span(value - error, value + error));
  }
  return html + fmt::format("</div><span style=\"width:{}ch\">{}</span></div>\n", label_width, bar_label(value, error));
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      case '\0': result += "\xef\xbf\xbd"; break;
      default: result += c;
    }
  }
  return result;
}

std::string script_json(const Json& json) {
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string result;
  for (const char c : text) {  // outside strings JSON has no '<': the escape is always inside one
    if (c == '<') {
      result += "\\u003c";
    } else {
      result += c;
    }
  }
  return result;
}

HtmlReport::HtmlReport(std::string title, std::string subtitle)
    : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

/// Plots that follow each other share a grid, so that a wide page shows them side by side.
void HtmlReport::open_figures(bool open) {
  if (open == in_figures_) return;
  body_ += open ? "<div class=\"figures\">\n" : "</div>\n";
  in_figures_ = open;
}

HtmlReport& HtmlReport::heading(std::string_view text) {
  open_figures(false);
  ++headings_;
  body_ += fmt::format("<h2 id=\"s{}\">{}</h2>\n", headings_, escape_html(text));
  contents_ += fmt::format("<a href=\"#s{}\">{}</a>\n", headings_, escape_html(text));
  return *this;
}

HtmlReport& HtmlReport::paragraph(std::string_view text) {
  open_figures(false);
  body_ += fmt::format("<p>{}</p>\n", escape_html(text));
  return *this;
}

HtmlReport& HtmlReport::list(const std::vector<std::string>& items) {
  open_figures(false);
  body_ += "<ul>\n";
  for (const std::string& item : items) body_ += fmt::format("<li>{}</li>\n", escape_html(item));
  body_ += "</ul>\n";
  return *this;
}

HtmlReport& HtmlReport::key_figures(const std::vector<KeyFigure>& figures) {
  open_figures(false);
  body_ += "<div class=\"keys\">\n";
  for (const KeyFigure& figure : figures) {
    body_ +=
        fmt::format("<div><strong>{}</strong><span>{}</span>", escape_html(figure.value), escape_html(figure.label));
    if (!figure.detail.empty()) body_ += fmt::format("<small>{}</small>", escape_html(figure.detail));
    body_ += "</div>\n";
  }
  body_ += "</div>\n";
  return *this;
}

HtmlReport& HtmlReport::table(const Table& table) {
  open_figures(false);
  body_ += table_html(table);
  return *this;
}

HtmlReport& HtmlReport::plot(const LinePlot& plot) {
  require(!plot.series.empty(), "plot \"{}\" has no series", plot.title);
  for (const Series& series : plot.series) check_series(plot, series);
  open_figures(true);
  Json json{{"x", axis_json(plot.x)},
            {"y", axis_json(plot.y)},
            {"band", plot.spread == Spread::Band},
            {"series", Json::array()}};
  for (const Series& s : plot.series) {
    json["series"].push_back({{"name", s.name},
                              {"x", s.x},
                              {"y", s.y},
                              {"low", s.low},
                              {"high", s.high},
                              {"dashed", s.dashed},
                              {"color", s.color >= 0 ? s.color : static_cast<int>(&s - plot.series.data())}});
  }
  body_ += fmt::format(
      "<figure>\n{}<div class=\"plot\" id=\"p{}\"></div>\n<details><summary>Data</summary>\n{}</details>\n</figure>\n",
      caption_html(plot.title, plot.caption), plots_.size(), table_html(data_table(plot)));
  plots_.push_back(std::move(json));
  return *this;
}

HtmlReport& HtmlReport::plot(const BarPlot& plot) {
  require(!plot.series.empty(), "plot \"{}\" has no series", plot.title);
  for (const Bars& bars : plot.series) {
    require(bars.values.size() == plot.categories.size(), "plot \"{}\", series \"{}\": {} values for {} categories",
            plot.title, bars.name, bars.values.size(), plot.categories.size());
    require(bars.errors.empty() || bars.errors.size() == bars.values.size(),
            "plot \"{}\", series \"{}\": {} errors for {} values", plot.title, bars.name, bars.errors.size(),
            bars.values.size());
  }
  open_figures(true);
  const auto range = bar_range(plot);
  std::size_t label_width = 0;
  for (const Bars& bars : plot.series) {
    for (std::size_t i = 0; i < bars.values.size(); ++i) {
      label_width = std::max(label_width, bar_label(bars.values[i], bars.errors.empty() ? 0 : bars.errors[i]).size());
    }
  }
  body_ += "<figure>\n" + caption_html(plot.title, plot.caption);
  if (!plot.value_label.empty()) body_ += fmt::format("<p class=\"axis\">{}</p>\n", escape_html(plot.value_label));
  if (plot.series.size() > 1) {
    std::vector<std::string> names;
    for (const Bars& bars : plot.series) names.push_back(bars.name);
    body_ += legend_html(names);
  }
  body_ += "<div class=\"bars\">\n";
  for (std::size_t i = 0; i < plot.categories.size(); ++i) {
    body_ += fmt::format("<div class=\"name\">{}</div>\n<div>\n", escape_html(plot.categories[i]));
    for (std::size_t s = 0; s < plot.series.size(); ++s) {
      const Bars& bars = plot.series[s];
      body_ += bar_html(bars.values[i], bars.errors.empty() ? 0 : bars.errors[i], range, s, label_width);
    }
    body_ += "</div>\n";
  }
  body_ += "</div>\n</figure>\n";
  return *this;
}

HtmlReport& HtmlReport::text_block(std::string_view title, std::string_view text) {
  open_figures(false);
  if (!title.empty()) body_ += fmt::format("<h3>{}</h3>\n", escape_html(title));
  body_ += fmt::format("<pre>{}</pre>\n", escape_html(text));
  return *this;
}

HtmlReport& HtmlReport::plot(const CellPlot& plot) {
  const std::string svg = cell_svg(plot);
  open_figures(true);
  body_ += "<figure>\n" + caption_html(plot.title, plot.caption) + legend_html(plot.classes) + svg + "</figure>\n";
  return *this;
}

HtmlReport& HtmlReport::plot(const PathPlot& plot) {
  const std::string svg = path_svg(plot);
  open_figures(true);
  std::vector<std::string> names = path_names(plot);
  body_ += "<figure>\n" + caption_html(plot.title, plot.caption) + legend_html(names) + svg + "</figure>\n";
  return *this;
}

std::string HtmlReport::html() const {
  std::string page = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  page += "<meta name=\"color-scheme\" content=\"light dark\">\n";
  page += fmt::format("<title>{}</title>\n", escape_html(title_));
  if (!plots_.empty())
    page += fmt::format("<!-- Plots: uPlot.\n{}-->\n<style>{}</style>\n", assets::kUplotLicense, assets::kUplotCss);
  page += fmt::format("<style>\n{}</style>\n</head>\n<body>\n<header>\n<h1>{}</h1>\n", assets::kReportCss,
                      escape_html(title_));
  if (!subtitle_.empty()) page += fmt::format("<p>{}</p>\n", escape_html(subtitle_));
  if (headings_ > 2) page += fmt::format("<nav>\n{}</nav>\n", contents_);
  page += fmt::format("</header>\n<main>\n{}{}</main>\n<footer>Made by Unbend</footer>\n", body_,
                      in_figures_ ? "</div>\n" : "");
  if (!plots_.empty()) {
    page += "<noscript>The plots need JavaScript; their numbers are under \"Data\".</noscript>\n";
    page += fmt::format(
        "<script>{}</script>\n<script type=\"application/json\" id=\"plots\">{}</script>\n<script>\n{}</script>\n",
        assets::kUplotJs, script_json(plots_), assets::kReportJs);
  }
  return page + "</body>\n</html>\n";
}

void HtmlReport::write(const std::filesystem::path& path) const { write_file(path, html()); }

}  // namespace unbend
