#include "unbend/report/table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <string_view>

#include "unbend/base/error.h"

namespace unbend {
namespace {

/// Characters, not bytes: UTF-8 continuation bytes take no room.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

bool starts_like_a_number(std::string_view cell) {
  for (const std::string_view sign : {"-", "+", "\u2212", "\u00b1", "< ", "> "}) {
    if (cell.starts_with(sign)) {
      cell.remove_prefix(sign.size());
      break;
    }
  }
  if (cell.starts_with('.')) cell.remove_prefix(1);
  return !cell.empty() && cell[0] >= '0' && cell[0] <= '9';
}

bool is_absent(std::string_view cell) { return cell.empty() || cell == "-" || cell == "n/a" || cell == "nan"; }

std::string trimmed_right(std::string text) {
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

Json cell_json(const std::string& cell) {
  double value = 0;
  const char* end = cell.data() + cell.size();
  const auto [stop, error] = std::from_chars(cell.data(), end, value);
  if (cell.empty() || error != std::errc() || stop != end || !std::isfinite(value)) return cell;
  std::int64_t whole = 0;
  const auto [whole_stop, whole_error] = std::from_chars(cell.data(), end, whole);
  return whole_error == std::errc() && whole_stop == end ? Json(whole) : Json(value);
}

}  // namespace

void check_table(const Table& table) {
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    require(table.rows[i].size() == table.columns.size(), "table \"{}\": row {} has {} cells, but there are {} columns",
            table.title, i, table.rows[i].size(), table.columns.size());
  }
}

bool is_numeric_column(const Table& table, std::size_t index) {
  bool any = false;
  for (const auto& row : table.rows) {
    if (is_absent(row[index])) continue;
    if (!starts_like_a_number(row[index])) return false;
    any = true;
  }
  return any;
}

std::string to_text(const Table& table) {
  check_table(table);
  const std::size_t count = table.columns.size();
  std::vector<std::size_t> widths(count);
  std::vector<bool> right(count);
  for (std::size_t i = 0; i < count; ++i) {
    widths[i] = width(table.columns[i]);
    for (const auto& row : table.rows) widths[i] = std::max(widths[i], width(row[i]));
    right[i] = is_numeric_column(table, i);
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
      const std::string padding(widths[i] - width(cells[i]), ' ');
      text += (i > 0 ? "  " : "") + (right[i] ? padding + cells[i] : cells[i] + padding);
    }
    return trimmed_right(text) + "\n";
  };
  std::vector<std::string> rule;
  for (const std::size_t w : widths) rule.emplace_back(w, '-');

  std::string text = table.title.empty() ? "" : table.title + "\n";
  text += line(table.columns) + line(rule);
  for (const auto& row : table.rows) text += line(row);
  return text;
}

Json to_json(const Table& table) {
  check_table(table);
  Json rows = Json::array();
  for (const auto& row : table.rows) {
    Json object = Json::object();
    for (std::size_t i = 0; i < row.size(); ++i) object[table.columns[i]] = cell_json(row[i]);
    rows.push_back(std::move(object));
  }
  return {{"title", table.title}, {"rows", std::move(rows)}};
}

}  // namespace unbend
