"""Damage to single checkpoints of tiny networks, and what becomes of them.

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
from typing import Any, NamedTuple

import numpy as np

from cgan_jax.errors import RunError
from experiments.proofs import tiny
from experiments.proofs.fault_runs import Outcome, Try, census, flip, one_line


class Damage(NamedTuple):
    """What is done to a folder of checkpoints, and the step that may then come back, with a word.

    Without a word only the newest step's state may.
    """

    what: str
    do: Callable[[Path], object]
    back: int


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
    def like(self) -> Any:
        """The newest step's state, by which others are restored, too."""
        return self.states[self.steps[-1]]


class Heard(NamedTuple):
    """What was said: the library's own lines, and all that anything else wrote to the screen."""

    lines: list[str]
    noise: list[str]


class Restored(NamedTuple):
    """A state, or why there is none, and what was said."""

    state: Any
    error: Exception | None
    heard: Heard


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


def flips(saved: Saved, rng: np.random.Generator, n: int) -> list[Damage]:
    """One bit each: first a place in every file, then places over all bytes."""
    files = [path for path in _files(saved.newest) if path.stat().st_size]
    sizes = [path.stat().st_size for path in files]
    places = [(path, rng.integers(size)) for path, size in zip(files, sizes, strict=True)][:n]
    ends = np.cumsum(sizes)
    for place in rng.integers(ends[-1], size=n - len(places)):
        which = int(np.searchsorted(ends, place, side="right"))
        places.append((files[which], place - (ends[which] - sizes[which])))
    found = []
    for path, byte in places:
        name, bit = path.relative_to(saved.folder), int(rng.integers(8))
        what = f"bit {bit} of byte {byte} of {name} flipped"
        found.append(Damage(what, _at(name, partial(flip, byte=int(byte), bit=bit)), _older(saved)))
    return found


def truncations(saved: Saved, rng: np.random.Generator) -> list[Damage]:
    """Each file cut at a random length, and to nothing."""
    found = []
    for path in _files(saved.newest):
        name, size = path.relative_to(saved.folder), path.stat().st_size
        for length in (int(rng.integers(1, size)), 0) if size > 1 else ():
            what = f"{name} cut to {length} of {size} bytes"
            found.append(
                Damage(what, _at(name, partial(os.truncate, length=length)), _older(saved))
            )
    return found


def deletions(saved: Saved) -> list[Damage]:
    """Each file and each folder of a step deleted."""
    return [
        Damage(f"{name} deleted", _at(name, _delete), _older(saved))
        for name in sorted(path.relative_to(saved.folder) for path in saved.newest.rglob("*"))
    ]


def foreigners(saved: Saved) -> list[Damage]:
    """The newest step is emptied or is something else; or something else lies beside it."""
    newest, older = saved.steps[-1], saved.steps[-2]
    name, next_name = str(newest), str(newest + 100)

    def copy(source: int, target: str) -> Callable[[Path], object]:
        return lambda folder: shutil.copytree(folder / str(source), folder / target)

    def two(first: Callable[[Path], object], then: Callable[[Path], object]) -> Any:
        return lambda folder: (first(folder), then(folder))

    delete = _at(name, _delete)
    return [
        Damage("an emptied step", two(delete, _at(name, Path.mkdir)), older),
        Damage("notes in place of a step", two(delete, _at(name, _take_notes)), older),
        Damage("a file in place of a step", two(delete, _at(name, Path.touch)), older),
        Damage("an older step in place of a step", two(delete, copy(older, name)), older),
        Damage("notes as a newer step", _at(next_name, _take_notes), newest),
        Damage("an empty folder as a newer step", _at(next_name, Path.mkdir), newest),
        Damage("an older step as a newer step", copy(older, next_name), newest),
        Damage("a file as a newer step", _at(next_name, Path.touch), newest),
        Damage("a dead link as a newer step", _at(next_name, _link_nowhere), newest),
        Damage("notes beside the steps", _at("notes", _take_notes), newest),
        Damage("notes with zeros before a number", _at(f"00{next_name}", _take_notes), newest),
        Damage("a copy of a step under another name", copy(older, f"{name}.bak"), newest),
    ]


