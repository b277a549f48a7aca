"""The table of a run's measures, `measures.csv`: a row each time, in the order of the epochs."""

import csv
from collections.abc import Sequence
from pathlib import Path

from cgan_jax.checks import one_line
from cgan_jax.errors import RunError
from cgan_jax.files import atomic_write
from cgan_jax.runs.folder import RunFolder

INDEX_COLUMNS = ("epoch", "step")  # the first columns, which say when the measures were taken
Row = dict[str, float]


def measures_at(run: RunFolder, step: int) -> Row | None:
    """The row of `measures.csv` after so many steps, if it is the last."""
    rows = read_measures(run.measures) if run.measures.exists() else []
    return rows[-1] if rows and rows[-1]["step"] == step else None


def read_measures(path: Path) -> list[Row]:
    """The rows of a `measures.csv`: numbers by name, `epoch` and `step` among them.

    Raises:
        RunError: the file cannot be read, or a row is not numbers.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        if rows and not set(INDEX_COLUMNS) <= rows[0].keys():
            raise ValueError("it has other columns")
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise RunError(
            f"{path} cannot be read: {one_line(error)}\nexpected rows of epoch, step and measures\n"
            "Move it away; then the same command goes on, with the rows from there on."
        ) from error
    return rows


def write_measures(path: Path, rows: Sequence[Row]) -> None:
    """Put these rows in place of those that a `measures.csv` has."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        if rows:
            file.write(",".join(rows[0]) + "\n")
        file.writelines(",".join(f"{value:.9g}" for value in row.values()) + "\n" for row in rows)


def format_figure(value: float | None) -> str:
    """A figure with three or four digits that tell; nothing for None."""
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:#.3g}"
