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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import MultiprocessingOptions

from cgan_jax.checks import all_finite, as_path, check_int
from cgan_jax.errors import DivergenceError, RunError
from cgan_jax.files import write_errors

State = TypeVar("State")
_log = logging.getLogger("cgan_jax")


class _DamagedError(Exception):
    """One step's files are not what was saved."""


class Checkpoints:
    """The checkpoints in a folder, one per training step. Use it in a `with` statement.

    Saving continues in the background; leaving the `with` statement waits for it. Without that a
    program could end before its last save has.

    Args:
        directory: where they are; created if it does not exist.
        keep: how many of the latest stay.
        read_only: never touch the folder.

    Raises:
        RunError: the directory does not exist, or cannot be written.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep: int = 3, read_only: bool = False
    ) -> None:
        keep = check_int("keep", keep, 1, hint="Omit it for the default, 3.")
        self._directory = as_path(directory, "directory").absolute()
        self._manager = None  # Orbax's, which only saving needs
        self._saving = 0  # the step of the last save, which may still be under way
        if read_only:
            if not self._directory.is_dir():
                raise self._no_checkpoints()
            return
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=False, multiprocessing_options=_this_process()
        )
        with write_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            with self._save_errors():
                if self._manager:
                    self._manager.close()
        except RunError:
            if error is None:
                raise

    def latest(self) -> int | None:
        """The newest saved step, or None."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """All saved steps, oldest first."""
        return [step for step in self._numbers() if (self._directory / str(step)).is_dir()]

    def leaves(self, at_most: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of the arrays in the newest saved step, by path.

        A path is such as `gen.params.output.kernel`. Steps whose manifest is damaged are passed
        over; without any other, the table is empty.

        Args:
            at_most: the newest step to consider; by default, all.
        """
        for step in reversed(self._numbers(at_most)):
            try:
                leaves = self._manifest(step).items()
            except _DamagedError:
                continue
            return {
                path: jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["dtype"]))
                for path, leaf in leaves
            }
        return {}

    def save(self, step: int, state: Any, source: Any = None) -> None:
        """Save a tree of arrays under a step number. Returns before all of it is written.

        Args:
            step: the number of steps done.
            state: the tree; keys of `jax.random` in it come back as keys.
            source: the state of the batches' iterator: bytes, or what JSON can hold.

        Raises:
            RunError: this one or the one before could not be written.
            DivergenceError: an array has NaN or infinite values; nothing is saved.
        """
        # A copy, since the caller is free to donate these buffers to the next step.
        arrays = {path: np.array(_key_data(leaf)) for path, leaf in _leaves(state).items()}
        for path, array in arrays.items():
            if not all_finite(array, np):
                raise DivergenceError(
                    f"{path} has NaN or infinite values after step {step}: it is not saved.\n"
                    "What was saved before stays. Try a lower learning rate, or another seed."
                )
        leaves = {path: _describe(array) for path, array in arrays.items()}
        manifest = {"format": 2, "step": step, "leaves": leaves, "crc32": _crc([step, leaves])}
        if source is not None:
            manifest["source"] = {"hex": source.hex()} if isinstance(source, bytes) else source
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), manifest=ocp.args.JsonSave(manifest)
        )
        assert self._manager, "opened with read_only=True"
        self._saving = step
        with self._save_errors():
            self._manager.save(step, args=items)

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
            only: read the arrays whose paths begin like this, such as `gen.params`, and leave the
                others alone; `like` has only these.

        Returns:
            the same tree, of NumPy arrays.

        Raises:
            RunError: no step is intact, or the newest intact one has other arrays than `like`.
        """
        damaged: dict[int, str] = {}
        wanted = _leaves(jax.tree.map(_like_saved, like))
        for step in reversed(self._numbers(at_most)):
            try:
                arrays = self._read(step, wanted, only)
            except _DamagedError as damage:
                damaged[step] = str(damage)
                continue
            for bad, reason in damaged.items():
                moved = f"; it was moved to {self._set_aside(bad)}" if self._manager else ""
                _log.warning("The checkpoint of step %d is damaged: %s%s", bad, reason, moved)
            as_in_like = map(_as_key, arrays, jax.tree.leaves(like))
            return jax.tree.unflatten(jax.tree.structure(like), as_in_like)
        if not damaged:
            raise self._no_checkpoints()
        newest, reason = next(iter(damaged.items()))
        raise RunError(
            f"no checkpoint in {self._directory} is intact (steps {', '.join(map(str, damaged))}): "
            f"of step {newest}, {reason}.\nPut back a copy, or start over in another folder."
        )

    def source_state(self, step: int) -> Any:
        """What was saved as `source` with a step, or None."""
        try:
            source = self._manifest_file(step).get("source")
        except (OSError, ValueError):
            return None
        is_bytes = isinstance(source, dict) and source.keys() == {"hex"}
        return bytes.fromhex(source["hex"]) if is_bytes else source

    def _numbers(self, at_most: int | None = None) -> list[int]:
        """The numbers that the folder has an entry for, in order, once all is written."""
        if self._manager:
            with self._save_errors():
                self._manager.wait_until_finished()
        names = (entry.name for entry in self._directory.iterdir())
        numbers = (int(name) for name in names if name.isdecimal() and name == str(int(name)))
        return sorted(n for n in numbers if at_most is None or n <= at_most)

    def _manifest(self, step: int) -> dict[str, Any]:
        """Dtype, shape and CRC-32 of the arrays of a step by path. Format 1 has no step."""
        try:
            manifest = self._manifest_file(step)
            saved_step, leaves = manifest.get("step", step), manifest["leaves"]
            facts = [saved_step, leaves] if manifest["format"] > 1 else leaves
            if manifest["crc32"] != _crc(facts):
                raise ValueError("its checksum does not match")
            if saved_step != step:
                raise ValueError(f"it was saved as step {saved_step}")
            return leaves
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _DamagedError(f"its manifest cannot be read ({_first_line(error)})") from error

    def _manifest_file(self, step: int) -> Any:
        file = self._directory / str(step) / "manifest" / "metadata"  # named by JsonSave
        return json.loads(file.read_text(encoding="utf-8"))

    def _read(self, step: int, like: Mapping[str, Any], only: tuple[str, ...]) -> list[np.ndarray]:
        """The arrays of a step, in the order of `like`."""
        leaves = self._manifest(step)
        saved = {
            path: _spell(leaf["dtype"], leaf["shape"])
            for path, leaf in leaves.items()
            if path.startswith(only)
        }
        expected = {path: _spell(leaf.dtype, leaf.shape) for path, leaf in like.items()}
        for path in expected | saved:
            actual, wanted = (each.get(path, "missing") for each in (saved, expected))
            if actual != wanted:
                raise RunError(
                    f"the checkpoint of step {step} in {self._directory} does not fit: {path} is "
                    f"{actual}, expected {wanted}\n"
                    "Use the configuration, or your own networks, that the run was trained with."
                )

        arrays = []
        try:
            # One after another: at the first damaged one Orbax would leave the others' reads under
            # way, and those complain on the screen.
            handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_this_process())
            with ocp.Checkpointer(handler, multiprocessing_options=_this_process()) as reader:
                for path, leaf in like.items():
                    args = ocp.args.PyTreeRestore(
                        {path: np.empty(leaf.shape, leaf.dtype)},
                        restore_args={path: ocp.RestoreArgs(restore_type=np.ndarray)},
                        partial_restore=True,
                    )
                    tree = reader.restore(self._directory / str(step) / "state", args=args)
                    arrays.append(np.asarray(tree[path]))
        except Exception as error:  # Orbax raises many kinds here
            raise _DamagedError(f"its arrays cannot be read ({_first_line(error)})") from error
        for path, array in zip(like, arrays, strict=True):
            if _describe(array) != leaves[path]:
                raise _DamagedError(f"{path} is not what was saved")
        return arrays

    def _no_checkpoints(self) -> RunError:
        return RunError(
            f"there are no checkpoints in {self._directory}\nexpected at least one checkpoint\n"
            "Name a run's folder after its first save."
        )

    @contextlib.contextmanager
    def _save_errors(self) -> Iterator[None]:
        """Turns Orbax's errors, of many kinds, which may come from a save in the background."""
        try:
            yield
        except Exception as error:
            # What the system said, if Tensorstore quotes it; otherwise how the error begins.
            quoted = re.search(r"([^:\[]+) \[os_error_code", str(error))
            raise RunError(
                f"the checkpoint of step {self._saving} could not be written to {self._directory} "
                f"({quoted[1].strip() if quoted else _first_line(error)}).\n"
                "Earlier ones are intact. Free some space, or make it writable; then resume the "
                "run."
            ) from error

    def _set_aside(self, step: int) -> Path:
        graveyard = self._directory.parent / "damaged"
        number = 0
        while (target := graveyard / f"{step}-{number}").exists():
            number += 1
        with write_errors(graveyard):
            graveyard.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(target)
        assert self._manager
        self._manager.reload()
        return target


def _this_process() -> MultiprocessingOptions:
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


def _key_data(leaf: Any) -> Any:
    """The numbers of a key of `jax.random`; any other leaf as it is."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like_saved(leaf: Any) -> Any:
    """The shape and dtype with which a leaf is saved."""
    return jax.eval_shape(_key_data, leaf) if _is_key(leaf) else leaf


def _as_key(array: np.ndarray, like: Any) -> Any:
    """An array as the key that it was when it was saved, if `like` is one."""
    if not _is_key(like):
        return array
    impl = jax.random.key_impl(jnp.empty((), like.dtype))
    return jax.random.wrap_key_data(jnp.asarray(array), impl=impl)


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _crc(facts: Any) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _describe(array: np.ndarray) -> dict[str, Any]:
    crc = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return {"dtype": array.dtype.name, "shape": list(array.shape), "crc32": crc}


def _spell(dtype: Any, shape: Sequence[int]) -> str:
    return f"{np.dtype(dtype)} {list(shape)}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
