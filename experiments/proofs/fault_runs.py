"""Whole runs of the main command that are killed, meet a full disk or lose their checkpoints.

Damage to single checkpoints, the flags and the table are in faults.py. JAX is imported only where
a checkpoint is read, and runs are processes of their own.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from cgan_jax.errors import RunError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import LOCK_FILES
from cgan_jax.runs.restore import restore_run

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

Outcome = Literal["same bits", "detected", "harmless", "silently wrong", "crashed"]


class Try(NamedTuple):
    """A fault, and its outcome."""

    what: str
    outcome: Outcome
    why: str = ""

    @property
    def survived(self) -> bool:
        return self.outcome in ("same bits", "detected", "harmless")


class Pace(NamedTuple):
    """Seconds that an undisturbed run takes."""

    start: float  # to its first step
    epoch: float  # pictures and checkpoint included
    tail: float  # from an epoch's last step until its checkpoint is there


class Runs:
    """Runs of one command in folders beside each other, and one that nothing disturbed.

    Args:
        work: where to make the folders.
        epochs: of each run, at least 3. With 4, the oldest checkpoint is dropped in each.
        data_dir: a directory with the data, or None.

    Raises:
        RunError: the command fails even when nothing disturbs it.
    """

    def __init__(self, work: Path, epochs: int = 4, data_dir: Path | None = None) -> None:
        self._work, self._epochs = work, epochs
        self._flags = f"--epochs {epochs} --batch-size {BATCH_SIZE}".split()
        self._flags += ["--sample-every", "1", "--checkpoint-every", "1"]
        self._flags += ["--data-dir", str(data_dir.absolute())] if data_dir else []
        self._undisturbed = work / "undisturbed"
        self._timeout = 1200.0
        _log.info("First a run of %d epochs that nothing disturbs.", epochs)
        self._run(self._undisturbed, "--dry-run")  # compiles, so that the next is timed without it
        self._pace = self._time_undisturbed()
        self._timeout = 60 + 10 * (self._pace.start + epochs * self._pace.epoch)
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
            folder, places = self._work / f"killed-{chain}", list[str]()
            if epochs := rng.choice([0, self._epochs - 2, self._epochs - 1]):
                self._rewind(folder, epochs)
            with (self._work / f"killed-{chain}.txt").open("w+") as errors:
                while len(places) < left and (place := self._kill(folder, rng, errors)) is not None:
                    places.append(place)
                errors.seek(0)
                outcome, why = self._resume(folder, errors.read())
            if outcome == "same bits":
                shutil.rmtree(folder)
            elif not places:  # the command failed by itself
                places = ["none"]
            left -= len(places)
            tqdm.write(f"chain {chain}: {len(places)} kills, {outcome}", file=sys.stderr)
            yield from (Try(place, outcome, f"chain {chain}: {why}") for place in places)

    def full_disks(self) -> Iterator[Try]:
        """Runs whose files may not grow beyond a limit, which is then lifted."""
        for i, (what, named, limit, epochs, flags) in enumerate(self._limits()):
            folder = self._work / f"full-{i}"
            self._rewind(folder, epochs)
            if what == "config.json":  # rewritten only by a run that becomes longer
                saved = json.loads((folder / what).read_text())
                saved["config"]["epochs"] = self._epochs - 1
                (folder / what).write_text(json.dumps(saved, indent=2) + "\n")
            before = census(folder / "checkpoints")
            done = self._run(folder, *flags, limit=limit)
            fault = _fault(done)
            if not fault and named not in done.stderr:
                fault = f"{named} is not named: {one_line(done.stderr)}"
            if not fault and before - census(folder / "checkpoints"):
                fault = "an earlier checkpoint has changed"
            if done.returncode == 0:
                yield Try(what, "silently wrong", "it ended as if nothing were missing")
            elif fault:
                yield Try(what, "crashed", fault)
            else:
                yield (resumed := Try(what, *self._resume(folder)))
                if resumed.survived:
                    shutil.rmtree(folder)

    def lost_checkpoints(self) -> Iterator[Try]:
        """Runs without any good checkpoint: the command must refuse, twice, and touch nothing."""
        for what in (
            "a run with a flipped bit in each checkpoint",
            "a run whose folder of checkpoints was emptied",
        ):
            folder = self._work / what.replace(" ", "-")
            shutil.copytree(self._undisturbed, folder)
            for step in (folder / "checkpoints").iterdir():
                if "emptied" in what:
                    shutil.rmtree(step)
                else:
                    largest = max(step.rglob("*"), key=lambda path: path.stat().st_size)
                    flip(largest, largest.stat().st_size // 2, 0)
            before = census(folder)
            refusals = [self._run(folder) for _ in range(2)]
            faults = [fault for fault in map(_fault, refusals) if fault]
            if before - census(folder) or not all(done.returncode for done in refusals):
                yield Try(what, "silently wrong", "the command started over")
            elif faults:
                yield Try(what, "crashed", faults[0])
            else:
                yield Try(what, "detected", refusals[-1].stderr)
                shutil.rmtree(folder)

    def _words(self, folder: Path) -> list[str]:
        return [sys.executable, "-m", COMMAND, "--workdir", str(folder), *self._flags]

    def _run(
        self, folder: Path, *flags: str, limit: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command until its end. Its lines go to a pipe, which no limit concerns."""
        words = [*self._words(folder), *flags]
        if limit is not None:
            words[1:1] = ["-c", LIMITED, str(limit)]
        try:
            return subprocess.run(
                words, cwd=ROOT, capture_output=True, text=True, timeout=self._timeout
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(words, -1, "", "error: it does not end")

    def _resume(self, folder: Path, errors: str = "") -> tuple[Outcome, str]:
        """Run the same command in a folder where `errors` was printed before."""
        done = self._run(folder)
        errors += done.stderr
        if done.returncode or "Traceback" in errors or "error:" in errors:
            return "crashed", one_line(errors)
        try:
            digests = bits(folder)
        except RunError as error:
            return "crashed", one_line(str(error))
        names = digests.keys() | self._bits.keys()
        different = sorted(n for n in names if digests.get(n) != self._bits.get(n))
        if different:
            return "silently wrong", f"{len(different)} differ: {', '.join(different[:3])}"
        return "same bits", ""

    def _time_undisturbed(self) -> Pace:
        folder, began = self._undisturbed, time.monotonic()
        trained, saved, first = dict[int, float](), dict[int, float](), 0.0
        with (
            (self._work / "undisturbed.txt").open("w+") as errors,
            _process(self._words(folder), errors) as process,
        ):
            while process.poll() is None:
                now, rows = time.monotonic() - began, _rows(folder)
                first = first or (now if rows else 0.0)
                trained.setdefault(rows // STEPS, now)
                saved.setdefault(_saved_epochs(folder), now)
                time.sleep(0.02)
            seconds = time.monotonic() - began
            errors.seek(0)
            if process.returncode:
                raise RunError(f"the undisturbed run failed: {one_line(errors.read())}")
        tails = [saved[n] - trained[n] for n in saved.keys() & trained.keys() if n]
        return Pace(first, (seconds - first) / self._epochs, max(tails, default=1.0))

    def _kill(self, folder: Path, rng: np.random.Generator, errors: IO[str]) -> str | None:
        """Start the command and kill it: where it was; None if it ended before."""
        saved, began = _saved_epochs(folder), time.time()
        left = self._pace.start + (self._epochs - saved) * self._pace.epoch
        delay, aimed = rng.uniform(0, 1.05 * left), rng.integers(AIMED) == 0
        delay_after_epoch = rng.uniform(0, 1.05 * self._pace.tail)
        with _process(self._words(folder), errors) as process:
            if aimed and saved < self._epochs:
                delay = delay_after_epoch
                while process.poll() is None and not _trained(folder, saved + 1, began):
                    time.sleep(0.01)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
                return None
        return _place(folder, saved, began)

    def _limits(self) -> Iterator[tuple[str, str, int, int, list[str]]]:
        """What does not fit; its name in the error; the limit in bytes; epochs done; flags."""
        whole, last = self._undisturbed, self._epochs - 1
        table = (whole / "losses.csv").read_text().splitlines(keepends=True)
        rows = sum(map(len, table[: 1 + last * STEPS]))
        plot = (whole / "losses.png").stat().st_size
        grids = [path.stat().st_size for path in (whole / "samples").iterdir()]
        checkpoint = max(path.stat().st_size for path in (whole / "checkpoints").rglob("*"))
        yield "config.json", "config.json", 200, last, []
        yield "losses.csv", "losses.csv", rows + 100, last, []
        yield "losses.png", "losses.png", (rows + plot) // 2, last, []
        yield "a sample grid", "epoch_", (plot + min(grids)) // 2, last, []
        # The second epoch's grid is one too many. Until then nothing larger is written.
        yield "events", "events", max(grids) * 3 // 2, last - 1, ["--checkpoint-every", "1000"]
        yield "a checkpoint", "checkpoint of step", checkpoint // 2, last, []

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

    The newest checkpoint's arrays, the table of losses, and the pixels of the pictures.

    Raises:
        RunError: the folder holds no run that can be read.
    """
    import jax
    from PIL import Image

    _, state = restore_run(RunFolder.open(folder))
    leaves, _ = jax.tree.flatten_with_path(state)
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    digests = {"losses.csv": _digest((folder / "losses.csv").read_bytes())}
    for picture in (*folder.glob("*.png"), *folder.glob("samples/*")):
        name = str(picture.relative_to(folder))
        try:
            with Image.open(picture) as image:
                arrays[name] = np.asarray(image)
        except OSError:
            digests[name] = "unreadable"
    for name, array in arrays.items():
        digests[name] = _digest(repr((array.dtype, array.shape)).encode() + array.tobytes())
    return digests


def census(folder: Path) -> Counter[str]:
    """How often each content is in a folder's files, whatever their names.

    Locks and events are not counted.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in LOCK_FILES)
    return Counter(_digest(file.read_bytes()) for file in files if file.parent.name != "events")


def flip(path: Path, byte: int, bit: int) -> None:
    """Invert one bit of a file."""
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def one_line(text: str) -> str:
    """The last lines of what a command printed, as one short line."""
    return " / ".join(text.strip().splitlines()[-3:])[-300:]


@contextlib.contextmanager
def _process(words: list[str], errors: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end of the `with` statement. Its errors go to a file."""
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors) as process:
        try:
            yield process
        finally:
            process.kill()


def _fault(done: subprocess.CompletedProcess[str]) -> str:
    """What is wrong with a refusal: expected are notices, then an error of at most 3 lines."""
    lines = done.stderr.splitlines()
    begins = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}: {one_line(done.stderr)}"
    if "Traceback" in done.stderr or not begins:
        return f"no plain error: {one_line(done.stderr)}"
    if len(lines) - begins[0] > 3 or begins[0] > 3:
        return f"{len(lines)} lines on the screen: {one_line(done.stderr)}"
    return ""


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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
