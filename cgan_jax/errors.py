"""The exceptions that cgan_jax raises for errors that a user can fix. Nothing else lives here.

A message has at most three lines: what was wrong, what was expected, what to do.
"""


class CGANError(Exception):
    """Base class of every error that cgan_jax raises on purpose: catch it to catch them all."""


class ConfigError(CGANError, ValueError):
    """A setting, flag, label or array argument is out of range, misspelt or of the wrong shape."""


class DataError(CGANError):
    """A data set is missing, unreadable, or not what it claims to be."""


class RunError(CGANError):
    """A run folder or a checkpoint in it cannot be used as requested."""


class DivergenceError(CGANError, ArithmeticError):
    """Training produced NaN or infinite numbers.

    Attributes:
        step: the first step that did, or of which it was noticed; None of a state to be saved.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step
