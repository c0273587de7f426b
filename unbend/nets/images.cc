#include "unbend/nets/images.h"

#include <torch/types.h>

#include <algorithm>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/base/picture.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

namespace fs = std::filesystem;

/// [N, C, h, w] at another size, of the same type.
at::Tensor resized(const at::Tensor& images, int64_t side) {
  if (images.size(2) == side && images.size(3) == side) return images;
  std::vector<at::Tensor> parts;
  for (const auto& part : images.split(256)) {
    const auto fitted = at::_upsample_bilinear2d_aa(part.to(at::kFloat), {side, side}, false);
    parts.push_back(images.scalar_type() == at::kByte ? fitted.round().clamp(0, 255).to(at::kByte) : fitted);
  }
  return at::cat(parts);
}

/// Grey and colour turned into each other: [.., C, h, w].
at::Tensor with_channels(const at::Tensor& images, int64_t channels) {
  const int64_t axis = images.dim() - 3, had = images.size(axis);
  if (had == channels) return images;
  if (had == 1) return at::cat({images, images, images}, axis);
  const auto weights = at::tensor({.299F, .587F, .114F}).view({3, 1, 1});  // luma (ITU-R BT.601)
  const auto grey = (images.to(at::kFloat) * weights).sum(axis, true);
  return images.scalar_type() == at::kByte ? grey.round().to(at::kByte) : grey;
}

std::vector<fs::path> sorted(const fs::path& folder, bool folders) {
  std::vector<fs::path> all;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with(".")) continue;
    if (folders ? entry.is_directory() : entry.is_regular_file() && is_picture_name(entry.path()))
      all.push_back(entry.path());
  }
  std::ranges::sort(all);
  return all;
}

NamedImages from_pictures(const fs::path& folder, const ImageShape& shape, std::vector<std::string> classes) {
  const auto folders = sorted(folder, true);
  require(!folders.empty(), "{}: neither images.npy and labels.npy nor a folder of pictures for each class",
          folder.string());
  const bool named = !classes.empty();
  std::vector<at::Tensor> images;
  std::vector<int64_t> labels;
  for (const auto& of_class : folders) {
    const auto name = of_class.filename().string();
    if (!named) classes.push_back(name);
    const auto found = std::ranges::find(classes, name);
    require(found != classes.end(), "{}: the network knows no class '{}', only {}", of_class.string(), name,
            fmt::join(classes, ", "));
    const auto files = sorted(of_class, false);
    require(!files.empty(), "{}: no PNG or JPEG pictures", of_class.string());
    for (const auto& file : files) {
      auto picture = read_picture(file);
      const auto whole = at::from_blob(picture.pixels.data(), {1, picture.height, picture.width, picture.channels},
                                       at::TensorOptions().dtype(at::kByte))
                             .permute({0, 3, 1, 2});
      images.push_back(resized(whole, shape.side).squeeze(0).clone());
      labels.push_back(found - classes.begin());
    }
  }
  const bool grey = std::ranges::all_of(images, [](const at::Tensor& x) { return x.size(0) == 1; });
  const int64_t channels = shape.channels > 0 ? shape.channels : grey ? 1 : 3;
  for (auto& image : images) image = with_channels(image, channels);
  return {{at::stack(images), at::tensor(labels, at::kLong)}, classes};
}

