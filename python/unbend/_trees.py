"""Callers' trees of tensors (tensors, tuples, lists, dicts of them) and flat lists."""
from torch import Tensor, is_tensor
from torch.utils import _pytree as pytree

from .errors import InputError


def flatten(x, what):
    """The tensors of a tree and its shape; InputError naming `what` if something else is in it."""
    leaves, spec = pytree.tree_flatten(x)
    for leaf in leaves:
        if not is_tensor(leaf):
            raise InputError(f"{what} must hold tensors only, not {type(leaf).__name__}")
    return leaves, spec


def leaves(x, spec, what):
    """The tensors of a tree of a known shape."""
    found, actual = flatten(x, what)
    if spec is not None and actual != spec:
        raise InputError(f"{what} has the structure {actual}, not {spec}")
    return found


def same_structure(spec, other, what):
    """InputError if vectors of two maps that are put together have other structures, such as keys in another order."""
    if spec is not None and other is not None and spec != other:
        raise InputError(f"{what}: vectors of the structures {spec} and {other} do not go together")


def unflatten(tensors, spec):
    """The way back; `spec` None is a single tensor, or a tuple of several."""
    if spec is not None:
        return pytree.tree_unflatten(tensors, spec)
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


class Flat:
    """A function of trees as a function of flat lists. After a call `spec` is the structure of its result."""

    def __init__(self, f, *specs):
        self.f, self.specs, self.spec = f, specs, None

    def __call__(self, *lists):
        result = self.f(*(unflatten(x, s) for x, s in zip(lists, self.specs)))
        tensors, self.spec = flatten(result, "the function's result")
        return tensors


class Spread(Flat):
    """The same for a function of several arguments, which stand in one tuple."""

    def __call__(self, tensors):
        result = self.f(*unflatten(tensors, self.specs[0]))
        flat, self.spec = flatten(result, "the function's result")
        return flat


__all__ = ["Flat", "Spread", "Tensor", "flatten", "leaves", "same_structure", "unflatten"]
