// Tables of numbers in text files. unbend/tensor/csv.h makes tensors of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace unbend {

struct NumberTable {
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values;       ///< [rows, columns]
  std::vector<std::int64_t> lines;  ///< [rows], the line of the text that each row stood on, from 1
};

/// Rows of numbers, separated by commas, semicolons, tabs or spaces; empty lines and those that start with # are passed
/// over, and so is a first line that holds no number. Input error that starts with `where` and names the line for
/// anything that is not a number and for rows of different lengths.
NumberTable parse_csv(std::string_view text, std::string_view where);
NumberTable read_csv(const std::filesystem::path& path);

}  // namespace unbend
