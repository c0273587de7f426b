"""Optimisers without a step size to tune: Newton steps that need no constants, and linear models that learn from streams."""
from dataclasses import dataclass
from typing import Any

import torch

from . import _core
from ._numbers import as_numbers
from ._progress import goes_on
from ._trees import Flat, flatten, unflatten
from .errors import InputError

__all__ = ["Minimum", "OnlineLearner", "minimize"]


@dataclass(frozen=True)
class Minimum:
    """outcome: "converged", "value_reached", "rounding" (float64 lets f fall no further), "iteration_limit",
    "search_exhausted" or "stopped"; message: that in a sentence, with advice. trace: the accepted steps, each with .index, .value,
    .gradient_norm, .gamma, .step, .probes, .products, .decrease and .guaranteed."""
    x: Any
    value: float
    gradient_norm: float
    outcome: str
    converged: bool
    iterations: int
    message: str
    gamma: float  # for a warm start
    evaluations: int
    products: int
    trace: list


def minimize(f, x0, *, gauss_newton=False, power=2., gradient_tolerance=1e-8, least=None, value_tolerance=1e-8,
             max_iterations=1000, gamma=1., progress=None):
    """GNS-Newton from x0 (a tensor, a tuple, a dict of tensors): Newton steps, regularised by |g| / gamma, whose gamma finds
    itself. Hessians are products through `linearize`, never matrices. (Semenov et al. 2025, arXiv 2506.13710.)

    f: one number, its Hessian exact; with gauss_newton, residuals u in any shapes, of which |u|^power / power is minimised
    with the Gauss-Newton surrogate. Done when |gradient| <= gradient_tolerance, or f - least <= value_tolerance where the
    least value is known. progress(step) -> False stops.
    """
    start, spec = flatten(x0, "x0")
    x, minimum = _core.minimize(Flat(f, spec), start, gauss_newton, power, gamma, gradient_tolerance, least, value_tolerance,
                                max_iterations, goes_on(progress))
    return Minimum(unflatten(x, spec), minimum.value, minimum.gradient_norm, minimum.outcome, minimum.converged,
                   len(minimum.trace), minimum.message, minimum.gamma, minimum.evaluations, minimum.products, minimum.trace)


def _rows(rows, features):
    """SciPy's sparse matrices, torch's CSR tensors, and dense ones, of which zeros are left out."""
    if hasattr(rows, "tocsr"):
        rows = rows.tocsr()
        parts = rows.indptr, rows.indices, rows.data
    else:
        rows = as_numbers(rows)
        if rows.dim() != 2:
            raise InputError(f"rows must be [n, features], not of {rows.dim()} dimensions")
        if rows.layout == torch.strided:
            at = rows.nonzero()
            counts = torch.bincount(at[:, 0], minlength=len(rows))
            parts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]), at[:, 1], rows[at[:, 0], at[:, 1]]
        else:
            parts = rows.crow_indices(), rows.col_indices(), rows.values()
    if rows.shape[1] != features:
        raise InputError(f"rows of {rows.shape[1]} numbers for a learner of {features} features")
    starts, indices, values = (torch.as_tensor(p).detach().cpu() for p in parts)
    return _core.SparseRows(starts.long().contiguous(), indices.long().contiguous(), values.double().contiguous())


class OnlineLearner:
    """Linear models that learn rows one by one, by generalised implicit FTRL (Chen and Orabona 2023, arXiv 2306.00201): a
    step takes the loss itself, not its tangent, so that a rate that is far too large costs little.

    features: how many there are. loss: "logistic", "hinge" (labels -1 and 1, or 0 and 1 with zero_one), "squared",
    "absolute", "epsilon-insensitive" or "quantile" (with their `parameter`). update: "proximal", "aprox", "two-step" or
    "linear" (ordinary FTRL). schedule: "adagrad" (a strength per weight), "adagrad-norm", "sqrt", "constant", "adaptive".
    rates: one model for each, all learnt in one pass. domain: "whole", "box" (low, high), "ball" (radius), "simplex".
    classes: labels are 0 .. classes - 1, one model against the rest for each, or all together with softmax. InputError for
    what does not fit together.
    """

    def __init__(self, features, *, loss="logistic", parameter=0., update="proximal", schedule="adagrad", rates=(.3,),
                 lambda1=1e-2, epsilon=1., domain="whole", low=-1., high=1., radius=1., l1=0., classes=1, softmax=False,
                 zero_one=False, average=False):
        self._settings = (features, loss, parameter, update, schedule, list(rates), lambda1, epsilon, domain, low, high,
                          radius, l1, classes, softmax, zero_one, average)
        self._core = _core.Ftrl(*self._settings)

    def learn(self, rows, labels, weights=None):
        """Predicts, pays and updates, row by row, in one thread at a time. rows: [n, features], dense or sparse (SciPy,
        torch CSR); labels and importance weights [n]. A row that is refused (InputError) changes nothing; those before it
        are learnt."""
        labels = as_numbers(labels).detach().cpu().double().contiguous()
        weights = torch.ones_like(labels) if weights is None else as_numbers(weights).detach().cpu().double().contiguous()
        self._core.learn(_rows(rows, self._settings[0]), labels, weights)
        return self

    def predict(self, rows, rate=None):
        """<row, weights> without learning: [n], or [n, classes]; of the best rate unless given."""
        margins = self._core.predict(_rows(rows, self._settings[0]))[:, self.best if rate is None else rate]
        return margins if margins.shape[1] > 1 else margins[:, 0]

    def weights(self, rate=None, label=0, *, average=False):
        """[features]; with average, the mean of the iterates that predicted so far (needs average=True above)."""
        return self._core.weights(self.best if rate is None else rate, label, average)

    @property
    def rows(self):
        """How many were learnt."""
        return self._core.rows

    @property
    def tallies(self):
        """What each rate did: .mean_loss (predict first, then update), .mistakes, .weight, .gain (of the regret bound over
        ordinary FTRL's), .diverged_at (row, or 0)."""
        return self._core.tallies

    @property
    def best(self):
        """The rate of least mean loss, as an index."""
        return self._core.best

    def regret_bound(self, u, rate=None):
        """What the losses so far exceed those of weights u [classes, features] by, at most."""
        return self._core.regret_bound(as_numbers(u), self.best if rate is None else rate)

    def __getstate__(self):
        return self._settings, self._core.numbers()

    def __setstate__(self, state):
        self._settings, numbers = state
        self._core = _core.Ftrl(*self._settings)
        self._core.set_numbers(numbers)
