"""Damage to single checkpoints of tiny networks, and whether it is detected.

Each must be detected, with the older one restored, or be harmless. Whole runs are in fault_runs.py.
"""

import contextlib
import gc
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from cgan_jax.errors import RunError
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from experiments.proofs import tiny
from experiments.proofs.fault_tries import (
    Try,
    Verdict,
    attempt,
    census,
    digests,
    expect,
    flip,
    last_lines,
)

Change = Callable[[Path], object]


class Damage(NamedTuple):
    """Damage to a folder of checkpoints.

    Attributes:
        what: its name.
        paths: what is changed in the folder.
        change: how each of them is.
        fallback: the step that may be restored with a notice; None if nothing may be restored.
            Without a notice, only the newest step's state may.
    """

    what: str
    paths: list[Path]
    change: Change
    fallback: int | None


class Saved(NamedTuple):
    """A folder of checkpoints: the state of each step, and the newest two steps."""

    folder: Path
    states: dict[int, Any]
    older: int
    newest: int


class CapturedOutput(NamedTuple):
    """The library's own notices, and the lines that anything else wrote to the screen."""

    notices: list[str]
    screen: list[str]


def train_states() -> dict[int, Any]:
    """Tiny networks after each of three epochs, by step."""
    data, gan = tiny.dataset(), GAN.from_config(tiny.CONFIG)
    state, states = None, dict[int, Any]()
    for epoch in range(tiny.CONFIG.epochs):
        state = train(gan, replace(tiny.CONFIG, epochs=epoch + 1), data, state=state)
        states[int(state.step)] = jax.tree.map(np.array, state)
    return states


def save_steps(folder: Path, states: dict[int, Any]) -> Saved:
    """Save states, by step, in a new folder."""
    folder.parent.mkdir(parents=True)
    with Checkpoints(folder) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state)
    return Saved(folder, states, *list(states)[-2:])


def flips(saved: Saved, rng: np.random.Generator, n: int) -> Iterator[Damage]:
    """One bit each: first a place in every file, then places over all bytes."""
    files = [path for path in _files(saved.folder / str(saved.newest)) if path.stat().st_size]
    sizes = np.array([path.stat().st_size for path in files])
    further = rng.choice(len(files), max(0, n - len(files)), p=sizes / sizes.sum())
    for i in [*range(len(files)), *further][:n]:
        path, byte, bit = files[i].relative_to(saved.folder), *map(int, rng.integers([sizes[i], 8]))
        what = f"bit {bit} of byte {byte} of {path} flipped"
        yield Damage(what, [path], partial(flip, byte=byte, bit=bit), saved.older)


def truncations(saved: Saved, rng: np.random.Generator) -> Iterator[Damage]:
    """Each file cut at a random length, and to nothing."""
    for file in _files(saved.folder / str(saved.newest)):
        path, size = file.relative_to(saved.folder), file.stat().st_size
        for length in (int(rng.integers(1, size)), 0) if size > 1 else ():
            what = f"{path} cut to {length} of {size} bytes"
            yield Damage(what, [path], partial(os.truncate, length=length), saved.older)


def deletions(saved: Saved, rng: np.random.Generator) -> Iterator[Damage]:
    """Each file and each folder of a step deleted."""
    for file in sorted((saved.folder / str(saved.newest)).rglob("*")):
        path = file.relative_to(saved.folder)
        yield Damage(f"{path} deleted", [path], _delete, saved.older)


def foreign_files(saved: Saved, rng: np.random.Generator) -> Iterator[Damage]:
    """The newest step is emptied or replaced by something else; or something else is beside it."""
    _, _, older, newest = saved
    newer = newest + 100

    def copy_older(path: Path) -> None:
        shutil.copytree(path.with_name(str(older)), path)

    table: list[tuple[str, int | str, Change]] = [
        ("an emptied step", newest, Path.mkdir),
        ("notes instead of a step", newest, _write_notes),
        ("a file instead of a step", newest, Path.touch),
        ("an older step instead of a step", newest, copy_older),
        ("notes as a newer step", newer, _write_notes),
        ("an empty folder as a newer step", newer, Path.mkdir),
        ("an older step as a newer step", newer, copy_older),
        ("a file as a newer step", newer, Path.touch),
        ("a dead link as a newer step", newer, lambda path: path.symlink_to("nowhere")),
        ("notes beside the steps", "notes", _write_notes),
        ("notes with zeros before a number", f"00{newer}", _write_notes),
        ("a copy of a step under another name", f"{newest}.bak", copy_older),
    ]
    for what, name, create in table:
        fallback = older if name == newest else newest
        yield Damage(what, [Path(str(name))], partial(_replace, create=create), fallback)


