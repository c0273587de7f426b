"""Linear-time attention and its neighbours: fused kernels, differentiable."""
from . import _core


def gated_scan(q, k, v, log_decay=None, initial_state=None, *, form="chunked", chunk=16, axis="key"):
    """S_t = exp(log_decay_t) * S_{t-1} + k_t^T v_t, o_t = q_t S_t. Returns (o, last state).

    q [B, H, T, dk]; k [B, Hkv, T, dk]; v [B, Hkv, T, dv], with H a multiple of Hkv; log_decay none, or [B, Hkv, T, 1],
    [.., dk] (axis "key") or [.., dv] (axis "value"), at most 0; initial_state [B, Hkv, dk, dv]. form: "chunked",
    "recurrent" or "parallel" (O(T^2)): equal up to rounding. Differentiable in all five tensors, any number of times.
    (Yang et al. 2024, arXiv 2312.06635.)
    """
    return _core.gated_scan(q, k, v, log_decay, initial_state, form, chunk, axis)


def window_attention(q, k, v, window, *, sinks=0, scale=None, step=1, partial=False):
    """Causal softmax attention in a sliding window, with the first `sinks` tokens visible to all. O(T (window + sinks)).

    q [B, H, T, d]; k [B, Hkv, T, d]; v [B, Hkv, T, dv]. scale: 1/sqrt(d) unless given. step > 1: the window's edge moves
    in such steps. With partial, (out, largest score, log of the sum of exponentials), so that results over disjoint
    keys can be merged. Differentiable twice.
    """
    out = _core.window_attention(q, k, v, window, sinks, scale, step)
    return out if partial else out[0]


def soft_attention(q, landmarks, v, *, normalize=False, solver="newton", ridge=.01, iterations=20, residual=False):
    """C A^+ C^T v with Gaussian kernels C = K(q, landmarks), A = K(landmarks, landmarks): softmax-free attention, O(n).

    q [B, H, n, d]; landmarks [B, H, m, d]; v [B, H, n, dv]. normalize: SOFT++. A^+ comes from symmetric_inverse, whose
    `solver`, `ridge` and `iterations` these are; the defaults are the published ones. With residual, (out, residual
    [B, H] of A^+): far from 0, Newton has not converged and gradients are biased, which "cholesky" avoids. (Lu et al.
    2024, arXiv 2207.03341.)
    """
    out = _core.soft_attention(q, landmarks, v, normalize, solver, ridge, iterations)
    return out if residual else out[0]


def symmetric_inverse(a, *, solver="newton", ridge=.01, iterations=20, residual=False):
    """Y, the inverse of a + ridge I for symmetric positive semi-definite a [.., m, m], float32 or float64.

    solver: "newton" (matrix products only, at most `iterations` steps, which leave eigenvalues small beside the largest
    damped; m at most 1024; ridge 0 gives the pseudo-inverse) or "cholesky" (exact up to rounding, faster on CPUs; needs
    a + ridge I to be definite). With residual, (Y, max |I - Y (a + ridge I)| [..]). Differentiable any number of times
    by dA = -Y^T dY Y^T, which is biased where Newton has not converged: where the residual is far from 0.
    """
    out = _core.symmetric_inverse(a, solver, ridge, iterations)
    return out if residual else out[0]


def gaussian_kernel(x, y):
    """exp(-|x_i - y_j|^2 / 2) for x [.., n, d] and y [.., m, d]: [.., n, m]."""
    return _core.gaussian_kernel(x, y)


def rms_norm(x, weight, eps=1e-6, dtype=None):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; the result's dtype is x's unless given."""
    return _core.rms_norm(x, weight, eps, x.dtype if dtype is None else dtype)


def swiglu(gate_up):
    """silu(first half) * second half of the last dimension."""
    return _core.swiglu(gate_up)
