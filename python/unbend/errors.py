"""What the package raises."""


class Error(Exception):
    """A caller's mistake or a failed computation, in one sentence."""


class InputError(Error, ValueError):
    """An argument that cannot be used."""


class ComputationError(Error, ArithmeticError):
    """A computation that failed on valid input."""
