"""Prove that runs survive: kill them, damage their checkpoints, fill their disk; print the table.

    python -m experiments.proofs.faults      # about half an hour on two CPU cores

Ends with code 1 if a try was not survived. Here are the flags and the table; damage to single
checkpoints is in fault_damages.py, whole runs, which are processes of their own, in fault_runs.py.
"""

import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from tqdm import tqdm

from cgan_jax.checks import Count, Range, errors_as
from cgan_jax.errors import RunError
from experiments.proofs.fault_tries import Try
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
    kills: Count = 100
    """How often a run is killed."""
    flips: Count = 200
    """How many bits are flipped, each in a copy of its own."""
    epochs: Annotated[int, Range(3)] = 4
    """Of each run. A run keeps three checkpoints; with more epochs it also drops some."""
    seed: Annotated[int, Range(0)] = 0
    """Of the instants and the places."""
    workdir: Path | None = None
    """Where to work; what was not survived stays there. By default a temporary folder."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""


def tries(flags: Flags, work: Path) -> Iterator[tuple[Part, Iterator[Try], int | None]]:
    """The tries of each part, and their number if it is known."""
    from experiments.proofs import fault_damages as damages
    from experiments.proofs.fault_runs import N_LIMITS, Runs

    runs = cache(lambda: Runs(work, flags.epochs, flags.data_dir))
    steps = work / "saved" / "checkpoints"
    saved = cache(lambda: damages.save_steps(steps, damages.train_states()))
    totals = {"kill": flags.kills, "flip": flags.flips, "disk": N_LIMITS}
    cases: dict[str, Callable[..., Iterator[damages.Damage]]] = {
        "flip": partial(damages.flips, n=flags.flips),
        "truncate": damages.truncations,
        "delete": damages.deletions,
        "foreign": damages.foreign_files,
        "all": damages.total_losses,
    }

    def tries_of(part: Part, rng: np.random.Generator) -> Iterator[Try]:
        if part == "kill":
            return runs().kills(rng, flags.kills)
        if part == "disk":
            return runs().full_disks()
        done = damages.try_damages(saved(), cases[part](saved(), rng), work)
        return chain(done, runs().lost_checkpoints()) if part == "all" else done

    for number, part in enumerate(FAULTS):
        if part in flags.parts:
            rng = np.random.default_rng([flags.seed, number])
            yield part, tries_of(part, rng), totals.get(part)


def row(part: Part, tries: Sequence[Try]) -> str:
    """A line of the table."""
    survived = sum(one.survived for one in tries)
    wrong = sum(one.outcome == "silently wrong" for one in tries)
    names = [one.what if part in ("kill", "disk") else one.outcome for one in tries]
    how = ", ".join(names) if part == "disk" else counted(names)
    return f"| {FAULTS[part]} | {len(tries)} | {survived} | {wrong} | {how} |"


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


def new_folder(path: Path) -> Path:
    """Create a folder. Raises RunError if it cannot be."""
    then = "expected a path that does not exist yet\nName a new folder."
    with errors_as(RunError, f"{path} cannot be created", then, OSError):
        path.mkdir(parents=True)
    return path.absolute()


def main() -> None:
    flags = parse(Flags, MODULE)
    print(HEADER, flush=True)
    done: list[Try] = []
    with tempfile.TemporaryDirectory(prefix="cgan_jax-faults-") as temporary:
        work = new_folder(flags.workdir) if flags.workdir else Path(temporary)
        for part, tries_of_part, total in tries(flags, work):
            part_done = list(watched(tries_of_part, FAULTS[part], total))
            print(row(part, part_done), flush=True)
            done += part_done
    print(f"\n{circumstances(flags)}")
    if failed := sum(not one.survived for one in done):
        fail(f"{failed} of {len(done)} tries were not survived", code=1)


if __name__ == "__main__":
    run(main)
