// Tables of numbers in text files. unbend/tensor/csv.h makes tensors of them; unbend/series/csv.h reads tables that
// have names and times too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
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

/// A table with a column of classes.
struct ClassTable {
  NumberTable numbers;               ///< where the classes are words, their places in `classes` stand in that column
  std::vector<std::string> classes;  ///< sorted; empty where the whole column holds numbers
};
/// As parse_csv, but `column` (from the end if negative) may hold words. A table of words alone starts with a name if
/// its first word does not come again. Input error for a table without that column and for empty fields in it.
ClassTable parse_class_csv(std::string_view text, std::string_view where, std::int64_t column);

/// What the readers of such files share. Lines with something in them that do not start with #, with their numbers from
/// 1; a byte order mark and carriage returns are left out.
void for_each_line(std::string_view text, const std::function<void(std::int64_t number, std::string_view line)>& take);
std::string_view trimmed(std::string_view field);         ///< without spaces and tabs around it
std::optional<double> number_in(std::string_view field);  ///< if the whole field is one; may be infinite or NaN

}  // namespace unbend