def total_losses(saved: Saved, rng: np.random.Generator) -> Iterator[Damage]:
    """All steps damaged in the same way. None may be restored."""

    def spoil(step: Path) -> None:
        manifest = step / "manifest" / "metadata"
        flip(manifest, manifest.stat().st_size // 2, 0)

    def empty_files(step: Path) -> None:
        for path in _files(step):
            os.truncate(path, 0)

    table: list[tuple[str, Change]] = [
        ("a bit flipped in each step", spoil),
        ("all files of each step cut to nothing", empty_files),
        ("each step emptied", partial(_replace, create=Path.mkdir)),
        ("each manifest deleted", lambda step: _delete(step / "manifest")),
        ("notes instead of each step", partial(_replace, create=_write_notes)),
    ]
    for what, change in table:
        yield Damage(what, [Path(str(step)) for step in saved.states], change, None)


def try_damages(saved: Saved, damages: Iterable[Damage], work: Path) -> Iterator[Try]:
    """Restore from damaged copies: first as a reader does, then as a run does that resumes."""
    scratch = work / "scratch"
    for damage in damages:
        shutil.rmtree(scratch, ignore_errors=True)
        folder = scratch / "checkpoints"
        shutil.copytree(saved.folder, folder)
        for path in damage.paths:
            damage.change(folder / path)
        if damage.fallback is None:
            yield attempt(damage.what, partial(_check_total_loss, saved, folder))
        else:
            yield attempt(damage.what, partial(_check_damage, saved, damage.fallback, folder))


@contextlib.contextmanager
def captured_output() -> Iterator[CapturedOutput]:
    """Capture, instead of showing, all output of the `with` statement; complete at its end."""
    output, logger = CapturedOutput([], []), logging.getLogger("cgan_jax")

    def take(record: logging.LogRecord) -> bool:
        output.notices.append(record.getMessage())
        return False

    with tempfile.TemporaryFile("w+", errors="replace") as file:
        try:
            with (
                _redirected(file),
                mock.patch.object(logger, "filters", [take]),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("always", UserWarning)  # not only at its first time
                try:
                    yield output
                finally:
                    if output.notices or sys.exc_info()[0]:
                        # What abandoned tasks and threads still write belongs to this try.
                        time.sleep(0.1)
                        gc.collect()
        finally:
            file.seek(0)
            output.screen.extend(file.read().splitlines())


@contextlib.contextmanager
def _redirected(file: IO[str]) -> Iterator[None]:
    """Also at the level of file descriptors, since C++ libraries write there."""
    sys.stdout.flush()
    sys.stderr.flush()
    screens = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    for descriptor in screens:
        os.dup2(file.fileno(), descriptor)
    try:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield
    finally:
        for descriptor, screen in screens.items():
            os.dup2(screen, descriptor)
            os.close(screen)


def _check_damage(saved: Saved, fallback: int, folder: Path) -> Verdict:
    """A reader and a run restore what they may, and the run can save its next step."""
    before, newest = census(folder.parent), saved.states[saved.newest]
    next_state = saved.states[min(saved.states)]
    with captured_output() as output, Checkpoints(folder, read_only=True) as checkpoints:
        state = checkpoints.restore(newest)
    reader, _ = _judge(saved, fallback, state, output)
    expect(census(folder.parent) == before, "reading changed the folder")

    with captured_output() as output, Checkpoints(folder, keep=10) as checkpoints:
        state = checkpoints.restore(newest)
        lost = before - census(folder.parent)
        next_step = saved.newest + _same(state, newest)  # the damaged step's number must be free
        checkpoints.save(next_step, next_state)
    outcome, notice = _judge(saved, fallback, state, output)
    expect(outcome == reader, notice)
    expect(not lost, "files were lost")
    if outcome == "detected":
        expect(any((folder.parent / "damaged").glob("*")), "what is damaged was not set aside")

    with captured_output() as output, Checkpoints(folder, read_only=True) as checkpoints:
        state = checkpoints.restore(newest)
    why = f"step {next_step}, saved next, is not what is restored then"
    expect(_same(state, next_state) and not any(output), why, "silently wrong")
    return outcome, notice


def _judge(saved: Saved, fallback: int, state: Any, output: CapturedOutput) -> Verdict:
    notice = " / ".join(output.notices)
    steps = [saved.newest, fallback] if notice else [saved.newest]
    allowed = any(_same(state, saved.states[step]) for step in steps)
    expect(allowed, notice or "another state, without a notice", "silently wrong")
    expect(not output.screen, f"on the screen: {' / '.join(output.screen)}"[:300])
    if not notice:
        return "harmless", ""
    plain = len(output.notices) == 1 and "\n" not in notice and "step" in notice
    expect(plain, f"not one plain line: {notice}")
    return "detected", notice


def _check_total_loss(saved: Saved, folder: Path) -> Verdict:
    """Where no step is intact: an error, and again the next time, and nothing is lost."""
    before = census(folder.parent)
    for read_only in (True, False, False):
        message = ""
        try:
            with (
                captured_output() as output,
                Checkpoints(folder, read_only=read_only) as checkpoints,
            ):
                checkpoints.restore(saved.states[saved.newest])
        except RunError as error:
            message = str(error)
        expect(message, "something was restored", "silently wrong")
        expect(len(message.splitlines()) <= 3, last_lines(message))
        gone = "there are no checkpoints" in message
        expect(not gone, "they are gone, and a run would start over", "silently wrong")
        expect(not output.screen, f"on the screen: {' / '.join(output.screen)}"[:300])
        expect(not before - census(folder.parent), "files were lost")
    return "detected", message


def _same(one: Any, other: Any) -> bool:
    """Whether two states have the same arrays, bit for bit."""
    return digests(one) == digests(other)


def _files(folder: Path) -> list[Path]:
    """By size, since Orbax names some of them at random."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: (path.parent, path.stat().st_size, path))


def _replace(path: Path, create: Change) -> None:
    if path.exists():
        _delete(path)
    create(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _write_notes(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("not a checkpoint\n")
