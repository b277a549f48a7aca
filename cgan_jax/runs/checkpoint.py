"""Checkpoints: Orbax behind three verbs, save, restore and latest, with every array checked.

Orbax alone loads a flipped bit silently and casts a wrong dtype silently. So each step also holds
a manifest with the path, dtype, shape and CRC-32 of each array, and restore believes only that.
"""

import contextlib
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import MultiprocessingOptions

from cgan_jax.checks import check_int
from cgan_jax.errors import DivergenceError, RunError
from cgan_jax.files import write_errors

State = TypeVar("State")
_log = logging.getLogger("cgan_jax")


class _DamagedError(Exception):
    """One step's files are not what was saved."""


class Checkpoints:
    """The checkpoints in a folder, one a training step. Use it in a `with` statement.

    Saving goes on in the background; leaving the `with` statement waits for it. Without that a
    program could end before its last save has.

    Args:
        directory: where they are; made if there is none.
        keep: how many of the latest stay.
        read_only: never touch the folder.

    Raises:
        RunError: the directory is not there, or cannot be written.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep: int = 3, read_only: bool = False
    ) -> None:
        keep = check_int("keep", keep, 1, hint="Omit it for the default, 3.")
        self._directory = Path(directory).absolute()
        self._read_only = read_only
        self._saving = 0  # the step of the last save, which may still be under way
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=0 if read_only else 1,
            max_to_keep=None if read_only else keep,
            read_only=read_only,
            create=False,
            multiprocessing_options=_alone(),
        )
        if read_only and not self._directory.is_dir():
            raise self._none()
        with write_errors(self._directory):
            if not read_only:
                self._directory.mkdir(parents=True, exist_ok=True)
            with _without_warnings():
                self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._manager.close()
        except Exception as failure:  # Orbax raises many kinds, here for a save in the background
            if error is None:
                raise self._unsaved(self._saving, failure) from failure

    def latest(self) -> int | None:
        """The newest saved step, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All saved steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Save a tree of arrays under a step number. Returns before it is all written.

        Raises:
            RunError: this one or the one before could not be written.
            DivergenceError: an array has NaN or infinite values; nothing is saved.
        """
        # A copy, since the caller is free to donate these buffers to the next step.
        arrays = {path: np.array(leaf) for path, leaf in _leaves(state).items()}
        for path, array in arrays.items():
            if not np.isfinite(array).all():
                raise DivergenceError(
                    f"{path} has NaN or infinite values after step {step}: it is not saved.\n"
                    "What was saved before stays. Try a lower learning rate, or another seed."
                )
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            manifest=ocp.args.JsonSave(_manifest(step, arrays)),
        )
        self._saving = step
        try:
            self._manager.save(step, args=items)
        except Exception as failure:
            raise self._unsaved(step, failure) from failure

    def restore(
        self, like: State, *, at_most: int | None = None, only: tuple[str, ...] = ("",)
    ) -> State:
        """The newest state that is intact.

        A damaged step is named in a warning and passed over. Once an older one has proven intact,
        and unless the folder is read-only, it is moved out of the way, to `damaged/` beside the
        checkpoints. Nothing is ever deleted; and if none is intact, all stay where they are.

        Args:
            like: a tree with the shapes and dtypes that are wanted, as from `jax.eval_shape`.
            at_most: the newest step to consider; by default, all.
            only: read the arrays whose paths begin so, as `gen.params`, and leave the others alone;
                `like` has these only.

        Returns:
            the same tree, of NumPy arrays.

        Raises:
            RunError: no step is intact, or the newest intact one has other arrays than `like`.
        """
        wanted = _leaves(like)
        damaged = {
            int(entry.name): "it is a file"
            for entry in sorted(self._directory.iterdir(), reverse=True)
            if entry.name.isdigit() and not entry.is_dir()
        }
        for step in sorted(self._manager.all_steps(), reverse=True):
            if at_most is not None and step > at_most:
                continue
            try:
                arrays = self._read(step, wanted, only)
            except _DamagedError as damage:
                damaged[step] = str(damage)
                continue
            for bad, reason in damaged.items():
                moved = "" if self._read_only else f"; it was moved to {self._set_aside(bad)}"
                _log.warning("The checkpoint of step %d is damaged: %s%s", bad, reason, moved)
            leaves = [arrays[path] for path in wanted]
            return jax.tree.unflatten(jax.tree.structure(like), leaves)
        if not damaged:
            raise self._none()
        newest, reason = next(iter(damaged.items()))
        raise RunError(
            f"no checkpoint in {self._directory} is intact (steps {', '.join(map(str, damaged))}): "
            f"of step {newest}, {reason}.\nPut back a copy, or begin anew in another folder."
        )

    def _read(
        self, step: int, wanted: Mapping[str, Any], only: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        try:
            items = self._manager.restore(
                step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())
            )
            manifest = items["manifest"]
            leaves = _checked(manifest, step)
        except Exception as error:  # Orbax raises many kinds here
            raise _DamagedError(f"its manifest cannot be read ({_first_line(error)})") from error

        found = {
            path: (np.dtype(leaf["dtype"]), tuple(leaf["shape"]))
            for path, leaf in leaves.items()
            if path.startswith(only)
        }
        expected = {
            path: (np.dtype(leaf.dtype), tuple(leaf.shape)) for path, leaf in wanted.items()
        }
        for path in expected.keys() | found.keys():
            if found.get(path) != expected.get(path):
                raise RunError(
                    f"the checkpoint of step {step} in {self._directory} does not fit: {path} is "
                    f"{_spell(found.get(path))}, expected {_spell(expected.get(path))}\n"
                    "Use the configuration, or your own networks, that the run was trained with."
                )

        targets = {path: np.empty(shape, dtype) for path, (dtype, shape) in expected.items()}
        arrays = {}
        try:
            # One after another: at the first damaged one Orbax would leave the others' reads under
            # way, and those complain on the screen.
            handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
            with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
                for path, target in targets.items():
                    one = ocp.args.PyTreeRestore(
                        {path: target},
                        restore_args={path: ocp.RestoreArgs(restore_type=np.ndarray)},
                        partial_restore=True,
                    )
                    read = reader.restore(self._directory / str(step) / "state", args=one)
                    arrays[path] = np.asarray(read[path])
        except Exception as error:
            raise _DamagedError(f"its arrays cannot be read ({_first_line(error)})") from error
        for path, array in arrays.items():
            if _describe(array) != leaves[path]:
                raise _DamagedError(f"{path} is not what was saved")
        return arrays

    def _none(self) -> RunError:
        return RunError(
            f"there are no checkpoints in {self._directory}\nexpected a checkpoint at least\n"
            "Name a run's folder after its first save."
        )

    def _unsaved(self, step: int, failure: Exception) -> RunError:
        return RunError(
            f"the checkpoint of step {step} could not be written to {self._directory} "
            f"({_reason(failure)}).\n"
            "Earlier ones are intact. Free some space, or make it writable; then the same command "
            "goes on."
        )

    def _set_aside(self, step: int) -> Path:
        graveyard = self._directory.parent / "damaged"
        number = 0
        while (target := graveyard / f"{step}-{number}").exists():
            number += 1
        with write_errors(graveyard):
            graveyard.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(target)
        self._manager.reload()
        return target


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Orbax warns that what is opened to be read is opened to be read."""
    orbax = logging.getLogger("absl")

    def worse(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    orbax.addFilter(worse)
    try:
        yield
    finally:
        orbax.removeFilter(worse)


def _alone() -> MultiprocessingOptions:
    """Of several processes only the one that calls takes part, where Orbax would wait for all."""
    if jax.process_count() == 1:
        return MultiprocessingOptions()
    here = jax.process_index()
    return MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
    )


