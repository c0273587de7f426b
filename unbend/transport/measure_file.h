// Measures from the user's own files.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "unbend/transport/measure.h"

namespace unbend::transport {

enum class Masses {
  Unit,    ///< 1 per point
  Equal,   ///< 1 / points
  Column,  ///< the last column; in PLY files the property mass, weight or intensity
};

struct MeasureFile {
  Masses masses = Masses::Unit;
  bool images = false;  ///< .npy arrays are pictures [height, width] or [K, height, width], not points
  double above = 0;     ///< of pictures: pixels of at most this share of the brightest grey value become no points
};

struct NamedMeasure {
  std::string name;  ///< the file's, with [k] behind where it holds several
  Measure measure;
};

/// Points from .npy ([N, columns], [N], or [K, N, columns] for K measures), from .ply (x, y, z) and text files of
/// numbers (columns separated by commas, semicolons, tabs or spaces). Pictures (.png, .jpg) become points at pixels'
/// columns and rows counted upwards, their grey values in [0, 1] the masses. Input error that names file and line or
/// point for what cannot be read, numbers that are not finite and negative masses.
std::vector<NamedMeasure> read_measures(const std::filesystem::path& path, const MeasureFile& options = {});

/// `values` [rows, columns]: .npy, or CSV for other names, numbers as they are read back exactly.
void write_rows(const std::filesystem::path& path, std::int64_t rows, std::span<const double> values);

/// write_rows of points with their masses as the last column.
void write_measure(const std::filesystem::path& path, const Measure& measure);

}  // namespace unbend::transport
