"""Checkpoints: Orbax behind three verbs, save, restore and latest, with every array checked.

Orbax alone loads a flipped bit silently and casts a wrong dtype silently. So each step also holds
a manifest with the path, dtype, shape and CRC-32 of each array, and restore believes only that.
"""

import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from cgan_jax.errors import RunError

State = TypeVar("State")
_log = logging.getLogger("cgan_jax")


class _DamagedError(Exception):
    """One step's files are not what was saved."""


class Checkpoints:
    """The checkpoints in a folder, one a training step. Use it in a `with` statement.

    Saving goes on in the background; leaving the `with` statement waits for it. Without that a
    program could end before its last save has.

    Args:
        directory: where they are; made at the first save.
        keep: how many of the latest stay.
        read_only: never touch the folder.
    """

    def __init__(self, directory: Path, *, keep: int = 3, read_only: bool = False) -> None:
        self._directory = directory.absolute()
        self._read_only = read_only
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep, read_only=read_only, create=not read_only
        )
        if read_only and not directory.is_dir():
            raise RunError(f"there are no checkpoints in {directory.parent}")
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The newest saved step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Save a tree of arrays under a step number. Returns before it is all written."""
        # A copy, since the caller is free to donate these buffers to the next step.
        arrays = {path: np.array(leaf) for path, leaf in _leaves(state).items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays), manifest=ocp.args.JsonSave(_manifest(arrays))
            ),
        )

    def restore(self, like: State) -> State:
        """The newest state that is intact.

        A damaged step is named in a warning and passed over; unless the folder is read-only it is
        moved out of the way, to `damaged/` beside the checkpoints, and nothing is deleted.

        Args:
            like: a tree with the shapes and dtypes that are wanted, as from `jax.eval_shape`.

        Returns:
            the same tree, of NumPy arrays.

        Raises:
            RunError: no step is intact, or the newest intact one has other arrays than `like`.
        """
        wanted = _leaves(like)
        reasons = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                arrays = self._read(step, wanted)
            except _DamagedError as damage:
                reasons.append(f"step {step}: {damage}")
                _log.warning("The checkpoint of step %d is damaged: %s", step, damage)
                if not self._read_only:
                    self._set_aside(step)
                continue
            leaves = [arrays[path] for path in wanted]
            return jax.tree.unflatten(jax.tree.structure(like), leaves)
        if not reasons:
            raise RunError(f"there are no checkpoints in {self._directory}")
        raise RunError(f"no checkpoint in {self._directory} is intact ({'; '.join(reasons)})")

    def _read(self, step: int, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        try:
            items = self._manager.restore(
                step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())
            )
            manifest = items["manifest"]
            leaves = _checked(manifest)
        except Exception as error:  # Orbax raises many kinds here
            raise _DamagedError(f"its manifest cannot be read ({_first_line(error)})") from error

        found = {
            path: (np.dtype(leaf["dtype"]), tuple(leaf["shape"])) for path, leaf in leaves.items()
        }
        expected = {
            path: (np.dtype(leaf.dtype), tuple(leaf.shape)) for path, leaf in wanted.items()
        }
        for path in expected.keys() | found.keys():
            if found.get(path) != expected.get(path):
                raise RunError(
                    f"the checkpoint of step {step} in {self._directory} does not fit: {path} is "
                    f"{_spell(found.get(path))}, expected {_spell(expected.get(path))}"
                )

        targets = {path: np.empty(shape, dtype) for path, (dtype, shape) in expected.items()}
        try:
            items = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(targets))
            )
            arrays = {path: np.asarray(items["state"][path]) for path in targets}
        except Exception as error:
            raise _DamagedError(f"its arrays cannot be read ({_first_line(error)})") from error
        for path, array in arrays.items():
            if _describe(array) != leaves[path]:
                raise _DamagedError(f"{path} is not what was saved")
        return arrays

    def _set_aside(self, step: int) -> None:
        graveyard = self._directory.parent / "damaged"
        graveyard.mkdir(exist_ok=True)
        number = 0
        while (target := graveyard / f"{step}-{number}").exists():
            number += 1
        (self._directory / str(step)).rename(target)
        self._manager.reload()
        _log.warning("It was moved to %s", target)


def _leaves(tree: Any) -> dict[str, Any]:
    """A tree's leaves by path, such as `gen.params.output.kernel`."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _manifest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    leaves = {path: _describe(array) for path, array in arrays.items()}
    return {"format": 1, "leaves": leaves, "crc32": _crc(leaves)}


def _checked(manifest: Any) -> dict[str, Any]:
    if manifest["crc32"] != _crc(manifest["leaves"]):
        raise ValueError("its checksum does not match")
    return manifest["leaves"]


def _crc(leaves: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(leaves, sort_keys=True).encode())


def _describe(array: np.ndarray) -> dict[str, Any]:
    crc = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return {"dtype": array.dtype.name, "shape": list(array.shape), "crc32": crc}


def _spell(leaf: tuple[np.dtype, tuple[int, ...]] | None) -> str:
    return "missing" if leaf is None else f"{leaf[0]} {list(leaf[1])}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
