"""Checks of single values that several modules need, and how messages show a value or an error.

The range of a setting is defined beside the setting. Imports neither JAX nor NumPy.
"""

import contextlib
import difflib
import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, get_args

from cgan_jax.errors import CGANError, ConfigError, DataError


def one_line(text: object, limit: int = 240) -> str:
    """A text, or the text of an error, on one line of at most `limit` characters."""
    line = " ".join(str(text).split()) or type(text).__name__
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


@contextlib.contextmanager
def errors_as(
    kind: type[CGANError],
    what: str,
    then: str,
    of: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Iterator[None]:
    """Turn the errors of other libraries in the `with` statement into ours.

    Args:
        kind: the error to raise.
        what: the beginning of its message; the text of the other error follows.
        then: the rest: what was expected, and what to do.
        of: the errors to turn.

    Raises:
        CGANError: of that kind; the library's own errors pass.
    """
    try:
        yield
    except CGANError:
        raise
    except of as error:
        reason: object = error
        if isinstance(error, OSError) and str(error.filename or "") in what:
            reason = error.strerror or error  # without the file's name once more
        raise kind(f"{what}: {one_line(reason)}\n{then}") from error


def short_repr(value: object) -> str:
    """The repr of any value for a message: on one line of at most 50 characters."""
    try:
        return one_line(repr(value), 50)
    # Python refuses to print an int of 4,300 digits, and a user's class may raise anything.
    except Exception:
        return f"this {type(value).__name__}"


def plural(n: int, noun: str, plural_noun: str | None = None) -> str:
    """A number with its noun: "1 image", "2,000 images"; pass an irregular plural."""
    return f"{n:,} {noun if n == 1 else plural_noun or f'{noun}s'}"


def first_names(names: Sequence[str], n: int = 5) -> str:
    """The first n of some names for a message, and the number of others: "a, b and 3 more"."""
    text = ", ".join(one_line(name, 120) for name in names[:n])
    return text if len(names) <= n else f"{text} and {len(names) - n:,} more"


def with_article(noun: str) -> str:
    """A noun with "a" or "an", by its first letter: "an int", "a dict"."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def as_int(value: Any) -> int | None:
    """An integer of Python, NumPy or JAX as an int; None for anything else."""
    if type(value).__name__ in ("bool", "bool_"):  # Python's, or NumPy's, which is not imported
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_int(name: str, value: Any, low: int, high: int | None = None, *, hint: str) -> int:
    """An integer from `low` to `high`, as an int.

    Args:
        name: its name in the message.
        value: what a user passed.
        low: the smallest allowed value.
        high: the largest allowed value; None for no bound.
        hint: the last line of the message.

    Raises:
        ConfigError: not an integer, or out of range.
    """
    number = as_int(value)
    if number is None or number < low or (high is not None and number > high):
        bounds = f"of at least {low}" if high is None else f"in {low}..{high}"
        raise ConfigError(f"{name} must be an integer {bounds}, not {short_repr(value)}\n{hint}")
    return number


def check_int_field(config: Any, name: str, low: int, high: int | None = None) -> int:
    """A field of a dataclass, such as of a configuration or of flags; see `check_int`."""
    return check_int(name, getattr(config, name), low, high, hint=default_hint(config, name))


def default_hint(config: Any, name: str) -> str:
    """What to do about a wrong value of a field that has a default."""
    default = type(config).__dataclass_fields__[name].default
    return "Omit it for the default" + ("." if default is None else f", {default}.")


def check_seed(value: Any) -> int:
    """A seed as an int.

    Raises:
        ConfigError: not an integer in [0, 2**32).
    """
    return check_int("seed", value, 0, 2**32 - 1, hint="Omit it for the default, 0.")


def check_class_names(names: Any, where: str) -> tuple[str, ...]:
    """Class names as a tuple.

    Raises:
        DataError: not a list of at least one name, or a name is not one line of valid Unicode;
            `where` begins the message.
    """
    # A string is a sequence of strings too: "cat" would be three classes.
    is_list = isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 0
    if not is_list or not all(isinstance(n, str) and n.splitlines() == [n] for n in names):
        raise DataError(
            f"{where}: class_names is {short_repr(names)}\n"
            "expected a list of at least one name, each a string of one line\n"
            "Give one name per class, in the order of the labels."
        )
    for name in names:
        check_encodable(name, f"{where}: the class name")
    return tuple(names)


def check_encodable(text: str, what: str) -> None:
    """Raise a DataError, which begins with `what`, for text that cannot be written as UTF-8.

    Python reads a file name that is not valid UTF-8 as text with lone surrogates, which no output
    file, log or terminal accepts.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        escaped = one_line(text.encode(errors="backslashreplace").decode(), 480)
        raise DataError(
            f"{what} {escaped} cannot be written as UTF-8\nexpected valid Unicode\nRename it."
        ) from error


def as_path(value: Any, name: str) -> Path:
    """The path of a file or folder that a user passed, with a leading `~` expanded.

    Raises:
        DataError: not a path, in the home of a user who has none, or not valid UTF-8; `name`
            begins the message.
    """
    try:
        path = Path(os.fspath(value)).expanduser()
        if "\0" in str(path):
            raise ValueError("it has a null character")
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} is not a usable path: {short_repr(value)} ({one_line(error)})\n"
            "expected the path of a file or folder\nGive another, or omit it."
        ) from error
    check_encodable(str(path), f"{name}: the path")
    return path


def normalize_int(config: Any, name: str, at_least: int, at_most: int | None = None) -> None:
    """Make a field of a frozen dataclass a Python int; NumPy's integers have no place in JSON.

    Raises:
        ConfigError: not an integer, or out of range.
    """
    object.__setattr__(config, name, check_int_field(config, name, at_least, at_most))


def normalize_number(config: Any, name: str, low: float, high: float, bounds: str) -> None:
    """Make a field of a frozen dataclass a finite float.

    Args:
        config: the dataclass.
        name: the field.
        low: the smallest allowed value.
        high: the largest allowed value.
        bounds: the same in words.

    Raises:
        ConfigError: not a finite number from `low` to `high`.
    """
    given = getattr(config, name)
    try:
        value = float(given) if isinstance(given, Real) and not isinstance(given, bool) else None
    except OverflowError:
        value = math.inf
    if value is None or not (low <= value <= high and math.isfinite(value)):
        raise ConfigError(
            f"{name} must be a finite number {bounds}, not {short_repr(given)}\n"
            f"{default_hint(config, name)}"
        )
    object.__setattr__(config, name, value)


def normalize_widths(config: Any, name: str) -> None:
    """Make a field of a frozen dataclass a tuple of sizes; JSON has lists.

    Raises:
        ConfigError: not a list of at least one integer above 0.
    """
    given = getattr(config, name)
    widths = tuple(as_int(w) or 0 for w in given) if isinstance(given, tuple | list) else ()
    if not widths or min(widths) < 1:
        raise ConfigError(
            f"{name} must be integers above 0, not {short_repr(given)}\n"
            f"{default_hint(config, name)}"
        )
    object.__setattr__(config, name, widths)


def normalize_choice(config: Any, name: str, literal: Any) -> None:
    """Check a field of a dataclass against a `Literal`.

    Raises:
        ConfigError: none of the literal's values.
    """
    choices, given = get_args(literal), getattr(config, name)
    if not isinstance(given, str) or given not in choices:
        raise ConfigError(
            f"{name} must be one of {', '.join(choices)}, not {short_repr(given)}"
            f"{did_you_mean(given, choices)}\n{default_hint(config, name)}"
        )


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, if one is near."""
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""
