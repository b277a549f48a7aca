"""The order of class names, and which of them are too much alike."""

from collections.abc import Iterable, Sequence

from cgan_jax.checks import first_names, normalize_name, plural
from cgan_jax.errors import DataError


def in_order(names: Iterable[str]) -> list[str]:
    """Class names sorted by name, or by number if all names are numbers."""
    names = sorted(names)
    if all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name), name))
    return names


def check_different(names: Sequence[str], where: str) -> None:
    """Raise a DataError, which begins with `where`, for names that differ in case or spaces alone.

    A command takes "coat" for "Coat", so one of two such classes could not be asked for.
    """
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        plain = normalize_name(name)
        if plain in first:
            pairs.append(f"{first[plain]!r} and {name!r}")
        first.setdefault(plain, name)
    if pairs:
        raise DataError(
            f"{where}: {plural(len(pairs), 'class has', 'classes have')} the name of another: "
            f"{first_names(pairs)}\nexpected names that differ in more than case and spaces\n"
            "Rename one, or merge them."
        )
