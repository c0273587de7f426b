"""Linear maps from functions, solvers and spectra for them, linear-time attention, and methods on them, on torch's tensors.

    value, J = unbend.linearize(f, x)      # f runs once
    J @ v, J.T @ c                         # products, without f
    unbend.lsqr(J, residual).x             # solvers: cg, minres, gmres, lsqr, solve
    unbend.singular_triplets(J, 3).values  # spectra
    unbend.propagate(net, x, scale=.1)     # what noise on its input does to a network's output
    unbend.transport.lopt_embed(ref, sets) # measures as vectors: partial, circular and spherical transport
    unbend.minimize(loss, weights).x       # Newton steps without a step size; unbend.OnlineLearner for streams
    unbend.Forecaster(path).predict(sets)  # forecasts of series that no network was trained on
"""
import torch  # noqa: F401  (its libraries must be there before ours)

from . import transport
from .attention import (gated_scan, gaussian_kernel, rms_norm, soft_attention, swiglu, symmetric_inverse,
                        window_attention)
from .errors import ComputationError, Error, InputError
from .forecast import Forecast, Forecaster
from .maps import (LinearMap, block_column, block_diagonal, block_row, check_linearization, check_properties, dense,
                   diagonal, dot_test, function_map, hessian, identity, implicit_derivative, linearize, low_rank, zero)
from .networks import Network, local_complexity, propagate
from .optimize import Minimum, OnlineLearner, minimize
from .parameterization import Rules, parameterize
from .solve import Solution, cg, gmres, lsqr, minres, solve, solve_directly
from .spectra import (Eigenpairs, SingularTriplets, eigenpairs, estimate_diagonal, estimate_trace, log_determinant,
                      randomized_svd, singular_triplets, trace_of_function)

__version__ = "0.1.0"
_MODULES = {"torch", "attention", "errors", "forecast", "maps", "networks", "optimize", "parameterization", "spectra"}
__all__ = [name for name in globals() if not name.startswith("_") and name not in _MODULES]
