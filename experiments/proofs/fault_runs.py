"""Whole runs of the main command that are killed, meet a full disk or lose their checkpoints.

Damage to single checkpoints, the flags and the table are in faults.py. Runs are processes of
their own.
"""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cgan_jax.errors import RunError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from experiments.proofs.fault_tries import (
    Try,
    Verdict,
    attempt,
    census,
    digest,
    digests,
    expect,
    flip,
    last_lines,
)

ROOT = Path(__file__).parents[2]
COMMAND = "experiments.fashion_cgan"
# Few and large batches: an epoch of 60,000 images in 16 steps, the last of which is smaller.
BATCH_SIZE = 3900
STEPS = -(-60_000 // BATCH_SIZE)
# Every fourth kill waits for an epoch's end: pictures and saves are a small part of a run.
AIMED = 4
# The command under a limit on the size of each file that it writes.
LIMITED = (
    "import os, resource, sys; limit = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
N_LIMITS = 6

_log = logging.getLogger("cgan_jax")


# What does not fit; its name in the error; the limit in bytes; epochs done before; further flags.
Limit = tuple[str, str, int, int, list[str]]


class Runs:
    """Runs of one command in folders beside each other, and one that nothing disturbed.

    Args:
        work: where to make the folders.
        epochs: of each run, at least 3. With 4, the oldest checkpoint is dropped in each.
        data_dir: a directory with the data, or None.
        flags: further flags of each run.

    Raises:
        RunError: the command fails even when nothing disturbs it.
    """

    def __init__(
        self, work: Path, epochs: int = 4, data_dir: Path | None = None, flags: Sequence[str] = ()
    ) -> None:
        self._work, self._epochs, self._undisturbed = work, epochs, work / "undisturbed"
        self._flags = f"--epochs {epochs} --batch-size {BATCH_SIZE}".split()
        self._flags += ["--sample-every", "1", "--checkpoint-every", "1"]
        self._flags += ["--data-dir", str(data_dir.absolute())] if data_dir else []
        self._flags += flags
        self._timeout = 1200.0
        _log.info("First a run of %d epochs that nothing disturbs.", epochs)
        self._run(self._undisturbed, "--dry-run")  # compiles, so that the next is timed without it
        began = time.time()
        done = self._run(self._undisturbed)
        if done.returncode:
            raise RunError(f"the undisturbed run failed: {last_lines(done.stderr)}")
        self._seconds = time.time() - began
        self._timeout = 60 + 10 * self._seconds
        grids = [path.stat().st_mtime for path in (self._undisturbed / "samples").iterdir()]
        self._epoch_seconds = (max(grids) - min(grids)) / (epochs - 1)
        # From the last step until everything is saved.
        trained = (self._undisturbed / "losses.csv").stat().st_mtime
        self._tail_seconds = began + self._seconds - trained
        self._bits = bits(self._undisturbed)

    def kills(self, rng: np.random.Generator, n: int) -> Iterator[Try]:
        """Kill runs n times; after each kill the same command resumes.

        Instants are uniform over what is left of the run, and a little more; so each chain of kills
        ends sooner or later. Its outcome counts for all its kills. Some chains begin with an empty
        folder; others, to save time, late in the undisturbed run.
        """
        left, chain = n, 0
        while left > 0:
            chain += 1
            folder, places, errors = self._work / f"killed-{chain}", list[str](), ""
            if epochs := rng.choice([0, self._epochs - 2, self._epochs - 1]):
                self._rewind(folder, epochs)
            place: str | None = ""
            while len(places) < left and place is not None:
                place, printed = self._kill(folder, rng)
                places += [place] if place else []
                errors += printed
            end = attempt("", partial(self._resume, folder, errors))
            if end.survived:
                shutil.rmtree(folder)
            elif not places:  # the command failed by itself
                places = ["none"]
            left -= len(places)
            tqdm.write(f"chain {chain}: {len(places)} kills, {end.outcome}", file=sys.stderr)
            for place in places:
                yield Try(place, end.outcome, f"chain {chain}: {end.why}")

    def full_disks(self) -> Iterator[Try]:
        """Runs whose files may not grow beyond a limit, which is then lifted."""
        for i, limit in enumerate(self._limits()):
            folder = self._work / f"full-{i}"
            yield self._attempt(limit[0], folder, partial(self._check_full_disk, limit))

    def lost_checkpoints(self) -> Iterator[Try]:
        """Runs without any good checkpoint: the command must refuse, twice, and touch nothing."""

        def flip_bit(step: Path) -> None:
            largest = max(step.rglob("*"), key=lambda path: path.stat().st_size)
            flip(largest, largest.stat().st_size // 2, 0)

        table: list[tuple[str, Callable[[Path], None]]] = [
            ("a run with a flipped bit in each checkpoint", flip_bit),
            ("a run whose folder of checkpoints was emptied", shutil.rmtree),
        ]
        for what, change in table:
            folder = self._work / what.replace(" ", "-")
            yield self._attempt(what, folder, partial(self._check_lost_checkpoints, change))

    def _attempt(self, what: str, folder: Path, check: Callable[[Path], Verdict]) -> Try:
        """Try a fault in a new folder, which stays only if the fault was not survived."""
        result = attempt(what, partial(check, folder))
        if result.survived:
            shutil.rmtree(folder)
        return result

    def _check_full_disk(self, limit: Limit, folder: Path) -> Verdict:
        what, named, size, epochs, flags = limit
        self._rewind(folder, epochs)
        if what == "config.json":  # rewritten only by a run that becomes longer
            saved = json.loads((folder / what).read_text())
            saved["config"]["epochs"] = self._epochs - 1
            (folder / what).write_text(json.dumps(saved, indent=2) + "\n")
        before = census(folder / "checkpoints")
        done = self._run(folder, *flags, limit=size)
        expect(done.returncode, "it ended as if nothing were missing", "silently wrong")
        _expect_refusal(done)
        expect(named in done.stderr, f"{named} is not named: {last_lines(done.stderr)}")
        changed = before - census(folder / "checkpoints")
        expect(not changed, "an earlier checkpoint has changed")
        return self._resume(folder)

    def _check_lost_checkpoints(self, change: Callable[[Path], None], folder: Path) -> Verdict:
        shutil.copytree(self._undisturbed, folder)
        for step in (folder / "checkpoints").iterdir():
            change(step)
        before = census(folder)
        for _ in range(2):
            done = self._run(folder)
            refused = done.returncode and not before - census(folder)
            expect(refused, "the command started over", "silently wrong")
            _expect_refusal(done)
        return "detected", done.stderr

    def _resume(self, folder: Path, errors: str = "") -> Verdict:
        """Run the same command in a folder where `errors` was printed before."""
        done = self._run(folder)
        errors += done.stderr
        failed = done.returncode or "Traceback" in errors or "error:" in errors
        expect(not failed, last_lines(errors))
        different = sorted({name for name, _ in bits(folder).items() ^ self._bits.items()})
        why = f"{len(different)} differ: {', '.join(different[:3])}"
        expect(not different, why, "silently wrong")
        return "same bits", ""

    def _kill(self, folder: Path, rng: np.random.Generator) -> tuple[str | None, str]:
        """Start the command and kill it: where it was, None if it ended before; and its errors."""
        saved, began = _saved_epochs(folder), time.time()
        if saved < self._epochs and rng.integers(AIMED) == 0:
            reached, span = partial(_trained, folder, saved + 1, began), self._tail_seconds
        else:
            reached, span = None, self._seconds - saved * self._epoch_seconds
        done = self._run(folder, wait_for=reached, seconds=rng.uniform(0, 1.05 * span))
        killed = done.returncode == -signal.SIGKILL
        return (_place(folder, saved, began) if killed else None), done.stderr

    def _run(
        self,
        folder: Path,
        *flags: str,
        limit: int | None = None,
        wait_for: Callable[[], bool] | None = None,
        seconds: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The command until its end, or until it is killed, some seconds after a condition holds.

        Its errors go to a pipe, which no limit concerns.
        """
        words = [] if limit is None else ["-c", LIMITED, str(limit)]
        words += ["-m", COMMAND, "--workdir", str(folder), *self._flags, *flags]
        with subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while wait_for and process.poll() is None and not wait_for():
                time.sleep(0.01)
            try:
                _, errors = process.communicate(timeout=seconds or self._timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                _, errors = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, stderr=errors)

    def _limits(self) -> Iterator[Limit]:
        whole, last = self._undisturbed, self._epochs - 1
        table = (whole / "losses.csv").read_text().splitlines(keepends=True)
        rows = sum(map(len, table[: 1 + last * STEPS]))
        plot = (whole / "losses.png").stat().st_size
        grids = [path.stat().st_size for path in (whole / "samples").iterdir()]
        yield "config.json", "config.json", 200, last, []
        yield "losses.csv", "losses.csv", rows + 100, last, []
        yield "losses.png", "losses.png", (rows + plot) // 2, last, []
        yield "a sample grid", "epoch_", (plot + min(grids)) // 2, last, []
        # The second epoch's grid is one too many. Until then nothing larger is written.
        yield "events", "events", max(grids) * 3 // 2, last - 1, ["--checkpoint-every", "1000"]
        # Orbax spreads a checkpoint over files as it likes, but an array is in one of them.
        yield "a checkpoint", "checkpoint of step", max(grids) * 2, last, []

    def _rewind(self, folder: Path, epochs: int) -> None:
        """A copy of the undisturbed run's folder as it was after some epochs."""
        shutil.copytree(self._undisturbed, folder)
        for step in (folder / "checkpoints").iterdir():
            if int(step.name) > epochs * STEPS:
                shutil.rmtree(step)
        for epoch in range(epochs + 1, self._epochs + 1):
            (folder / f"samples/epoch_{epoch:04d}.png").unlink()
        (folder / "losses.png").unlink()


def bits(folder: Path) -> dict[str, str]:
    """Digests of what must be the same however often a run was disturbed.

    The newest checkpoint's arrays, the table of losses, and the pictures.

    Raises:
        RunError: the folder holds no run that can be read.
    """
    _, state = restore_run(RunFolder.open(folder))
    files = folder / "losses.csv", *folder.glob("*.png"), *folder.glob("samples/*")
    names = {str(file.relative_to(folder)): digest(file.read_bytes()) for file in files}
    return digests(state) | names


def _expect_refusal(done: subprocess.CompletedProcess[str]) -> None:
    """Expected are notices, then an error of at most 3 lines."""
    lines, printed = done.stderr.splitlines(), last_lines(done.stderr)
    begins = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    expect(done.returncode > 0, f"ended by signal {-done.returncode}: {printed}")
    expect(begins and "Traceback" not in done.stderr, f"no plain error: {printed}")
    brief = begins[0] <= 3 and len(lines) - begins[0] <= 3
    expect(brief, f"{len(lines)} lines on the screen: {printed}")


def _place(folder: Path, saved_before: int, began: float) -> str:
    """What a run was doing when it was killed, by its folder and the epochs saved at its start."""
    temporary = (folder / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    if any(path.stat().st_mtime >= began for path in temporary):
        return "saves"
    if not _trained(folder, saved_before, began) or _rows(folder) == saved_before * STEPS:
        return "start-up"
    epochs, batch = divmod(_rows(folder), STEPS)
    return "pictures" if batch == 0 and epochs > _saved_epochs(folder) else "steps"


def _trained(folder: Path, epochs: int, began: float) -> bool:
    """Whether the process that began then has trained up to that many epochs."""
    losses = folder / "losses.csv"
    is_new = losses.exists() and losses.stat().st_mtime >= began
    return is_new and _rows(folder) >= epochs * STEPS


def _rows(folder: Path) -> int:
    path = folder / "losses.csv"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def _saved_epochs(folder: Path) -> int:
    names = (path.name for path in (folder / "checkpoints").glob("*"))
    return max((int(name) // STEPS for name in names if name.isdigit()), default=0)
