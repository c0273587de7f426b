"""Linear systems and least squares with matrix-free maps. Results are finite and say why the solver stopped."""
from dataclasses import dataclass
from typing import Any

from . import _core
from ._progress import goes_on
from ._trees import leaves, unflatten


@dataclass(frozen=True)
class Solution:
    """outcome: "converged", "max_iterations", "indefinite", "breakdown", "stagnated", "ill_conditioned",
    "nonfinite_input", "nonfinite_result" or "cancelled"; message: the cause and what to do about it."""
    x: Any
    outcome: str
    converged: bool
    iterations: int
    residual: float   # |b - A x|, computed from x
    condition: float  # an estimate of A's condition number by solvers that have one, or 0
    message: str


def _solution(a, result):
    return Solution(unflatten(result.x, a._domain), result.outcome, result.converged, result.iterations,
                    result.residual, result.condition, result.message)


def _solve(method, a, b, rtol, atol, max_iterations, x0, preconditioner, progress, **extra):
    start = None if x0 is None else leaves(x0, a._domain, "x0")
    return _solution(a, method(a._map, leaves(b, a._codomain, "b"), rtol, atol, max_iterations, start,
                               None if preconditioner is None else preconditioner._map, goes_on(progress), extra))


def cg(a, b, *, rtol=None, atol=0., max_iterations=0, x0=None, preconditioner=None, progress=None,
       quadratic_tolerance=0.):
    """Conjugate gradients for psd A. Done when |b - A x| <= atol + rtol |b| (rtol: 1e-8, in float32 1e-5).

    preconditioner: a map close to A's inverse. progress(iterations, residual) -> False stops.
    """
    return _solve(_core.cg, a, b, rtol, atol, max_iterations, x0, preconditioner, progress,
                  quadratic_tolerance=quadratic_tolerance)


def minres(a, b, *, rtol=None, atol=0., max_iterations=0, x0=None, preconditioner=None, progress=None):
    """MINRES for symmetric A, definite or not."""
    return _solve(_core.minres, a, b, rtol, atol, max_iterations, x0, preconditioner, progress)


def gmres(a, b, *, rtol=None, atol=0., max_iterations=0, x0=None, preconditioner=None, progress=None, restart=20):
    """GMRES for square A, restarted after `restart` steps."""
    return _solve(_core.gmres, a, b, rtol, atol, max_iterations, x0, preconditioner, progress, restart=restart)


def lsqr(a, b, *, rtol=None, atol=0., max_iterations=0, x0=None, preconditioner=None, progress=None, damping=0.,
         condition_limit=None):
    """LSQR for A of any shape: minimises |A x - b|^2 + damping^2 |x|^2."""
    extra = {} if condition_limit is None else {"condition_limit": condition_limit}
    return _solve(_core.lsqr, a, b, rtol, atol, max_iterations, x0, preconditioner, progress, damping=damping, **extra)


def solve(a, b, *, rtol=None, atol=0., max_iterations=0, x0=None, preconditioner=None, progress=None):
    """By the method that fits A's structure and what is declared of it."""
    return _solve(_core.solve, a, b, rtol, atol, max_iterations, x0, preconditioner, progress)


def solve_directly(a, b):
    """By factorising A's matrix."""
    return _solution(a, _core.solve_directly(a._map, leaves(b, a._codomain, "b")))
