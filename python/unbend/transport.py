"""Measures as vectors: optimal partial transport, circular and spherical transport, and their linear embeddings.

A measure is its points [n, d] (or [n], on a line), each of mass 1, or the pair (points, masses [n]): tensors or arrays.
Masses are taken as given and never normalised. Work is in float64 on the CPU and gives float64 tensors; the functions that
say so are differentiable. InputError for numbers that are not finite, negative masses and unequal dimensions.
"""
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

from . import _core
from ._numbers import as_numbers
from .errors import InputError

__all__ = ["Plan", "partial_transport", "lopt_embed", "lopt_matrix", "lopt_features", "lopt_interpolate", "lopt_barycenter",
           "circular_transport", "lcot", "lcot_embed", "lcot_embed_histogram", "lcot_distance", "lcot_matrix", "lcot_grid",
           "lcot_atoms", "lcot_histogram", "lcot_interpolate", "lcot_barycenter", "sliced_lcot"]


def _measure(measure):
    points, masses = measure if isinstance(measure, tuple) else (measure, None)
    return as_numbers(points), None if masses is None else as_numbers(masses)


def _detached(points, masses):
    return points.detach(), None if masses is None else masses.detach()


def _of(gradients, inputs):
    """As autograd wants them: in the shapes and on the devices of the inputs."""
    return tuple(None if g is None or t is None else g.reshape(t.shape).to(t.device) for g, t in zip(gradients, inputs))


@dataclass
class Plan:
    """What moves where: masses[k] from source[k] to target[k], sorted by source. value: OPT, differentiable; cost: sum of
    mass times squared distance; transported: sum of masses; potentials (of source and target, at most 0) prove the value up
    to `gap`; solver, steps: how it was found. Potentials and gap are None where the line's solver needs none."""
    value: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    masses: torch.Tensor
    cost: float
    transported: float
    gap: float | None
    potentials: tuple | None
    solver: str
    steps: int
    shape: tuple

    def dense(self):
        """The plan as a matrix [n, m]."""
        return torch.zeros(self.shape, dtype=torch.double).index_put((self.source, self.target), self.masses)


class _PartialValue(torch.autograd.Function):
    """The optimum's derivatives are those at the optimal plan and potentials (envelope theorem)."""

    @staticmethod
    def forward(ctx, x, p, y, q, lam, plan):
        ctx.plan, ctx.lam = plan, lam
        ctx.save_for_backward(x, p, y, q)
        return torch.tensor(plan.value, dtype=torch.double)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, y = (t.cpu().double() if t.dim() == 2 else t.cpu().double()[:, None] for t in ctx.saved_tensors[::2])
        (source, target), masses = ctx.plan.atoms, ctx.plan.masses
        gradient = gradient.cpu()
        force = 2 * masses[:, None] * (x[source] - y[target]) * gradient
        at_x, at_y = torch.zeros_like(x).index_add(0, source, force), torch.zeros_like(y).index_add(0, target, -force)
        at_p = (ctx.lam + ctx.plan.source_potentials) * gradient if ctx.needs_input_grad[1] else None
        at_q = (ctx.lam + ctx.plan.target_potentials) * gradient if ctx.needs_input_grad[3] else None
        return *_of((at_x, at_p, at_y, at_q), ctx.saved_tensors), None, None


def partial_transport(source, target, lam=None, *, solver="automatic"):
    """Optimal partial transport, exact: mass moves at its squared distance, or is given up at the price `lam` per unit and
    side, so that nothing moves further than sqrt(2 lam). Without lam, balanced transport of equal totals.

    Returns a Plan. Its value is differentiable in points, and with lam in masses (of atoms that have mass). solver:
    "network simplex", "assignment" (equal masses) or "automatic". (Bai et al. 2023, arXiv 2302.03232, section 2.)
    """
    (x, p), (y, q) = _measure(source), _measure(target)
    of_masses = any(m is not None and m.requires_grad for m in (p, q))
    if of_masses and lam is None:
        raise InputError("balanced transport is not differentiable in masses: their totals must stay equal")
    if of_masses and solver == "automatic":
        solver = "network simplex"  # the line's solver has no potentials
    plan = _core.partial_transport(_detached(x, p), _detached(y, q), lam, solver)
    value = _PartialValue.apply(x, p, y, q, lam, plan)
    known = plan.gap is not None
    return Plan(value, *plan.atoms, plan.masses, plan.cost, plan.transported, plan.gap,
                (plan.source_potentials, plan.target_potentials) if known else None, plan.solver, plan.steps,
                (len(x), len(y)))


def lopt_embed(reference, targets, lam=None, *, threads=0):
    """Embeddings of the targets (a list of measures), each from one solve against the reference: linear optimal partial
    transport (Bai et al. 2023, arXiv 2302.03232); without lam, linear optimal transport of measures scaled to mass 1.

    Each has .displacement [N, d] of the reference's atoms, .mass [N] that moves, .rest (points, masses) that no reference
    mass reaches, and .value, OPT to the reference.
    """
    return _core.lopt_embed(_measure(reference), [_measure(t) for t in targets], lam, threads)


def lopt_matrix(embeddings, lam, *, threads=0):
    """LOPT discrepancies of all pairs, [K, K], without a solver: sum over atoms of min(|u_i - u_j|^2, 2 lam) min(p_i, p_j) +
    lam (|p_i - p_j|), + lam (rests). Squared costs, as OPT itself."""
    return _core.lopt_matrix(embeddings, lam, threads)


