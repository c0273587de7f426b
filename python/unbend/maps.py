"""Linear maps, matrix-free, and the ones that are closest to functions."""
from . import _core
from ._trees import Flat, Spread, flatten, leaves, same_structure, unflatten
from .errors import InputError


class LinearMap:
    """A linear map A between spaces of tensors: push is A, pull its adjoint; everything else is built from these.

    Vectors have the structure of what the map was made from (a tensor, a tuple, a dict of tensors ..). A @ v pushes,
    A @ B composes; A + B, A - B, -A, 2 * A and A.T are lazy. Where v asks for gradients, A @ v has them.
    """

    __slots__ = ("_map", "_domain", "_codomain")
    __array_priority__ = 1000  # numpy leaves * and @ to us

    def __init__(self, core, domain=None, codomain=None):
        self._map, self._domain, self._codomain = core, domain, codomain

    # ---- What it is

    @property
    def shape(self):
        """(numbers in its codomain, numbers in its domain)."""
        return self._map.rows, self._map.columns

    @property
    def dtype(self):
        """The torch dtype of its matrix."""
        return self._map.dtype

    @property
    def properties(self):
        """What is declared of it: "symmetric", "psd", "nsd", "diagonal", "identity", "zero", "orthogonal"."""
        return frozenset(self._map.properties)

    def __repr__(self):
        known = ", ".join(self._map.properties)
        return f"<LinearMap {self._map.domain} -> {self._map.codomain}{': ' + known if known else ''}>"

    def declare(self, *properties):
        """The same map, of which more is known. Nothing is proved; a wrong claim gives wrong answers."""
        return LinearMap(_core.declare(self._map, list(properties)), self._domain, self._codomain)

    # ---- Products

    def push(self, v):
        """A v."""
        return unflatten(self._map.push(leaves(v, self._domain, "the vector to push")), self._codomain)

    def pull(self, c):
        """A^T c."""
        return unflatten(self._map.pull(leaves(c, self._codomain, "the vector to pull")), self._domain)

    def push_many(self, v):
        """A v for K vectors at once, along a leading axis of every tensor. Without gradients."""
        return unflatten(self._map.push_many(leaves(v, self._domain, "the vectors to push")), self._codomain)

    def pull_many(self, c):
        """A^T c for K vectors at once, likewise."""
        return unflatten(self._map.pull_many(leaves(c, self._codomain, "the vectors to pull")), self._domain)

    def __matmul__(self, other):
        if isinstance(other, LinearMap):
            same_structure(self._domain, other._codomain, "A @ B")
            return LinearMap(_core.compose(self._map, other._map), other._domain, self._codomain)
        return self.push(other)

    # ---- Maps from maps

    @property
    def T(self):  # noqa: N802
        """A^T."""
        return LinearMap(_core.adjoint(self._map), self._codomain, self._domain)

    def __add__(self, other):
        if not isinstance(other, LinearMap):
            return NotImplemented
        same_structure(self._domain, other._domain, "A + B")
        same_structure(self._codomain, other._codomain, "A + B")
        return LinearMap(_core.add(self._map, other._map), self._domain, self._codomain)

    def __sub__(self, other):
        return self + -other if isinstance(other, LinearMap) else NotImplemented

    def __neg__(self):
        return -1. * self

    def __mul__(self, factor):
        return LinearMap(_core.scale(float(factor), self._map), self._domain, self._codomain)

    __rmul__ = __mul__

    def __truediv__(self, divisor):
        return self * (1 / divisor)

    def shift(self, number):
        """A + number I."""
        return LinearMap(_core.shift(self._map, number), self._domain, self._codomain)

    def gram(self):
        """A^T A, which is psd."""
        return LinearMap(_core.gram(self._map), self._domain, self._domain)

    def outer_gram(self):
        """A A^T, which is psd."""
        return LinearMap(_core.outer_gram(self._map), self._codomain, self._codomain)

    def inverse(self, rtol=None):
        """A^-1 as a map: every product is a solve. ComputationError, in its products, where one does not converge."""
        return LinearMap(_core.inverse(self._map, rtol), self._codomain, self._domain)

    # ---- As a matrix

    def dense(self, limit=1 << 26):
        """The matrix [m, n] between flat vectors; InputError above `limit` numbers."""
        return _core.to_dense(self._map, limit)

    def materialize(self, limit=1 << 26):
        """The same map, kept as a matrix."""
        return LinearMap(_core.materialize(self._map, limit), self._domain, self._codomain)

    def diagonal(self):
        """Its diagonal, as a vector of its space: exact, from as many products as there are numbers."""
        return unflatten(_core.diagonal(self._map), self._domain)

    def trace(self):
        """The sum of its diagonal."""
        return _core.trace(self._map)

    def scipy(self):
        """A scipy.sparse.linalg.LinearOperator on flat NumPy vectors."""
        import numpy
        import torch
        from scipy.sparse.linalg import LinearOperator

        core = self._map

        def product(apply, many=False):
            def run(x):
                if numpy.iscomplexobj(x) and not core.dtype.is_complex:
                    return run(x.real) + 1j * run(x.imag)
                given = numpy.ascontiguousarray(x.T if many else x.reshape(-1))
                y = apply(torch.from_numpy(given).to(core.dtype)).detach().numpy()
                if numpy.shares_memory(y, given):  # solvers go on to write into x
                    y = y.copy()
                return y.T if many else y
            return run

        return LinearOperator(self.shape, dtype=torch.empty(0, dtype=core.dtype).numpy().dtype,
                              matvec=product(core.push_flat), rmatvec=product(core.pull_flat),
                              matmat=product(core.push_flat_many, True), rmatmat=product(core.pull_flat_many, True))


