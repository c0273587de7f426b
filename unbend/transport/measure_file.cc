#include "unbend/transport/measure_file.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "unbend/base/csv.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/npy.h"
#include "unbend/base/picture.h"
#include "unbend/base/ply.h"

namespace unbend::transport {
namespace {

namespace fs = std::filesystem;

/// Rows of numbers, the mass being in column `mass` if there is one; `where(i)` names row i.
Measure from_rows(std::span<const double> values, std::int64_t rows, std::int64_t columns,
                  std::optional<std::int64_t> mass, Masses masses,
                  const std::function<std::string(std::int64_t)>& where) {
  Measure m{columns - (mass ? 1 : 0), {}, {}};
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto row = values.subspan(static_cast<std::size_t>(i * columns), static_cast<std::size_t>(columns));
    double weight = masses == Masses::Equal ? 1 / static_cast<double>(rows) : 1;
    for (std::int64_t k = 0; k < columns; ++k) {
      const double x = row[static_cast<std::size_t>(k)];
      require(std::isfinite(x), "{}: number {} is {}, expected a finite one", where(i), k + 1, x);
      if (mass == k) {
        require(x >= 0, "{}: the mass is {}, expected a number from 0 on", where(i), x);
        weight = x;
      } else {
        m.points.push_back(x);
      }
    }
    m.masses.push_back(weight);
  }
  return m;
}

/// Pixels [height, width] of grey values in [0, 1].
Measure from_picture(std::span<const double> grey, std::int64_t height, std::int64_t width, const MeasureFile& options,
                     const std::string& name) {
  double brightest = 0;
  for (const double g : grey) {
    require(std::isfinite(g) && g >= 0, "{}: a pixel is {}, expected a finite number from 0 on", name, g);
    brightest = std::max(brightest, g);
  }
  Measure m{2, {}, {}};
  for (std::int64_t r = 0; r < height; ++r) {
    for (std::int64_t c = 0; c < width; ++c) {
      const double g = grey[static_cast<std::size_t>(r * width + c)];
      if (g <= options.above * brightest) continue;
      m.add(std::vector<double>{static_cast<double>(c), static_cast<double>(height - 1 - r)},
            options.masses == Masses::Unit ? g : 1.0);
    }
  }
  if (options.masses == Masses::Equal)
    for (double& mass : m.masses) mass = 1 / static_cast<double>(m.masses.size());
  return m;
}

Measure read_picture_measure(const fs::path& path, const MeasureFile& options) {
  const Picture picture = read_picture(path);
  std::vector<double> grey(static_cast<std::size_t>(picture.height * picture.width), 0.0);
  for (std::size_t i = 0; i < picture.pixels.size(); ++i)
    grey[i / static_cast<std::size_t>(picture.channels)] +=
        picture.pixels[i] / (255.0 * static_cast<double>(picture.channels));
  return from_picture(grey, picture.height, picture.width, options, path.string());
}

Measure read_ply_measure(const fs::path& path, const MeasureFile& options) {
  const PlyVertices cloud = read_ply(path);
  std::vector<std::size_t> columns;
  const auto find = [&](std::string_view name) {
    return std::ranges::find(cloud.properties, name) - cloud.properties.begin();
  };
  const auto width = static_cast<std::ptrdiff_t>(cloud.properties.size());
  for (const char* axis : {"x", "y", "z"})
    if (const auto k = find(axis); k < width) columns.push_back(static_cast<std::size_t>(k));
  require(!columns.empty(), "{}: its vertices have no property x, y or z", path.string());
  std::optional<std::int64_t> mass;
  if (options.masses == Masses::Column) {
    for (const char* name : {"mass", "weight", "intensity"}) {
      if (mass || find(name) == width) continue;
      mass = static_cast<std::int64_t>(columns.size());
      columns.push_back(static_cast<std::size_t>(find(name)));
    }
    require(mass.has_value(), "{}: its vertices have no property mass, weight or intensity", path.string());
  }
  std::vector<double> values;
  for (std::int64_t i = 0; i < cloud.count; ++i)
    for (const std::size_t k : columns) values.push_back(cloud.values[static_cast<std::size_t>(i * width) + k]);
  return from_rows(values, cloud.count, static_cast<std::int64_t>(columns.size()), mass, options.masses,
                   [&](std::int64_t i) { return fmt::format("{}, vertex {}", path.string(), i); });
}

std::optional<std::int64_t> mass_column(const MeasureFile& options, std::int64_t columns, const std::string& name) {
  if (options.masses != Masses::Column) return {};
  require(columns >= 2, "{}: one column, where coordinates and a mass are expected", name);
  return columns - 1;
}

std::vector<NamedMeasure> read_npy_measures(const fs::path& path, const MeasureFile& options) {
  const NpyArray array = read_npy(path);
  const std::vector<double> values = to_doubles(array);
  auto shape = array.shape;
  const std::size_t one = 2;  // dimensions of one measure
  if (shape.size() == 1) shape.push_back(1);
  if (options.images && shape.size() == 4 && shape[1] == 1) shape.erase(shape.begin() + 1);
  require(shape.size() == one || shape.size() == one + 1, "{}: an array of {} dimensions, expected 1, 2 or 3",
          path.string(), array.shape.size());
  const bool several = shape.size() > one;
  const std::int64_t count = several ? shape[0] : 1, rows = shape[shape.size() - 2], columns = shape.back();
  const double most = options.images && !values.empty() ? std::ranges::max(values) : 1;
  std::vector<NamedMeasure> found;
  for (std::int64_t k = 0; k < count; ++k) {
    const auto name = several ? fmt::format("{}[{}]", path.string(), k) : path.string();
    const auto part = std::span(values).subspan(static_cast<std::size_t>(k * rows * columns),
                                                static_cast<std::size_t>(rows * columns));
    if (options.images) {
      std::vector<double> grey(part.begin(), part.end());
      for (double& g : grey) g /= most > 1 ? 255 : 1;
      found.push_back({name, from_picture(grey, rows, columns, options, name)});
    } else {
      found.push_back({name, from_rows(part, rows, columns, mass_column(options, columns, name), options.masses,
                                       [&](std::int64_t i) { return fmt::format("{}, row {}", name, i); })});
    }
  }
  return found;
}

}  // namespace