def lopt_features(reference, embeddings, *, lam=None):
    """Rows [K, N d] whose Euclidean distances are LOT distances (of masses scaled to 1), for PCA and classifiers; with lam,
    of masses as given, and also how much of each atom's mass moves: [K, N d + N]."""
    return _core.lopt_features(_measure(reference), embeddings, lam)


def lopt_interpolate(reference, embedding, t, *, to=None):
    """(points, masses) on the way from the reference (t = 0) to the embedding's target (t = 1), or, with `to`, from the
    embedding's target to that of the embedding `to`."""
    if to is None:
        return _core.lopt_interpolate(_measure(reference), embedding, t)
    return _core.lopt_interpolate_between(_measure(reference), embedding, to, t)


def lopt_barycenter(start, targets, lam, *, weights=(), weigh_by_mass=True, most_rounds=100, tolerance=1e-4, threads=0):
    """(points, masses) of the targets' partial barycentre, from the measure `start` whose masses it keeps: embed all, move
    the atoms, again. weigh_by_mass: atoms move by the mean weighed by what is transported."""
    points, masses, _, _ = _core.lopt_barycenter(_measure(start), [_measure(t) for t in targets], lam, list(weights),
                                                 weigh_by_mass, most_rounds, tolerance, threads)
    return points, masses


def circular_transport(a, b, *, period=1., p=2., wrap=False):
    """Exact optimal transport on the circle, COT_p^p, of values in [-period, period] (all, with wrap) and masses, which are
    scaled to sum 1. In turns: for p = 2 multiply by period^2. (Delon et al. 2010.)"""
    return _core.circular_transport(_measure(a), _measure(b), period, p, wrap)


def lcot_embed(measure, *, period=1., reference=None, p=2., wrap=False):
    """The map that carries the uniform measure (or `reference`, for cost p) on the circle to this one: linear circular
    optimal transport (Diaz Martin et al. 2024, arXiv 2310.06002). Values as in circular_transport.

    Piecewise linear: .starts [k + 1], .left and .right [k]; map(t) for t in [0, 1). All in turns.
    """
    return _core.lcot_embed(_measure(measure), period, wrap, None if reference is None else _measure(reference), p)


def lcot_embed_histogram(masses):
    """The map of bins of equal width around the circle, mass spread evenly over each."""
    return _core.lcot_embed_histogram(as_numbers(masses))


def lcot(a, b, p=2.):
    """LCOT_p^p of two maps of the same reference, in turns; exact."""
    return _core.lcot(a, b, p)


def lcot_matrix(maps, p=2., *, threads=0):
    """LCOT_p^p of all pairs, [K, K]."""
    return _core.lcot_matrix(maps, p, threads)


class _CircularDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p, y, q, period, wrap):
        value, at_x, at_p = _core.lcot_gradient((x, p), (y, q), period, wrap)
        at_y = at_q = None
        if any(ctx.needs_input_grad[2:4]):
            _, at_y, at_q = _core.lcot_gradient((y, q), (x, p), period, wrap)
        ctx.gradients = _of((at_x, at_p, at_y, at_q), (x, p, y, q))
        return torch.tensor(value, dtype=torch.double)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return *(None if g is None else g * gradient.to(g.device) for g in ctx.gradients), None, None


def lcot_distance(a, b, *, period=1., wrap=False):
    """LCOT_2^2 of two measures of atoms on the circle, in turns, differentiable in values and masses."""
    (x, p), (y, q) = _measure(a), _measure(b)
    return _CircularDistance.apply(x, p, y, q, period, wrap)


def lcot_grid(map, nodes):
    """map(t) - t at the midpoints (k + 1/2) / nodes: [nodes]."""
    return _core.lcot_grid(map, nodes)


def lcot_atoms(map):
    """(positions, masses) of the measure behind a map of atoms, in turns, in [0, 1)."""
    return _core.lcot_atoms(map)


def lcot_histogram(map, bins):
    """Mass per bin of the measure behind any map, exactly conserved."""
    return _core.lcot_histogram(map, bins)


def lcot_interpolate(a, b, t):
    """The map on the way from a (t = 0) to b (t = 1), the shorter way round."""
    return _core.lcot_interpolate(a, b, t)


def lcot_barycenter(maps, weights=()):
    """The circular mean of the maps (weights: equal unless given)."""
    return _core.lcot_barycenter(maps, list(weights))


class _SlicedDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p, y, q, circles, seed):
        value, at_x = _core.sliced_lcot((x, p), (y, q), circles, seed)
        at_y = _core.sliced_lcot((y, q), (x, p), circles, seed)[1] if ctx.needs_input_grad[2] else None
        ctx.gradients = _of((at_x, at_y), (x, y))
        return torch.tensor(value, dtype=torch.double)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        at_x, at_y = (None if g is None else g * gradient.to(g.device) for g in ctx.gradients)
        return at_x, None, at_y, None, None, None


def sliced_lcot(a, b, *, circles=100, seed=0):
    """LCOT_2^2 on random great circles of a sphere, averaged, in turns; points [n, d] need not have length 1.
    Differentiable in points."""
    (x, p), (y, q) = _measure(a), _measure(b)
    p, q = (None if m is None else m.detach() for m in (p, q))
    return _SlicedDistance.apply(x, p, y, q, circles, seed)
