"""Checks of single values that several modules need, and how messages show a value or an error.

A setting's range is a part of its type, beside the setting. Imports neither JAX nor NumPy.
"""

import contextlib
import difflib
import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from numbers import Real
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from cgan_jax.errors import CGANError, ConfigError, DataError

ImageSize = int | tuple[int, int]
"""Height and width of images in pixels, both in one integer where they are equal."""


class Range(NamedTuple):
    """The range of a field's numbers, as a part of its type: see `check_fields`.

    Attributes:
        low: the smallest.
        high: the largest.
        words: the range of a float in words.
    """

    low: float
    high: float = math.inf
    words: str = ""

    def __repr__(self) -> str:
        """In the API reference, whose signatures have it."""
        number = (
            f"of at least {self.low}" if math.isinf(self.high) else f"in {self.low}..{self.high}"
        )
        return self.words or number


Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Widths = Annotated[tuple[int, ...], Range(1)]
Positive = Annotated[float, Range(math.nextafter(0, 1), words="above 0")]
NotNegative = Annotated[float, Range(0, words="of at least 0")]
BelowOne = Annotated[float, Range(0, math.nextafter(1, 0), "in [0, 1)")]


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


def as_img_size(value: Any) -> ImageSize | None:
    """A height and a width above 0, or an integer for both; None for anything else.

    A pair may be a list, as in JSON, and becomes an integer if both are equal.
    """
    pair = value if isinstance(value, tuple | list) else (value, value)
    sides = [as_int(side) or 0 for side in pair]
    if len(sides) != 2 or min(sides) < 1:
        return None
    height, width = sides
    return height if height == width else (height, width)


def check_img_size(value: Any, hint: str) -> ImageSize:
    """A size of images, from an integer or a pair.

    Raises:
        ConfigError: anything else; `hint` is the last line of the message.
    """
    size = as_img_size(value)
    if size is None:
        raise ConfigError(
            "img_size must be an integer of at least 1, or two of them, (height, width), "
            f"not {short_repr(value)}\n{hint}"
        )
    return size


def height_and_width(img_size: ImageSize) -> tuple[int, int]:
    """Both sides of a size of images."""
    return img_size if isinstance(img_size, tuple) else (img_size, img_size)


def size_text(img_size: ImageSize) -> str:
    """A size of images as flags and messages have it: "28", or "64x48", height first."""
    sides = img_size if isinstance(img_size, tuple) else (img_size,)
    return "x".join(map(short_repr, sides))


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


def normalize_name(name: str) -> str:
    """A class name by which it is compared: neither case nor the number of spaces matters."""
    return " ".join(name.split()).casefold()


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


def all_finite(array: Any, numpy: Any) -> Any:
    """Whether an array has no NaN and no infinite number; a scalar may be infinite.

    Such a scalar is the lowest loss so far, before the first, in the state of an optimizer that
    waits for a plateau.

    Args:
        array: of any shape and dtype.
        numpy: the module that computes it, `numpy` or `jax.numpy`.
    """
    return numpy.isfinite(array).all() if array.ndim else ~numpy.isnan(array)


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


def check_fields(config: Any) -> None:
    """Check the fields of a frozen dataclass by their types, and make their values fit for JSON.

    Integers of NumPy become Python's, other numbers floats, lists tuples. Fields of other types
    than `bool`, `Literal`, `ImageSize` and those that are annotated with a `Range` stay as they
    are, and so does None in an optional field.

    Raises:
        ConfigError: a value is of another type, or out of range.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for name in (field.name for field in fields(config)):
        kind, bounds, is_optional = _unwrapped(hints[name])
        if not (is_optional and getattr(config, name) is None):
            object.__setattr__(config, name, _checked(config, name, kind, bounds))


def _unwrapped(hint: Any) -> tuple[Any, Range | None, bool]:
    """A type without annotations and None; the range in them; and whether it had None."""
    bounds, is_optional = None, False
    while True:
        first, *others = get_args(hint) or (None,)
        if get_origin(hint) is Annotated:
            bounds = next((note for note in others if isinstance(note, Range)), bounds)
        elif NoneType in others:
            is_optional = True
        else:
            return hint, bounds, is_optional
        hint = first


def _checked(config: Any, name: str, kind: Any, bounds: Range | None) -> Any:
    """The value of a field as `check_fields` leaves it."""
    value = getattr(config, name)
    if bounds and kind is int:
        high = int(bounds.high) if math.isfinite(bounds.high) else None
        return check_int_field(config, name, int(bounds.low), high)
    if bounds and kind is float:
        return _check_number(config, name, bounds)
    if bounds:
        widths = tuple(as_int(w) or 0 for w in value) if isinstance(value, tuple | list) else ()
        if not widths or min(widths) < bounds.low:
            raise wrong_field(config, name, "integers above 0")
        return widths
    if kind == ImageSize:
        return check_img_size(value, default_hint(config, name))
    if kind is bool and not isinstance(value, bool):
        raise wrong_field(config, name, "True or False")
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        of_its_type = isinstance(value, type(choices[0])) and not isinstance(value, bool)
        if not of_its_type or value not in choices:
            names = [str(choice) for choice in choices]
            near = did_you_mean(value, names)
            raise wrong_field(config, name, f"one of {', '.join(names)}", near)
    return value


def _check_number(config: Any, name: str, bounds: Range) -> float:
    given = getattr(config, name)
    try:
        value = float(given) if isinstance(given, Real) and not isinstance(given, bool) else None
    except OverflowError:
        value = math.inf
    if value is None or not (bounds.low <= value <= bounds.high and math.isfinite(value)):
        raise wrong_field(config, name, f"a finite number {bounds.words}")
    return value


def wrong_field(config: Any, name: str, expected: str, more: str = "") -> ConfigError:
    """The error about a field of a dataclass; `more` follows the wrong value."""
    what = f"{name} must be {expected}, not {short_repr(getattr(config, name))}{more}"
    return ConfigError(f"{what}\n{default_hint(config, name)}")


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, if one is near."""
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""