NamedImages from_arrays(const fs::path& folder, const ImageShape& shape, std::vector<std::string> classes) {
  const auto image_file = folder / "images.npy", label_file = folder / "labels.npy";
  auto images = load_npy(image_file), labels = load_npy(label_file);
  require(images.dim() == 3 || images.dim() == 4, "{}: images are [N, h, w] or [N, channels, h, w], not {}",
          image_file.string(), shape_string(images.sizes()));
  if (images.dim() == 3) images = images.unsqueeze(1);
  require(images.numel() > 0 && (images.size(1) == 1 || images.size(1) == 3),
          "{}: images of {} have {} channels; 1 or 3 can be used (before height and width)", image_file.string(),
          shape_string(images.sizes()), images.size(1));
  require(images.scalar_type() == at::kByte || at::isFloatingType(images.scalar_type()),
          "{}: images are uint8 or floating numbers, not {}", image_file.string(), toString(images.scalar_type()));
  if (images.scalar_type() != at::kByte) {
    images = images.to(at::kFloat);
    check_finite(images, image_file.string());
  }
  check_shape(labels, {images.size(0)}, label_file.string());
  require(at::isIntegralType(labels.scalar_type(), false), "{}: labels are integers, not {}", label_file.string(),
          toString(labels.scalar_type()));
  labels = labels.to(at::kLong);
  const int64_t count = classes.empty() ? labels.max().item<int64_t>() + 1 : std::ssize(classes);
  require(count <= images.size(0) || !classes.empty(), "{}: label {} for {} images: labels count from 0 on",
          label_file.string(), count - 1, images.size(0));
  check_indices(labels, std::max<int64_t>(count, 1), label_file.string());
  for (int64_t label = std::ssize(classes); label < count; ++label) classes.push_back(std::to_string(label));
  images = with_channels(resized(images, shape.side), shape.channels > 0 ? shape.channels : images.size(1));
  return {{images, labels}, classes};
}

}  // namespace

NamedImages read_images(const fs::path& folder, const ImageShape& shape, const std::vector<std::string>& classes) {
  require(shape.side >= 1, "images: a side of {} pixels", shape.side);
  require(shape.channels == 0 || shape.channels == 1 || shape.channels == 3, "images: 1 or 3 channels, not {}",
          shape.channels);
  require(fs::is_directory(folder), "{}: not a folder", folder.string());
  return fs::exists(folder / "images.npy") ? from_arrays(folder, shape, classes)
                                           : from_pictures(folder, shape, classes);
}

at::Tensor pixels(const at::Tensor& images) {
  return images.scalar_type() == at::kByte ? images.to(at::kFloat) / 255 : images;
}

at::Tensor permutation(int64_t count, Random& random) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return at::tensor(order, at::kLong);
}

ImageSet select(const ImageSet& set, const at::Tensor& indices) {
  return {set.images.index_select(0, indices), set.labels.index_select(0, indices)};
}

std::pair<ImageSet, ImageSet> split(const ImageSet& set, int64_t first, Random& random) {
  require(first >= 0 && first <= set.size(), "images: {} of {} cannot be split off", first, set.size());
  const auto order = permutation(set.size(), random);
  return {select(set, order.narrow(0, 0, first)), select(set, order.slice(0, first))};
}

ImageSource shuffled(const ImageSet& set, int64_t batch, uint64_t seed) {
  const int64_t count = set.size(), steps = count / batch;
  require(steps >= 1, "a batch of {} does not fit into {} images", batch, count);
  return [=, random = Random(seed), order = at::Tensor()](int64_t step) mutable {
    if (step % steps == 0) order = permutation(count, random);
    return select(set, order.narrow(0, step % steps * batch, batch));
  };
}

ImageSource shifted(ImageSource source, int64_t most, uint64_t seed) {
  require(most >= 0, "images cannot be shifted by up to {} pixels", most);
  return [=, source = std::move(source), random = Random(seed)](int64_t step) mutable {
    auto batch = source(step);
    const auto start = [&] { return static_cast<int64_t>(random.below(2 * most + 1)); };
    const int64_t height = batch.images.size(2), width = batch.images.size(3);
    const auto padded = at::constant_pad_nd(batch.images, {most, most, most, most});
    std::vector<at::Tensor> moved;
    for (const auto& image : padded.unbind()) {
      const int64_t top = start(), left = start();
      moved.push_back(image.narrow(1, top, height).narrow(2, left, width));
    }
    batch.images = at::stack(moved);
    return batch;
  };
}

}  // namespace unbend
