"""Checks of single values that several modules make, and how a wrong value is shown.

What a setting may be stands where it is defined. Imports neither JAX nor NumPy.
"""

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cgan_jax.errors import ConfigError, DataError


def one_line(text: object, most: int = 240) -> str:
    """A text, or an error's, on one line of bounded length."""
    line = " ".join(str(text).split()) or type(text).__name__
    return line if len(line) <= most else f"{line[: most - 3]}..."


def short_repr(value: object) -> str:
    """Any value at all as a message can have it: on one line of at most 50 characters."""
    try:
        return one_line(repr(value), 50)
    except (
        Exception
    ):  # Python prints no int of 4,300 digits, and a user's own class may do anything
        return f"this {type(value).__name__}"


def as_int(value: Any) -> int | None:
    """An integer of Python, NumPy or JAX as an int; None for anything else."""
    if type(value).__name__ in ("bool", "bool_"):  # Python's, or NumPy's, which is not imported
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_int(name: str, value: Any, least: int, most: int | None = None, *, hint: str) -> int:
    """An integer from `least` to `most`, as an int.

    Args:
        name: what it is called in the message.
        value: what a user gave.
        least: the smallest that is good.
        most: the largest; None for no bound.
        hint: the message's last line.

    Raises:
        ConfigError: it is anything else.
    """
    found = as_int(value)
    if found is None or found < least or (most is not None and found > most):
        bounds = f"of at least {least}" if most is None else f"in {least}..{most}"
        raise ConfigError(f"{name} must be an integer {bounds}, not {short_repr(value)}\n{hint}")
    return found


def check_int_field(config: Any, name: str, least: int, most: int | None = None) -> int:
    """A field of a dataclass, such as of a configuration or of flags; see `whole`."""
    return check_int(name, getattr(config, name), least, most, hint=default_hint(config, name))


def default_hint(config: Any, name: str) -> str:
    """What to do about a field that is wrong and has a default."""
    default = type(config).__dataclass_fields__[name].default
    return "Omit it for the default" + ("." if default is None else f", {default}.")


def check_seed(value: Any) -> int:
    """A seed as an int.

    Raises:
        ConfigError: it is not an integer in [0, 2**32).
    """
    return check_int("seed", value, 0, 2**32 - 1, hint="Omit it for the default, 0.")


def check_class_names(names: Any, where: str) -> tuple[str, ...]:
    """Class names as a tuple.

    Raises:
        DataError: they are no list of names of one line each; `where` begins the message.
    """
    # A text is a sequence of texts too: "cat" would be three classes.
    good = isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 0
    if not good or not all(isinstance(n, str) and n.splitlines() == [n] for n in names):
        raise DataError(
            f"{where}: class_names is {short_repr(names)}\n"
            "expected a list of at least one name, each a text of one line\n"
            "Give one name a class, in the order of the labels."
        )
    return tuple(names)


def as_directory(value: Any, name: str) -> Path:
    """A path that a user gave, with `~` as the shell reads it.

    Raises:
        DataError: it is no path, or leads to the home of a user who has none.
    """
    try:
        return Path(os.fspath(value)).expanduser()
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"{name} leads nowhere: {short_repr(value)} ({one_line(error)})\n"
            "expected the path of a directory\nGive another, or leave it out."
        ) from error
