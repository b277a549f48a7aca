"""Whole runs of the main command that are killed, meet a full disk or lose their checkpoints.

Damage to single checkpoints, the flags and the table are in faults.py. JAX is imported only where
a checkpoint is read, and runs are processes of their own.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
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
# One kill in so many waits for an epoch's end: pictures and saves are a small part of a run.
AIMED = 4
# The command under a limit on the size of each file that it writes.
LIMITED = (
    "import os, resource, sys; limit = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)

_log = logging.getLogger("cgan_jax")

Outcome = Literal["same bits", "detected", "harmless", "silently wrong", "crashed"]


class Try(NamedTuple):
    """A fault, and what came of it."""

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
        self._flags = ["--epochs", str(epochs), "--batch-size", str(BATCH_SIZE)]
        self._flags += ["--sample-every", "1", "--checkpoint-every", "1"]
        self._flags += ["--data-dir", str(data_dir.absolute())] if data_dir else []
        self._whole = work / "undisturbed"
        self._timeout = 1200.0
        _log.info("First a run of %d epochs that nothing disturbs.", epochs)
        self._run(self._whole, "--dry-run")  # compiles, so that the next is timed without it
        self._pace = self._time_whole()
        self._timeout = 60 + 10 * (self._pace.start + epochs * self._pace.epoch)
        self._bits = bits(self._whole)

    def kills(self, rng: np.random.Generator, n: int) -> Iterator[Try]:
        """Kill runs n times; after each kill the same command goes on.

        Instants are uniform over what is left of the run, and a little more; so each chain of kills
        comes to its end sooner or later. What came of it counts for all its kills. Some chains
        begin with nothing, others, to save time, with what the undisturbed run had late in its way.
        """
        left, chain = n, 0
        while left > 0:
            chain += 1
            folder, places = self._work / f"killed-{chain}", list[str]()
            if begins := rng.choice([0, self._epochs - 2, self._epochs - 1]):
                self._rewind(folder, begins)
            with (self._work / f"killed-{chain}.txt").open("w+") as errors:
                while len(places) < left and (place := self._kill(folder, rng, errors)) is not None:
                    places.append(place)
                errors.seek(0)
                outcome, why = self._goes_on(folder, errors.read())
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
            if what == "config.json":  # written anew only by a run that becomes longer
                _edit_epochs(folder / "config.json", self._epochs - 1)
            saved = census(folder / "checkpoints")
            done = self._run(folder, *flags, limit=limit)
            fault = _fault(done.stderr, done.returncode)
            if done.returncode == 0:
                yield Try(what, "silently wrong", "it ended as if nothing were missing")
            elif fault or named not in done.stderr:
                yield Try(
                    what, "crashed", fault or f"{named} is not named: {one_line(done.stderr)}"
                )
            elif saved - census(folder / "checkpoints"):
                yield Try(what, "crashed", "an earlier checkpoint is no longer what it was")
            else:
                outcome, why = self._goes_on(folder)
                yield Try(what, outcome, why)
                if outcome == "same bits":
                    shutil.rmtree(folder)

    def lost_checkpoints(self) -> Iterator[Try]:
        """Runs without any good checkpoint: the command must refuse, twice, and touch nothing."""
        losses: list[tuple[str, Callable[[Path], None]]] = [
            ("a run with a flipped bit in each checkpoint", _spoil_each),
            ("a run whose folder of checkpoints was emptied", _empty),
        ]
        for i, (what, lose) in enumerate(losses):
            folder = self._work / f"lost-{i}"
            shutil.copytree(self._whole, folder)
            lose(folder / "checkpoints")
            before = census(folder)
            tries = [self._run(folder) for _ in range(2)]
            faults = [_fault(done.stderr, done.returncode) for done in tries]
            if before - census(folder) or not all(done.returncode for done in tries):
                yield Try(what, "silently wrong", "the command began anew")
            elif any(faults):
                yield Try(what, "crashed", next(filter(None, faults)))
            else:
                yield Try(what, "detected", tries[-1].stderr)
                shutil.rmtree(folder)

    def _words(self, folder: Path, *flags: str) -> list[str]:
        return ["-m", COMMAND, "--workdir", str(folder), *self._flags, *flags]

    def _run(
        self, folder: Path, *flags: str, limit: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command until its end. Its lines go to a pipe, which no limit concerns."""
        words = [sys.executable, *self._words(folder, *flags)]
        if limit is not None:
            words[1:1] = ["-c", LIMITED, str(limit)]
        try:
            return subprocess.run(
                words, cwd=ROOT, capture_output=True, text=True, timeout=self._timeout
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(words, -1, "", "error: it does not end")

    def _goes_on(self, folder: Path, errors: str = "") -> tuple[Outcome, str]:
        """What the same command makes of a folder, and of what was printed there before."""
        done = self._run(folder)
        if done.returncode or any(word in errors + done.stderr for word in ("Traceback", "error:")):
            return "crashed", one_line(errors + done.stderr)
        try:
            found = bits(folder)
        except RunError as error:
            return "crashed", one_line(str(error))
        names = found.keys() | self._bits.keys()
        different = sorted(n for n in names if found.get(n) != self._bits.get(n))
        if different:
            return "silently wrong", f"{len(different)} differ: {', '.join(different[:3])}"
        return "same bits", ""

    def _time_whole(self) -> Pace:
        began, trained, saved = time.monotonic(), dict[int, float](), dict[int, float]()
        words = [sys.executable, *self._words(self._whole)]
        with (
            (self._work / "undisturbed.txt").open("w+") as errors,
            Process(words, errors) as process,
        ):
            first = 0.0
            while process.poll() is None:
                now = time.monotonic() - began
                rows = _rows(self._whole)
                first = first or (now if rows else 0.0)
                trained.setdefault(rows // STEPS, now)
                saved.setdefault(_saved_epochs(self._whole), now)
                time.sleep(0.02)
            seconds = time.monotonic() - began
            errors.seek(0)
            if process.returncode:
                raise RunError(f"the undisturbed run failed: {one_line(errors.read())}")
        tails = [saved[n] - trained[n] for n in saved.keys() & trained.keys() if n]
        return Pace(first, (seconds - first) / self._epochs, max(tails, default=1.0))

    def _kill(self, folder: Path, rng: np.random.Generator, errors: IO[str]) -> str | None:
        """Start the command and kill it: tells where it was; None if it ended before."""
        saved, began = _saved_epochs(folder), time.time()
        left = self._pace.start + (self._epochs - saved) * self._pace.epoch
        after = rng.uniform(0, 1.05 * left)
        aimed, after_steps = rng.integers(AIMED) == 0, rng.uniform(0, 1.05 * self._pace.tail)
        with Process([sys.executable, *self._words(folder)], errors) as process:
            if aimed and saved < self._epochs:
                while process.poll() is None and not _trained(folder, saved + 1, began):
                    time.sleep(0.01)
                after = after_steps
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return _place(folder, saved, began)
        return None

    def _limits(self) -> Iterator[tuple[str, str, int, int, list[str]]]:
        """What does not fit; its name in the error; the limit in bytes; epochs done; flags."""
        table = (self._whole / "losses.csv").read_text().splitlines(keepends=True)
        rows = sum(map(len, table[: 1 + (self._epochs - 1) * STEPS]))
        plot = (self._whole / "losses.png").stat().st_size
        grids = [path.stat().st_size for path in (self._whole / "samples").iterdir()]
        checkpoint = max(p.stat().st_size for p in (self._whole / "checkpoints").rglob("*"))
        last = self._epochs - 1
        yield "config.json", "config.json", 200, last, []
        yield "losses.csv", "losses.csv", rows + 100, last, []
        yield "losses.png", "losses.png", (rows + plot) // 2, last, []
        yield "a sample grid", "epoch_", (plot + min(grids)) // 2, last, []
        # The second epoch's grid is one too many. Until then nothing larger is written.
        yield "events", "events", max(grids) * 3 // 2, last - 1, ["--checkpoint-every", "1000"]
        yield "a checkpoint", "checkpoint of step", checkpoint // 2, last, []

    def _rewind(self, folder: Path, epochs: int) -> None:
        """A copy of the undisturbed run's folder as it was after so many epochs."""
        shutil.copytree(self._whole, folder)
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
    found = {"losses.csv": _digest((folder / "losses.csv").read_bytes())}
    for picture in (*folder.glob("*.png"), *folder.glob("samples/*")):
        name = str(picture.relative_to(folder))
        try:
            with Image.open(picture) as image:
                arrays[name] = np.asarray(image)
        except OSError:
            found[name] = "unreadable"
    for name, array in arrays.items():
        found[name] = _digest(repr((array.dtype, array.shape)).encode() + array.tobytes())
    return found


def census(folder: Path) -> Counter[str]:
    """How often each content is in a folder's files, whatever they are called.

    Locks, events and what is no file are not counted.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in LOCK_FILES)
    return Counter(_digest(file.read_bytes()) for file in files if file.parent.name != "events")


def flip(path: Path, byte: int, bit: int) -> None:
    """Turn one bit of a file."""
    with path.open("r+b") as file:
        file.seek(byte)
        (old,) = file.read(1)
        file.seek(byte)
        file.write(bytes([old ^ 1 << bit]))


def one_line(text: str) -> str:
    """The last lines of what a command printed, as one short line."""
    return " / ".join(text.strip().splitlines()[-3:])[-300:]


class Process(subprocess.Popen[bytes]):
    """A process that does not outlive the `with` statement. What it says goes to a file."""

    def __init__(self, words: list[str], errors: IO[str]) -> None:
        super().__init__(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.wait()


def _fault(stderr: str, code: int) -> str:
    """What is wrong with how a command refused: expected are notices, then an error of 3 lines."""
    lines = stderr.splitlines()
    begins = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    if code < 0:
        return f"ended by signal {-code}: {one_line(stderr)}"
    if "Traceback" in stderr or not begins:
        return f"no plain error: {one_line(stderr)}"
    if len(lines) - begins[0] > 3 or begins[0] > 3:
        return f"{len(lines)} lines on the screen: {one_line(stderr)}"
    return ""


def _place(folder: Path, saved_before: int, began: float) -> str:
    """In what a run was killed that had begun with so many epochs saved."""
    temporary = (folder / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    if any(path.stat().st_mtime >= began for path in temporary):
        return "saves"
    rows, saved = _rows(folder), _saved_epochs(folder)
    if not _is_new(folder / "losses.csv", began) or rows <= saved_before * STEPS:
        return "start-up"
    return "pictures" if rows % STEPS == 0 and rows // STEPS > saved else "steps"


def _trained(folder: Path, epochs: int, began: float) -> bool:
    """Whether the process that began then has trained so many epochs."""
    return _is_new(folder / "losses.csv", began) and _rows(folder) >= epochs * STEPS


def _is_new(path: Path, began: float) -> bool:
    return path.exists() and path.stat().st_mtime >= began


def _rows(folder: Path) -> int:
    path = folder / "losses.csv"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def _saved_epochs(folder: Path) -> int:
    names = (path.name for path in (folder / "checkpoints").glob("*"))
    return max((int(name) // STEPS for name in names if name.isdigit()), default=0)


def _edit_epochs(path: Path, epochs: int) -> None:
    saved = json.loads(path.read_text())
    saved["config"]["epochs"] = epochs
    path.write_text(json.dumps(saved, indent=2) + "\n")


def _spoil_each(checkpoints: Path) -> None:
    for step in checkpoints.iterdir():
        largest = max(step.rglob("*"), key=lambda path: path.stat().st_size)
        flip(largest, largest.stat().st_size // 2, 0)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
