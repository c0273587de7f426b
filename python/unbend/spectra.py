"""Eigenvalues, singular values, traces and determinants of matrix-free maps."""
from dataclasses import dataclass
from typing import Any

import torch

from . import _core
from ._trees import leaves, unflatten


@dataclass(frozen=True)
class Eigenpairs:
    values: torch.Tensor  # [k]
    vectors: Any          # K vectors along leading axes
    errors: torch.Tensor  # [k]: |A v - value v|
    outcome: str
    products: int         # of A, used
    message: str


@dataclass(frozen=True)
class SingularTriplets:
    values: torch.Tensor  # [k], descending
    left: Any
    right: Any
    errors: torch.Tensor  # [k]: |A^T u - value v|
    outcome: str
    products: int
    message: str


def eigenpairs(a, k, which="magnitude", *, tolerance=0., basis=0, restarts=100, seed=1, start=None):
    """k eigenpairs of a symmetric map by thick-restart Lanczos. which: "largest", "smallest" or "magnitude"."""
    start = None if start is None else leaves(start, a._domain, "start")
    e = _core.eigenpairs(a._map, k, which, tolerance, basis, restarts, seed, start)
    return Eigenpairs(e.values, unflatten(e.vectors, a._domain), e.errors, e.outcome, e.products, e.message)


def _triplets(a, s):
    return SingularTriplets(s.values, unflatten(s.left, a._codomain), unflatten(s.right, a._domain), s.errors,
                            s.outcome, s.products, s.message)


def singular_triplets(a, k, *, tolerance=0., basis=0, restarts=100, seed=1, start=None):
    """The k largest singular values with their vectors, by thick-restart Golub-Kahan bidiagonalisation.

    start: a vector of A's domain.
    """
    start = None if start is None else leaves(start, a._domain, "start")
    return _triplets(a, _core.singular_triplets(a._map, k, tolerance, basis, restarts, seed, start))


def randomized_svd(a, rank, *, oversample=10, power=2, seed=1):
    """The `rank` largest singular triplets from a random sketch of A's range."""
    return _triplets(a, _core.randomized_svd(a._map, rank, oversample, power, seed))


def estimate_trace(a, samples=16, seed=1):
    """Hutchinson's estimate of the trace: .value, .standard_error."""
    return _core.estimate_trace(a._map, samples, seed)


def estimate_diagonal(a, samples=16, seed=1):
    """An estimate of the diagonal, and the norm of its standard errors over its own."""
    d, spread = _core.estimate_diagonal(a._map, samples, seed)
    return unflatten(d, a._domain), spread


def trace_of_function(a, f, *, samples=16, steps=30, seed=1):
    """trace(f(A)) of a symmetric map by stochastic Lanczos quadrature; f takes and gives a number."""
    return _core.trace_of_function(a._map, f, samples, steps, seed)


def log_determinant(a, *, samples=16, steps=30, seed=1):
    """log det A of a positive definite map, likewise."""
    return _core.log_determinant(a._map, samples, steps, seed)
