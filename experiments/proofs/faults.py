"""Prove that runs survive: kill them, damage their checkpoints, fill their disk; print the table.

    python -m experiments.proofs.faults      # about half an hour on two CPU cores

Ends with code 1 if a try was not survived. Here are the flags and the table; damage to single
checkpoints is in fault_damages.py, whole runs, which are processes of their own, in fault_runs.py.
"""

import contextlib
import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from tqdm import tqdm

from cgan_jax.checks import check_int_field
from cgan_jax.errors import RunError
from experiments.proofs import fault_damages as damages
from experiments.proofs.fault_runs import N_LIMITS, Runs, Try
from experiments.shared.command_line import fail, parse, run

MODULE = "experiments.proofs.faults"
PACKAGES = ("cgan_jax", "jax", "flax", "orbax-checkpoint", "numpy")

Part = Literal["kill", "flip", "truncate", "delete", "foreign", "all", "disk"]
FAULTS: dict[Part, str] = {
    "kill": "`kill -9` at a random instant",
    "flip": "a bit of a checkpoint's file flipped",
    "truncate": "a checkpoint's file cut short, or to nothing",
    "delete": "a checkpoint's file or folder deleted",
    "foreign": "foreign files among or instead of checkpoints",
    "all": "every checkpoint damaged",
    "disk": "the disk full for one of a run's files",
}
HEADER = "| fault | tries | survived | silently wrong | how |\n| --- | --- | --- | --- | --- |"


@dataclass(frozen=True)
class Flags:
    """Kill runs, damage checkpoints and fill the disk; then see that nothing is silently wrong.

    Runs are real ones on Fashion-MNIST; they must end in the bits of an undisturbed run. Damaged
    checkpoints are those of small networks: each must be detected, with the older one restored, or
    be harmless.

    Examples:
      python -m experiments.proofs.faults
      python -m experiments.proofs.faults --parts flip truncate delete foreign
      python -m experiments.proofs.faults --parts kill --kills 10
    """

    parts: tuple[Part, ...] = get_args(Part)
    """Which faults."""
    kills: int = 100
    """How often a run is killed."""
    flips: int = 200
    """How many bits are flipped, each in a copy of its own."""
    epochs: int = 4
    """Of each run. A run keeps three checkpoints; with more epochs it also drops some."""
    seed: int = 0
    """Of the instants and the places."""
    workdir: Path | None = None
    """Where to work; what was not survived stays there. By default a temporary folder."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""

    def check(self) -> None:
        """Raises ConfigError for a number that is out of range."""
        for name, least in (("kills", 1), ("flips", 1), ("epochs", 3), ("seed", 0)):
            check_int_field(self, name, least)


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    tries: list[Try]
    how: str = ""

    def __str__(self) -> str:
        survived = sum(one.survived for one in self.tries)
        wrong = sum(one.outcome == "silently wrong" for one in self.tries)
        return f"| {self.fault} | {len(self.tries)} | {survived} | {wrong} | {self.how} |"


def rows(flags: Flags, work: Path) -> Iterator[Row]:
    """Try the parts one after another."""
    runs = cache(lambda: Runs(work, flags.epochs, flags.data_dir))
    saved = cache(lambda: damages.save_steps(work / "saved" / "checkpoints"))

    cases: dict[str, Callable[[np.random.Generator], Iterable[damages.Damage]]] = {
        "flip": lambda rng: damages.flips(saved(), rng, flags.flips),
        "truncate": lambda rng: damages.truncations(saved(), rng),
        "delete": lambda rng: damages.deletions(saved()),
        "foreign": lambda rng: damages.foreign_files(saved()),
        "all": lambda rng: damages.total_losses(saved()),
    }

    def tries(part: Part, rng: np.random.Generator) -> Iterator[Try]:
        if part in cases:
            yield from damages.try_damages(saved(), cases[part](rng), work)
        if part == "kill":
            yield from runs().kills(rng, flags.kills)
        if part == "disk":
            yield from runs().full_disks()
        if part == "all":
            yield from runs().lost_checkpoints()

    totals = {"kill": flags.kills, "flip": flags.flips, "disk": N_LIMITS}
    for number, part in enumerate(FAULTS):
        if part in flags.parts:
            rng = np.random.default_rng([flags.seed, number])
            done = list(watched(tries(part, rng), FAULTS[part], totals.get(part)))
            names = [one.what if part in ("kill", "disk") else one.outcome for one in done]
            yield Row(FAULTS[part], done, ", ".join(names) if part == "disk" else counted(names))


def counted(words: Iterable[str]) -> str:
    """How often each occurs, most often first: `7 detected, 2 harmless`."""
    return ", ".join(f"{n} {word}" for word, n in Counter(words).most_common())


def watched(tries: Iterable[Try], what: str, total: int | None) -> Iterator[Try]:
    """A bar with the time left if there are many; a line for each try that was not survived."""
    tqdm.monitor_interval = 0  # its thread would write while output is captured
    every = 0.5 if sys.stderr.isatty() else 30
    for one in tqdm(
        tries, desc=what, total=total, mininterval=every, leave=False, disable=total is None
    ):
        if not one.survived:
            tqdm.write(f"{one.outcome}: {one.what} ({one.why})", file=sys.stderr)
        yield one


def circumstances(flags: Flags) -> str:
    """The date, machine and versions of the table."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, seed {flags.seed}, {platform.system()} "
        f"{platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{versions}."
    )


@contextlib.contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """A new folder: the given one, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="cgan_jax-faults-") as temporary:
            yield Path(temporary)
        return
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be created: {error.strerror}\n"
            "expected a path that does not exist yet\nName a new folder."
        ) from error
    yield folder.absolute()


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    print(HEADER, flush=True)
    tries: list[Try] = []
    with workplace(flags.workdir) as work:
        for row in rows(flags, work):
            print(row, flush=True)
            tries += row.tries
    print(f"\n{circumstances(flags)}")
    failed = sum(not one.survived for one in tries)
    if failed:
        fail(f"{failed} of {len(tries)} tries were not survived", code=1)


if __name__ == "__main__":
    run(main)
