// Eigenvalues, singular values and functions of matrix-free maps (methods/autofd.md, B5). Bases are orthogonalised
// fully and twice, so that memory is the number of basis vectors times the dimension, and no copies of values appear.
// Numerical causes are in the results' outcome; a caller's mistake throws Error (Input).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "unbend/calculus/estimates.h"
#include "unbend/calculus/linear_map.h"
#include "unbend/calculus/outcome.h"

namespace unbend {

struct SpectrumOptions {
  double tolerance = 0;    ///< errors at most this times the largest value found; 0: 1e-10 in float64, 1e-5 in float32
  int64_t basis = 0;       ///< vectors before a restart; 0: the larger of twice the wanted number plus 10 and 30
  int64_t restarts = 100;  ///< at most; 0: one basis and no more
  uint64_t seed = 1;       ///< of the start vector
  std::optional<Tensors> start = {};  ///< instead of a random one
};

enum class Which { Largest, Smallest, LargestMagnitude };

struct Eigenpairs {
  at::Tensor values = {};  ///< [k] float64, in the order asked for
  Tensors vectors = {};    ///< [k, *leaf] for each leaf of A's domain, orthonormal
  at::Tensor errors = {};  ///< [k] float64: |A v - value v|, which bounds the distance to an eigenvalue
  Outcome outcome;         ///< Converged if all errors are within the tolerance
  int64_t products;        ///< pushes used
  std::string message = {};
};

/// k eigenpairs of a symmetric map by thick-restart Lanczos (Wu and Simon 2000). Copies of a multiple eigenvalue beyond
/// the first are found through rounding or an invariant space only: with few of many copies asked for, some may be
/// missed.
Eigenpairs lanczos(const LinearMap& a, int64_t k, Which which = Which::LargestMagnitude,
                   const SpectrumOptions& options = {});

struct SingularTriplets {
  at::Tensor values = {};  ///< [k] float64, descending
  Tensors left = {};       ///< [k, *leaf] in A's codomain, orthonormal where the value is not 0
  Tensors right = {};      ///< [k, *leaf] in A's domain, orthonormal
  at::Tensor errors = {};  ///< [k] float64: |A^T u - value v|, with A v = value u
  Outcome outcome;
  int64_t products;  ///< pushes and pulls used
  std::string message = {};
};

/// The k largest singular values with their vectors by thick-restart Golub-Kahan-Lanczos bidiagonalisation (Baglama and
/// Reichel 2005): the error of a triplet is the last off-diagonal number times the last entry of its small left vector.
SingularTriplets golub_kahan(const LinearMap& a, int64_t k, const SpectrumOptions& options = {});

struct RangeOptions {
  int64_t oversample = 10;
  int64_t power = 2;  ///< times that A A^T is applied in between, orthogonalising
  uint64_t seed = 1;
};

/// An orthonormal basis of what A^T-filtered random vectors span in A's codomain, rank + oversample of them at most:
/// the randomised range finder (Halko, Martinsson and Tropp 2011, algorithm 4.4). [r, *leaf] for each leaf.
Tensors randomized_range(const LinearMap& a, int64_t rank, const RangeOptions& options = {});

/// The `rank` largest singular triplets from that range. 2 (power + 1) batches of products; fast where push_many is.
SingularTriplets randomized_svd(const LinearMap& a, int64_t rank, const RangeOptions& options = {});

struct QuadratureOptions {
  int64_t samples = 16;  ///< random sign vectors
  int64_t steps = 30;    ///< of Lanczos for each: the quadrature is exact for polynomials of degree 2 steps - 1
  uint64_t seed = 1;
};

/// The nodes and weights behind trace_of_function, one quadrature per random vector: the mean over samples of
/// sum_i weights_i f(nodes_i) estimates trace(f(A)), so that the weights are a histogram of eigenvalues. Weights of a
/// sample add up to the dimension.
struct SpectralQuadrature {
  std::vector<std::vector<double>> nodes = {}, weights = {};
  Outcome outcome = Outcome::Converged;  ///< NonfiniteResult if A gave values that are not finite
};
SpectralQuadrature spectral_quadrature(const LinearMap& a, const QuadratureOptions& options = {});

/// trace(f(A)) of a symmetric map by stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017). If f is not finite at a
/// node, the outcome is Indefinite.
Estimate trace_of_function(const LinearMap& a, const std::function<double(double)>& f,
                           const QuadratureOptions& options = {});

/// log det A of a positive definite map.
Estimate log_determinant(const LinearMap& a, const QuadratureOptions& options = {});

}  // namespace unbend