# ---- Maps of functions

def linearize(f, *at, push="recorded", pull=True, verify_push=True, allow_constant=False, allow_nonfinite=False):
    """f(*at) and the Jacobian of f there, as a LinearMap; f runs once, ever.

    f takes and gives trees of tensors. push: "recorded" (the graph of f is walked forwards), "dual" (f runs
    again for each push, on dual numbers) or "none". Tensors that f captures count as constants and must not change
    while the map lives. InputError for outputs that depend on no input (unless allow_constant) and for an f that
    changes its inputs; ComputationError for values that are not finite (unless allow_nonfinite).
    """
    function, x, domain = _flat(f, at)
    value, jacobian = _core.linearize(function, x, push, pull, verify_push, allow_constant, allow_nonfinite)
    return unflatten(value, function.spec), LinearMap(jacobian, domain, function.spec)


def hessian(f, *at):
    """The gradient of a scalar function and its second derivative there, a symmetric map. f runs once."""
    function, x, domain = _flat(f, at)
    gradient, second = _core.hessian(function, x)
    return unflatten(gradient, domain), LinearMap(second, domain, domain)


def implicit_derivative(f, theta, x, properties=(), rtol=None):
    """The derivative of x as a function of theta where f(theta, x) = 0, at a pair that solves it already.

    `properties` are those of df/dx, and decide the solver; rtol is the solver's.
    """
    flat_theta, theta_spec = flatten(theta, "theta")
    flat_x, x_spec = flatten(x, "x")
    core = _core.implicit_derivative(Flat(f, theta_spec, x_spec), flat_theta, flat_x, list(properties), rtol)
    return LinearMap(core, theta_spec, x_spec)


def check_linearization(f, *at, seed=1):
    """Whether f is differentiated as it should: adjoint test, and pushes against central differences."""
    function, x, _ = _flat(f, at)
    return _core.check_linearization(function, x, seed)


def dot_test(a, seed=1):
    """Whether <A v, c> = <v, A^T c> for a random v and c."""
    return _core.dot_test(a._map, seed)


def check_properties(a, seed=1):
    """"" if the declared properties of A hold on random vectors, else what is wrong."""
    return _core.check_properties(a._map, seed)


# ---- Maps from data

def function_map(push, pull, domain, codomain, properties=()):
    """A map from its two faces. `domain` and `codomain` are examples of vectors. See dot_test."""
    x, x_spec = flatten(domain, "domain")
    y, y_spec = flatten(codomain, "codomain")
    core = _core.function_map(x, y, Flat(push, x_spec), Flat(pull, y_spec), list(properties))
    return LinearMap(core, x_spec, y_spec)


def identity(like):
    """x -> x on vectors such as `like`."""
    x, spec = flatten(like, "like")
    return LinearMap(_core.identity_map(x), spec, spec)


def zero(domain, codomain):
    """x -> 0, between vectors such as `domain` and `codomain`."""
    x, x_spec = flatten(domain, "domain")
    y, y_spec = flatten(codomain, "codomain")
    return LinearMap(_core.zero_map(x, y), x_spec, y_spec)


def diagonal(d):
    """x -> d * x."""
    x, spec = flatten(d, "d")
    return LinearMap(_core.diagonal_map(x), spec, spec)


def dense(matrix):
    """A matrix [m, n]."""
    return LinearMap(_core.dense_map(matrix))


def low_rank(u, v):
    """U V^T with U [m, r] and V [n, r]."""
    return LinearMap(_core.low_rank_map(u, v))


def _blocks(join, maps):
    maps = list(maps)
    if not maps:
        raise InputError("blocks need at least one map")
    return join([a._map for a in maps])


def block_row(maps):
    """[A B ..]: (x_1, x_2, ..) -> A x_1 + B x_2 + .., on the flat tuple of all domains' tensors."""
    maps = list(maps)
    core = _blocks(_core.block_row, maps)
    for a in maps:
        same_structure(maps[0]._codomain, a._codomain, "a row of blocks")
    return LinearMap(core, None, maps[0]._codomain)


def block_column(maps):
    """[A; B; ..]: x -> (A x, B x, ..), a flat tuple of all codomains' tensors."""
    maps = list(maps)
    core = _blocks(_core.block_column, maps)
    for a in maps:
        same_structure(maps[0]._domain, a._domain, "a column of blocks")
    return LinearMap(core, maps[0]._domain, None)


def block_diagonal(maps):
    """(x_1, x_2, ..) -> (A x_1, B x_2, ..) on flat tuples."""
    return LinearMap(_blocks(_core.block_diagonal, maps))


def _flat(f, at):
    """f as a function of a flat list, the list, and the structure of vectors: that of the only argument, or a tuple."""
    if not at:
        raise InputError("a point is needed at which to linearize")
    if len(at) == 1:
        x, spec = flatten(at[0], "the argument")
        return Flat(f, spec), x, spec
    x, spec = flatten(at, "the arguments")
    return Spread(f, spec), x, spec
