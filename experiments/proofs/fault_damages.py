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
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from cgan_jax.errors import RunError
from experiments.proofs import tiny
from experiments.proofs.fault_runs import Outcome, Try, census, flip, one_line

Change = Callable[[Path], object]


class Damage(NamedTuple):
    """Damage to a folder of checkpoints.

    Attributes:
        what: its name.
        apply: does it to the folder.
        fallback: the step that may be restored with a notice; None if nothing may be restored.
            Without a notice, only the newest step's state may.
    """

    what: str
    apply: Change
    fallback: int | None


class Saved(NamedTuple):
    """A folder of checkpoints and the state of each step, oldest first."""

    folder: Path
    states: dict[int, Any]

    @property
    def steps(self) -> list[int]:
        return list(self.states)

    @property
    def newest(self) -> Path:
        return self.folder / str(self.steps[-1])

    @property
    def newest_state(self) -> Any:
        return self.states[self.steps[-1]]

    def damage(self, what: str, name: Path | str, change: Change) -> Damage:
        """A change of one path in the newest step, after which the older step may be restored."""
        return Damage(what, lambda folder: change(folder / name), self.steps[-2])


class CapturedOutput(NamedTuple):
    """The library's own log records, and the lines that anything else wrote to the screen."""

    records: list[logging.LogRecord]
    screen: list[str]

    @property
    def notices(self) -> list[str]:
        return [record.getMessage() for record in self.records]


class Restored(NamedTuple):
    """A state, or the error instead of it, and the output."""

    state: Any
    error: Exception | None
    output: CapturedOutput


def save_steps(folder: Path) -> Saved:
    """Train tiny networks for three epochs, each of which is saved."""
    import jax

    from cgan_jax.runs.checkpoint import Checkpoints
    from cgan_jax.training.gan import GAN
    from cgan_jax.training.loop import train

    data, gan = tiny.dataset(), GAN.from_config(tiny.CONFIG)
    state, states = None, dict[int, Any]()
    folder.parent.mkdir(parents=True)
    with Checkpoints(folder) as checkpoints:
        for epoch in range(tiny.CONFIG.epochs):
            state = train(gan, replace(tiny.CONFIG, epochs=epoch + 1), data, state=state)
            states[int(state.step)] = jax.tree.map(np.array, state)
            checkpoints.save(int(state.step), state)
    return Saved(folder, states)


def flips(saved: Saved, rng: np.random.Generator, n: int) -> Iterator[Damage]:
    """One bit each: first a place in every file, then places over all bytes."""
    files = [path for path in _files(saved.newest) if path.stat().st_size]
    sizes = np.array([path.stat().st_size for path in files])
    further = rng.choice(len(files), max(0, n - len(files)), p=sizes / sizes.sum())
    for i in [*range(len(files)), *further][:n]:
        name, byte, bit = files[i].relative_to(saved.folder), *map(int, rng.integers([sizes[i], 8]))
        what = f"bit {bit} of byte {byte} of {name} flipped"
        yield saved.damage(what, name, partial(flip, byte=byte, bit=bit))


def truncations(saved: Saved, rng: np.random.Generator) -> Iterator[Damage]:
    """Each file cut at a random length, and to nothing."""
    for path in _files(saved.newest):
        name, size = path.relative_to(saved.folder), path.stat().st_size
        for length in (int(rng.integers(1, size)), 0) if size > 1 else ():
            what = f"{name} cut to {length} of {size} bytes"
            yield saved.damage(what, name, partial(os.truncate, length=length))


def deletions(saved: Saved) -> Iterator[Damage]:
    """Each file and each folder of a step deleted."""
    for name in sorted(path.relative_to(saved.folder) for path in saved.newest.rglob("*")):
        yield saved.damage(f"{name} deleted", name, _delete)


