#include "unbend/tensor/csv.h"

#include "unbend/base/csv.h"
#include "unbend/tensor/npy.h"

namespace unbend {

at::Tensor load_csv(const std::filesystem::path& path) {
  const auto table = read_csv(path);
  return at::tensor(table.values, at::kDouble).view({table.rows, table.columns});
}

at::Tensor load_array(const std::filesystem::path& path) {
  return path.extension() == ".npy" ? load_npy(path) : load_csv(path);
}

}  // namespace unbend