def ruins(saved: Saved) -> list[Damage]:
    """All steps damaged in the same way. None may come back."""

    def each(do: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda folder: [do(folder / str(step)) for step in saved.steps]

    def spoil(step: Path) -> None:
        manifest = step / "manifest" / "metadata"
        flip(manifest, manifest.stat().st_size // 2, 0)

    def cut(step: Path) -> None:
        for path in _files(step):
            os.truncate(path, 0)

    def empty(step: Path) -> None:
        _delete(step)
        step.mkdir()

    def replace_by_notes(step: Path) -> None:
        _delete(step)
        _take_notes(step)

    return [
        Damage("a bit flipped in each step", each(spoil), -1),
        Damage("all files of each step cut to nothing", each(cut), -1),
        Damage("each step emptied", each(empty), -1),
        Damage("each manifest deleted", each(lambda step: _delete(step / "manifest")), -1),
        Damage("notes in place of each step", each(replace_by_notes), -1),
    ]


def try_damages(saved: Saved, damages: Iterable[Damage], work: Path) -> Iterator[Try]:
    """Restore from damaged copies: first as a reader does, then as a run does that goes on."""
    for damage in damages:
        folder = _damaged_copy(saved, damage, work)
        yield Try(damage.what, *_try_damage(saved, damage, folder))


def try_ruins(saved: Saved, damages: Iterable[Damage], work: Path) -> Iterator[Try]:
    """Restore where no step is intact: an error, and again the next time, and nothing is lost."""
    for damage in damages:
        folder = _damaged_copy(saved, damage, work)
        before = census(folder.parent)
        found: tuple[Outcome, str] = "detected", ""
        for read_only in (True, False, False):
            restored = restore(folder, saved.like, read_only=read_only)
            if found[0] == "detected":
                found = _judge_ruin(restored)
            if before - census(folder.parent):
                found = "crashed", "files were lost"
        yield Try(damage.what, *found)


def restore(
    folder: Path,
    like: Any,
    *,
    read_only: bool,
    then: Callable[[Any, Any], object] = lambda checkpoints, state: None,
) -> Restored:
    """Restore from a folder of checkpoints, and do something with both that and the state."""
    from cgan_jax.runs.checkpoint import Checkpoints

    state, error = None, None
    with listening() as heard:
        try:
            with Checkpoints(folder, keep=10, read_only=read_only) as checkpoints:
                state = checkpoints.restore(like)
                then(checkpoints, state)
        except Exception as failure:
            error = failure
        if error or heard.lines:
            # What abandoned tasks and threads still say belongs to this try.
            time.sleep(0.1)
            gc.collect()
    return Restored(state, error, heard)


@contextlib.contextmanager
def listening() -> Iterator[Heard]:
    """Keep from the screen what is said in the `with` statement, and have it at its end.

    At the level of file descriptors, since C++ libraries write there.
    """
    heard, notices = Heard([], []), logging.getLogger("cgan_jax")
    before = notices.handlers, notices.propagate, notices.level
    notices.handlers, notices.propagate = [_Lines(heard.lines)], False
    notices.setLevel(logging.INFO)
    sys.stdout.flush()
    sys.stderr.flush()
    screen = os.dup(1), os.dup(2)
    try:
        with tempfile.TemporaryFile() as file, open(file.fileno(), "w", closefd=False) as text:
            try:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                with (
                    contextlib.redirect_stdout(text),
                    contextlib.redirect_stderr(text),
                    warnings.catch_warnings(),
                ):
                    warnings.simplefilter("always", UserWarning)  # not only at its first time
                    yield heard
            finally:
                text.flush()
                sys.stdout.flush()
                sys.stderr.flush()
                os.dup2(screen[0], 1)
                os.dup2(screen[1], 2)
                file.seek(0)
                heard.noise.extend(file.read().decode(errors="replace").splitlines())
    finally:
        os.close(screen[0])
        os.close(screen[1])
        notices.handlers, notices.propagate = before[0], before[1]
        notices.setLevel(before[2])


class _Lines(logging.Handler):
    """Puts messages on a list."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def _damaged_copy(saved: Saved, damage: Damage, work: Path) -> Path:
    scratch = work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    folder = scratch / "checkpoints"
    shutil.copytree(saved.folder, folder)
    damage.do(folder)
    return folder


def _try_damage(saved: Saved, damage: Damage, folder: Path) -> tuple[Outcome, str]:
    before = census(folder.parent)
    by_reader = _judge(saved, damage, restore(folder, saved.like, read_only=True))
    if by_reader[0] not in ("detected", "harmless"):
        return by_reader
    if census(folder.parent) != before:
        return "crashed", "reading changed the folder"

    lost, next_step, next_state = False, saved.steps[-1], saved.states[saved.steps[0]]

    def save_next(checkpoints: Any, state: Any) -> None:
        nonlocal lost, next_step
        lost = bool(before - census(folder.parent))
        next_step += _same(state, saved.like)  # the damaged step's number is to be free again
        checkpoints.save(next_step, next_state)

    by_run = _judge(saved, damage, restore(folder, saved.like, read_only=False, then=save_next))
    if by_run[0] != by_reader[0]:
        return by_run if by_run[0] == "silently wrong" else ("crashed", by_run[1])
    if lost:
        return "crashed", "files were lost"
    if by_run[0] == "detected" and not any((folder.parent / "damaged").glob("*")):
        return "crashed", "what is damaged was not set aside"
    again = restore(folder, saved.like, read_only=True)
    if again.error or any(again.heard) or not _same(again.state, next_state):
        return "silently wrong", f"step {next_step}, saved next, is not what is restored then"
    return by_run


def _judge(saved: Saved, damage: Damage, restored: Restored) -> tuple[Outcome, str]:
    state, error, heard = restored
    if error is not None:
        return "crashed", f"{type(error).__name__}: {one_line(str(error))}"
    said, unchanged = " / ".join(heard.lines), _same(state, saved.like)
    if not unchanged and not (said and _same(state, saved.states[damage.back])):
        return "silently wrong", said or "another state, without a word"
    if heard.noise:
        return "crashed", f"on the screen: {heard.noise[0]}"
    if not said:
        return "harmless", ""
    if len(heard.lines) > 1 or "\n" in said or "step" not in said:
        return "crashed", f"not one plain line: {said}"
    return "detected", said


def _judge_ruin(restored: Restored) -> tuple[Outcome, str]:
    _, error, heard = restored
    if error is None:
        return "silently wrong", "something was restored"
    if not isinstance(error, RunError) or len(str(error).splitlines()) > 3:
        return "crashed", f"{type(error).__name__}: {one_line(str(error))}"
    if "there are no checkpoints" in str(error):
        return "silently wrong", "they are gone, and a run would begin anew"
    if heard.noise:
        return "crashed", f"on the screen: {heard.noise[0]}"
    return "detected", str(error)


def _same(one: Any, other: Any) -> bool:
    """Whether two states have the same arrays, bit for bit."""
    import jax

    def content(state: Any) -> list[Any]:
        return [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in jax.tree.leaves(state)]

    return content(one) == content(other)


def _older(saved: Saved) -> int:
    return saved.steps[-2]


def _files(folder: Path) -> list[Path]:
    """By size, since Orbax names some of them at random."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: (path.parent, path.stat().st_size, path))


def _at(name: Path | str, do: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: do(folder / name)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _take_notes(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("not a checkpoint\n")


def _link_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")