std::vector<NamedMeasure> read_measures(const fs::path& path, const MeasureFile& options) {
  require(options.above >= 0 && options.above < 1, "pixels above {} of the brightest: expected 0 to 1", options.above);
  auto extension = path.extension().string();
  std::ranges::transform(extension, extension.begin(), [](unsigned char c) { return std::tolower(c); });
  if (extension == ".npy") return read_npy_measures(path, options);
  if (extension == ".ply") return {{path.string(), read_ply_measure(path, options)}};
  if (is_picture_name(path)) return {{path.string(), read_picture_measure(path, options)}};
  const NumberTable table = read_csv(path);
  return {{path.string(),
           from_rows(table.values, table.rows, table.columns, mass_column(options, table.columns, path.string()),
                     options.masses, [&](std::int64_t i) {
                       return fmt::format("{}, line {}", path.string(), table.lines[static_cast<std::size_t>(i)]);
                     })}};
}

void write_rows(const fs::path& path, std::int64_t rows, std::span<const double> values) {
  const auto columns = rows > 0 ? static_cast<std::int64_t>(values.size()) / rows : 0;
  if (path.extension() == ".npy") return write_npy(path, {rows, columns}, values);
  std::string text;
  for (std::size_t i = 0; i < values.size(); ++i)
    text += fmt::format("{}{}", values[i], static_cast<std::int64_t>(i + 1) % columns ? "," : "\n");
  write_file(path, text);
}

void write_measure(const fs::path& path, const Measure& m) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < m.size(); ++i) {
    const auto x = m.point(i);
    values.insert(values.end(), x.begin(), x.end());
    values.push_back(m.masses[static_cast<std::size_t>(i)]);
  }
  write_rows(path, m.size(), values);
}

}  // namespace unbend::transport