def _leaves(tree: Any) -> dict[str, Any]:
    """A tree's leaves by path, such as `gen.params.output.kernel`."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _manifest(step: int, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    leaves = {path: _describe(array) for path, array in arrays.items()}
    return {"format": 2, "step": step, "leaves": leaves, "crc32": _crc([step, leaves])}


def _checked(manifest: Any, step: int) -> dict[str, Any]:
    """The leaves' descriptions. Format 1 knows no step."""
    saved_step, leaves = manifest.get("step", step), manifest["leaves"]
    if manifest["crc32"] != _crc([saved_step, leaves] if manifest["format"] > 1 else leaves):
        raise ValueError("its checksum does not match")
    if saved_step != step:
        raise ValueError(f"it was saved as step {saved_step}")
    return leaves


def _crc(facts: Any) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _describe(array: np.ndarray) -> dict[str, Any]:
    crc = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return {"dtype": array.dtype.name, "shape": list(array.shape), "crc32": crc}


def _spell(leaf: tuple[np.dtype, tuple[int, ...]] | None) -> str:
    return "missing" if leaf is None else f"{leaf[0]} {list(leaf[1])}"


def _reason(error: Exception) -> str:
    """What the system said, if Tensorstore quotes it; otherwise how the error begins."""
    quoted = re.search(r"([^:\[]+) \[os_error_code", str(error))
    return quoted[1].strip() if quoted else _first_line(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
