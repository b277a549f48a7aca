"""The exceptions that cgan_jax raises for what a user can mend. Nothing else lives here.

Each message fits in three lines: what was wrong, what was expected, what to do.
"""


class CGANError(Exception):
    """Base of all errors that cgan_jax raises on purpose: `except CGANError` catches each one."""


class ConfigError(CGANError, ValueError):
    """A setting, flag, label or array argument is out of range, misspelt or misshaped."""


class DataError(CGANError):
    """A data set is missing, unreadable, or not what it claims to be."""


class RunError(CGANError):
    """A run folder or a checkpoint in it cannot be used as asked."""


class DivergenceError(CGANError, ArithmeticError):
    """Training produced NaN or infinite numbers."""