def foreign_files(saved: Saved) -> Iterator[Damage]:
    """The newest step is emptied or replaced by something else; or something else is beside it."""
    newest, older = saved.steps[-1], saved.steps[-2]
    newer = str(newest + 100)

    def copy_older(path: Path) -> None:
        shutil.copytree(path.with_name(str(older)), path)

    replacements: list[tuple[str, Change]] = [
        ("an emptied step", Path.mkdir),
        ("notes instead of a step", _write_notes),
        ("a file instead of a step", Path.touch),
        ("an older step instead of a step", copy_older),
    ]
    for what, change in replacements:
        yield saved.damage(what, str(newest), partial(_replace, create=change))
    additions: list[tuple[str, str, Change]] = [
        ("notes as a newer step", newer, _write_notes),
        ("an empty folder as a newer step", newer, Path.mkdir),
        ("an older step as a newer step", newer, copy_older),
        ("a file as a newer step", newer, Path.touch),
        ("a dead link as a newer step", newer, lambda path: path.symlink_to("nowhere")),
        ("notes beside the steps", "notes", _write_notes),
        ("notes with zeros before a number", f"00{newer}", _write_notes),
        ("a copy of a step under another name", f"{newest}.bak", copy_older),
    ]
    for what, name, change in additions:
        yield saved.damage(what, name, change)._replace(fallback=newest)


