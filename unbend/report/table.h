// A table of results: as aligned text, as JSON, and (unbend/report/html.h) as HTML.
#pragma once

#include <string>
#include <vector>

#include "unbend/base/json.h"

namespace unbend {

/// Cells are text that is already formatted. A cell "pass" or "MISS" is shown as a verdict in HTML.
struct Table {
  std::string title;  ///< may be empty
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;  ///< each as long as `columns`
};

/// Title, header, rule and rows, for a terminal. Columns whose cells are all numbers (with units, spreads, "-") are
/// aligned to the right. Input error if a row has another length than the header.
std::string to_text(const Table& table);

/// {"title": ..., "rows": [{column: cell, ...}, ...]}; cells that are numbers and nothing else become JSON numbers.
Json to_json(const Table& table);

/// Whether column `index` is aligned to the right.
bool is_numeric_column(const Table& table, std::size_t index);

/// Throws an Input error unless every row is as long as the header.
void check_table(const Table& table);

}  // namespace unbend
