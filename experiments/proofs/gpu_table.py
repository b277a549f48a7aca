"""The GPU campaign's table, and its file: what was measured, the goal, and whether it was met."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cgan_jax.checks import errors_as
from cgan_jax.errors import RunError
from cgan_jax.files import write_json

HEADER = f"{'':<56} {'measured':>10} {'':<9} {'goal':<17} met"
ANOTHER = "Name another file with --json."


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        what: what was measured.
        value: None where it cannot be known.
        unit: of the value.
        at_most: the goal, if it is an upper bound.
        at_least: the goal, if it is a lower bound.
    """

    what: str
    value: float | None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None where there is none. NaN meets no goal."""
        if self.at_most is None and self.at_least is None:
            return None
        if self.value is None:
            return False
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.at_least is not None and self.value >= self.at_least

    def __str__(self) -> str:
        value = "-" if self.value is None else f"{self.value:.4g}"
        goal = "" if self.at_most is None else f"at most {self.at_most:g}"
        goal = goal if self.at_least is None else f"at least {self.at_least:g}"
        verdict = {None: "", True: "yes", False: "NO"}[self.met]
        return f"{self.what:<56} {value:>10} {self.unit:<9} {goal:<17} {verdict}".rstrip()


class Outcome(NamedTuple):
    """What a part has measured.

    Attributes:
        rows: lines of the table.
        details: further figures for the file.
        failed: what could not be measured, and why.
    """

    rows: Sequence[Row]
    details: Mapping[str, Any] = {}
    failed: Mapping[str, str] = {}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [row._asdict() | {"met": row.met} for row in self.rows]
        return {"rows": rows, "details": dict(self.details)}


def read(file: Path, *, tiny: bool) -> dict[str, Any]:
    """The parts that a file holds, by name; none if there is no file.

    Raises:
        RunError: it cannot be read, or holds a rehearsal's figures, or real ones for a rehearsal.
    """
    if not file.exists():
        return {}
    other = f"expected the figures of an earlier call\n{ANOTHER}"
    with errors_as(RunError, f"{file} cannot be read", other, (OSError, ValueError, LookupError)):
        saved = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(saved, dict) or not isinstance(saved["parts"], dict):
            raise ValueError("it has no parts")
        is_tiny, parts = bool(saved["tiny"]), saved["parts"]
    if is_tiny != tiny:
        raise RunError(
            f"{file} holds the figures of a {'rehearsal' if is_tiny else 'real campaign'}\n"
            f"expected those of a {'rehearsal' if tiny else 'real campaign'}\n{ANOTHER}"
        )
    return parts


def write(file: Path, parts: Mapping[str, Any], *, tiny: bool) -> None:
    """Write all parts."""
    write_json(file, {"tiny": tiny, "parts": parts})