def total_losses(saved: Saved) -> Iterator[Damage]:
    """All steps damaged in the same way. None may be restored."""

    def spoil(step: Path) -> None:
        manifest = step / "manifest" / "metadata"
        flip(manifest, manifest.stat().st_size // 2, 0)

    def empty_files(step: Path) -> None:
        for path in _files(step):
            os.truncate(path, 0)

    changes: list[tuple[str, Change]] = [
        ("a bit flipped in each step", spoil),
        ("all files of each step cut to nothing", empty_files),
        ("each step emptied", partial(_replace, create=Path.mkdir)),
        ("each manifest deleted", lambda path: _delete(path / "manifest")),
        ("notes instead of each step", partial(_replace, create=_write_notes)),
    ]
    for what, change in changes:
        yield Damage(what, partial(_apply_to_each, names=saved.steps, change=change), None)


def try_damages(saved: Saved, damages: Iterable[Damage], work: Path) -> Iterator[Try]:
    """Restore from damaged copies: first as a reader does, then as a run does that resumes."""
    for damage in damages:
        scratch = work / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        folder = scratch / "checkpoints"
        shutil.copytree(saved.folder, folder)
        damage.apply(folder)
        attempt = _try_total_loss if damage.fallback is None else _try_damage
        yield Try(damage.what, *attempt(saved, damage, folder))


def restore(
    folder: Path,
    like: Any,
    *,
    read_only: bool,
    then: Callable[[Any, Any], object] = lambda checkpoints, state: None,
) -> Restored:
    """Restore from a folder of checkpoints, then call a function with both that and the state."""
    from cgan_jax.runs.checkpoint import Checkpoints

    state, error = None, None
    with captured_output() as output:
        try:
            with Checkpoints(folder, keep=10, read_only=read_only) as checkpoints:
                state = checkpoints.restore(like)
                then(checkpoints, state)
        except Exception as failure:
            error = failure
        if error or output.records:
            # What abandoned tasks and threads still write belongs to this try.
            time.sleep(0.1)
            gc.collect()
    return Restored(state, error, output)


@contextlib.contextmanager
def captured_output() -> Iterator[CapturedOutput]:
    """Capture, instead of showing, all output of the `with` statement; complete at its end."""
    logger, handler = logging.getLogger("cgan_jax"), BufferingHandler(capacity=10_000)
    output, level = CapturedOutput(handler.buffer, []), logger.level
    logger.setLevel(logging.INFO)
    try:
        with (
            tempfile.TemporaryFile("w+", errors="replace") as file,
            mock.patch.multiple(logger, handlers=[handler], propagate=False),
        ):
            with (
                _redirected(1, file.fileno()),
                _redirected(2, file.fileno()),
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("always", UserWarning)  # not only at its first time
                yield output
            file.seek(0)
            output.screen.extend(file.read().splitlines())
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    """At the level of file descriptors, since C++ libraries write there."""
    sys.stdout.flush()
    sys.stderr.flush()
    screen = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(screen, descriptor)
        os.close(screen)


def _try_damage(saved: Saved, damage: Damage, folder: Path) -> tuple[Outcome, str]:
    before = census(folder.parent)
    reader = _judge(saved, damage, restore(folder, saved.newest_state, read_only=True))
    if reader[0] not in ("detected", "harmless"):
        return reader
    if census(folder.parent) != before:
        return "crashed", "reading changed the folder"

    lost, next_step, next_state = False, saved.steps[-1], saved.states[saved.steps[0]]

    def save_next(checkpoints: Any, state: Any) -> None:
        nonlocal lost, next_step
        lost = bool(before - census(folder.parent))
        next_step += _same(state, saved.newest_state)  # the damaged step's number must be free
        checkpoints.save(next_step, next_state)

    restored = restore(folder, saved.newest_state, read_only=False, then=save_next)
    resumed = _judge(saved, damage, restored)
    if resumed[0] != reader[0]:
        return resumed if resumed[0] == "silently wrong" else ("crashed", resumed[1])
    if lost:
        return "crashed", "files were lost"
    if resumed[0] == "detected" and not any((folder.parent / "damaged").glob("*")):
        return "crashed", "what is damaged was not set aside"
    again = restore(folder, saved.newest_state, read_only=True)
    if again.error or any(again.output) or not _same(again.state, next_state):
        return "silently wrong", f"step {next_step}, saved next, is not what is restored then"
    return resumed


def _try_total_loss(saved: Saved, damage: Damage, folder: Path) -> tuple[Outcome, str]:
    """Where no step is intact: an error, and again the next time, and nothing is lost."""
    before = census(folder.parent)
    verdict: tuple[Outcome, str] = "detected", ""
    for read_only in (True, False, False):
        restored = restore(folder, saved.newest_state, read_only=read_only)
        if verdict[0] == "detected":
            verdict = _judge_refusal(restored)
        if before - census(folder.parent):
            verdict = "crashed", "files were lost"
    return verdict


def _judge(saved: Saved, damage: Damage, restored: Restored) -> tuple[Outcome, str]:
    state, error, output = restored
    if error is not None:
        return "crashed", f"{type(error).__name__}: {one_line(str(error))}"
    notice, unchanged = " / ".join(output.notices), _same(state, saved.newest_state)
    allowed = damage.fallback is not None and _same(state, saved.states[damage.fallback])
    if not unchanged and not (notice and allowed):
        return "silently wrong", notice or "another state, without a notice"
    if output.screen:
        return "crashed", f"on the screen: {output.screen[0]}"
    if not notice:
        return "harmless", ""
    if len(output.notices) > 1 or "\n" in notice or "step" not in notice:
        return "crashed", f"not one plain line: {notice}"
    return "detected", notice


def _judge_refusal(restored: Restored) -> tuple[Outcome, str]:
    _, error, output = restored
    if error is None:
        return "silently wrong", "something was restored"
    if not isinstance(error, RunError) or len(str(error).splitlines()) > 3:
        return "crashed", f"{type(error).__name__}: {one_line(str(error))}"
    if "there are no checkpoints" in str(error):
        return "silently wrong", "they are gone, and a run would start over"
    if output.screen:
        return "crashed", f"on the screen: {output.screen[0]}"
    return "detected", str(error)


def _same(one: Any, other: Any) -> bool:
    """Whether two states have the same arrays, bit for bit."""
    import jax

    def content(state: Any) -> list[Any]:
        return [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in jax.tree.leaves(state)]

    return content(one) == content(other)


def _files(folder: Path) -> list[Path]:
    """By size, since Orbax names some of them at random."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: (path.parent, path.stat().st_size, path))


def _apply_to_each(folder: Path, names: Iterable[int], change: Change) -> None:
    for name in names:
        change(folder / str(name))


def _replace(path: Path, create: Change) -> None:
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
