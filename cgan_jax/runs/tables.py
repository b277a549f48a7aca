"""A run's tables: `losses.csv`, with one row per step, `measures.csv` and `classes.csv`."""

import contextlib
import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cgan_jax.checks import errors_as
from cgan_jax.errors import RunError
from cgan_jax.files import atomic_write, write_errors, write_text

LOSSES_HEADER = "epoch,batch,d_loss,g_loss"
CLASSES_HEADER = ("class", "images")
INDEX_COLUMNS = ("epoch", "step")  # of measures.csv: when the measures were taken
Row = dict[str, float]
_log = logging.getLogger("cgan_jax")


def append_losses(path: Path, epoch: int, batch: int, losses: np.ndarray) -> None:
    """Add one row per step to a `losses.csv`.

    Args:
        path: the file.
        epoch: counted from 0, as in the report.
        batch: the first step's place in its epoch, from 0.
        losses: float32 `[n, 2]`: d_loss and g_loss.
    """
    rows = (f"{epoch},{batch + i},{d:.9g},{g:.9g}\n" for i, (d, g) in enumerate(losses.tolist()))
    with write_errors(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(rows))


def read_losses(path: Path) -> np.ndarray:
    """The d_loss and g_loss columns of a `losses.csv`, float64 `[steps, 2]`."""
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=(2, 3), ndmin=2)


def rewind_losses(path: Path, step: int, steps_per_epoch: int) -> None:
    """Make a `losses.csv` hold the rows of the first `step` steps, ready for the next one's.

    Rows after that were written by a run that ended before it saved again.

    Raises:
        RunError: the file cannot be read or written, or its rows are not four numbers each.
    """
    rows: list[str] = []
    with _read_errors(path, LOSSES_HEADER.replace(",", ", ")):
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
            rows = lines[:step]
            if len(rows) < step:  # it lacks some, so a row's number does not tell its step
                rows = [row for row in lines if _step(row, steps_per_epoch) < step]
        if rows and np.loadtxt(rows, delimiter=",", ndmin=2).shape != (len(rows), 4):
            raise ValueError("it has other columns")
    if len(rows) < step:
        _log.warning("%s lacks rows: it has %d of %d", path, len(rows), step)
    write_text(path, "".join([LOSSES_HEADER + "\n", *rows]))


def _step(row: str, steps_per_epoch: int) -> int:
    epoch, batch, *_ = row.split(",")
    return int(epoch) * steps_per_epoch + int(batch)


def read_measures(path: Path) -> list[Row]:
    """The rows of a `measures.csv`: numbers by name, `epoch` and `step` among them.

    Without the file there are none.

    Raises:
        RunError: the file cannot be read, or a row is not numbers.
    """
    if not path.exists():
        return []
    with (
        _read_errors(path, "epoch, step and measures"),
        path.open(encoding="utf-8", newline="") as file,
    ):
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        if rows and not set(INDEX_COLUMNS) <= rows[0].keys():
            raise ValueError("it has other columns")
    return rows


def write_measures(path: Path, rows: Sequence[Row]) -> None:
    """Replace the rows of a `measures.csv`; a measure that a row lacks is NaN there."""
    names = list(dict.fromkeys(name for row in reversed(rows) for name in row))
    lines = [[f"{row.get(name, np.nan):.9g}" for name in names] for row in rows]
    table = [names, *lines] if rows else []
    write_text(path, "".join(",".join(line) + "\n" for line in table))


def write_class_counts(path: Path, class_names: Sequence[str], counts: Sequence[int]) -> None:
    """Write a `classes.csv`, with one row per class: its name and how many images it has."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([CLASSES_HEADER, *zip(class_names, counts, strict=True)])


def read_class_counts(path: Path, class_names: Sequence[str]) -> list[int] | None:
    """The numbers in a `classes.csv`, in the order of the classes; None without the file.

    Raises:
        RunError: the file cannot be read, or has other classes.
    """
    if not path.exists():
        return None
    then = "expected the run's classes and their numbers of images\nMove it away."
    with (
        errors_as(RunError, f"{path} cannot be read", then),
        path.open(encoding="utf-8", newline="") as file,
    ):
        header, *rows = csv.reader(file)
        if tuple(header) != CLASSES_HEADER or [name for name, _ in rows] != list(class_names):
            raise ValueError("it has other rows")
        return [int(n) for _, n in rows]


def format_figure(value: float | None) -> str:
    """Format to three or four significant digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:#.3g}"


def _read_errors(path: Path, columns: str) -> contextlib.AbstractContextManager[None]:
    then = (
        f"expected rows of {columns}\nMove it away, then resume the run: the table restarts there."
    )
    return errors_as(RunError, f"{path} cannot be read", then)
