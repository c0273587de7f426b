// Labelled images: read from folders of pictures or from arrays, split, and given in batches.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "unbend/base/random.h"

namespace unbend {

struct ImageSet {
  at::Tensor images;  ///< [N, channels, h, w]; float32, or bytes, which stand for a 255th each
  at::Tensor labels;  ///< [N] int64
  int64_t size() const { return labels.size(0); }
};

struct NamedImages {
  ImageSet set;
  std::vector<std::string> classes;  ///< by label
};

/// What every image is brought to.
struct ImageShape {
  int64_t side;
  int64_t channels = 0;  ///< 1 or 3; 0: what the data have (pictures: 3 unless all are grey)
};

/// Reads one of
///   - a folder with a folder of PNG or JPEG pictures for each class, whose name it has;
///   - a folder with images.npy, [N, h, w] or [N, channels, h, w] (uint8, or floating numbers, taken as they are), and
///     labels.npy, [N] integers from 0 on, which are the classes' names.
/// Images of other sizes are squeezed to the shape (bilinearly, with antialiasing). With `classes` (those of a network)
/// labels follow their order. Input error that names the file for what cannot be read or is of no such class.
NamedImages read_images(const std::filesystem::path& folder, const ImageShape& shape,
                        const std::vector<std::string>& classes = {});

/// Images as a network takes them, float32.
at::Tensor pixels(const at::Tensor& images);

/// 0 .. count - 1 in random order.
at::Tensor permutation(int64_t count, Random& random);

ImageSet select(const ImageSet& set, const at::Tensor& indices);

/// `first` images drawn at random, and the others.
std::pair<ImageSet, ImageSet> split(const ImageSet& set, int64_t first, Random& random);

/// Gives the batch of a training step.
using ImageSource = std::function<ImageSet(int64_t step)>;

/// Batches of a set, shuffled anew in each epoch.
ImageSource shuffled(const ImageSet& set, int64_t batch, uint64_t seed);

/// The batches of `source`, each image moved by up to `most` pixels down or up and right or left, at random; what moves
/// in is 0 (black).
ImageSource shifted(ImageSource source, int64_t most, uint64_t seed);

}  // namespace unbend
