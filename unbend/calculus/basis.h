// A growing orthonormal basis of flat vectors, for the Krylov spectra.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "unbend/base/random.h"
#include "unbend/calculus/krylov.h"

namespace unbend::krylov {

/// Rows of a matrix, the first `count` of which are orthonormal.
class Basis {
 public:
  Basis(int64_t capacity, int64_t n, const at::TensorOptions& options) : rows_(at::zeros({capacity, n}, options)) {}
  int64_t count() const { return count_; }
  int64_t dim() const { return rows_.size(1); }
  at::Tensor row(int64_t i) const { return rows_.select(0, i); }
  at::Tensor used() const { return rows_.narrow(0, 0, count_); }
  /// The row after the used ones: write a vector there, orthogonalise it, then extend().
  at::Tensor next() const { return rows_.select(0, count_); }
  bool full() const { return count_ == rows_.size(0); }
  void extend() { ++count_; }

  /// Makes next() orthogonal to the used rows, twice; gives the coefficients that were taken out, float64 [count].
  at::Tensor orthogonalise() const {
    at::Tensor w = next();
    if (count_ == 0) return at::zeros({0}, at::kDouble);
    const auto first = at::mv(used(), w);
    w.addmv_(used().t(), first, 1, -1);
    const auto second = at::mv(used(), w);
    w.addmv_(used().t(), second, 1, -1);
    return (first + second).to(at::kCPU, at::kDouble);
  }

  /// Normalises next() and counts it in; a random direction takes its place if its norm is at most `floor`. Gives the
  /// norm, 0 for a random one. false in `extended` if the whole space is used up.
  double extend_normalised(double floor, Random& random, bool& extended) {
    at::Tensor w = next();
    const double size = flat_norm(w);
    extended = true;
    if (size > floor) {
      w.mul_(1 / size);
      extend();
      return size;
    }
    extended = count_ < dim();
    if (!extended) return 0;
    Space flat;
    flat.leaves.push_back({.shape = {dim()}});
    w.copy_(random_normals(flat, random)[0]);
    orthogonalise();
    w.mul_(1 / flat_norm(w));
    orthogonalise();
    w.mul_(1 / flat_norm(w));
    extend();
    return 0;
  }

  /// Replaces the used rows by C^T times them, C [count, kept] (float64); then row(kept) by `last`, not counted in.
  void rotate(const at::Tensor& c, const at::Tensor& last) {
    const auto rotated = at::mm(c.t().to(rows_.options()), used());
    const auto copy = last.clone();
    count_ = rotated.size(0);
    rows_.narrow(0, 0, count_).copy_(rotated);
    if (!full()) next().copy_(copy);
  }

 private:
  at::Tensor rows_;
  int64_t count_ = 0;
};

}  // namespace unbend::krylov
