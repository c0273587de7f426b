// Tables of numbers in text files, and arrays in whichever file holds them.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>

namespace unbend {

/// Rows of numbers [rows, columns] float64, separated by commas, semicolons, tabs or spaces; empty lines and those
/// that start with # are passed over, and so is a first line that holds no number. Input error naming file and line for
/// anything that is not a number and for rows of different lengths.
at::Tensor load_csv(const std::filesystem::path& path);

/// load_npy for names that end in .npy, load_csv for all others.
at::Tensor load_array(const std::filesystem::path& path);

}  // namespace unbend
