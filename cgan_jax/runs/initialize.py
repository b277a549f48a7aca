"""A run's first state from the weights of another run: `init_from`.

To resume a run is restore.py's and the loop's; here the step is 0 and the optimizers are fresh.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cgan_jax.checks import as_path, errors_as, normalize_name, plural, size_text
from cgan_jax.config import BaseModelConfig, TrainConfig
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.files import write_json
from cgan_jax.model_config import kind_of
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder, run_and_checkpoints
from cgan_jax.training.gan import GAN, GANState, NetState

EXPECTED = "expected the same networks, apart from the number of classes"
# Settings of networks whose weights fit each other all the same; the classes have a check below.
MAY_DIFFER = ("n_classes", "label_dim", "dropout_rate", "bn_momentum", "precision")


@dataclass(frozen=True)
class Loaded:
    """What `init_from` took from a run. As text, one line.

    Attributes:
        run: the run's folder, or its `best/`, as it was named.
        step: of the checkpoint.
        arrays: number of arrays that were taken as they are.
        tables: number of arrays with one row per class, of which these rows were taken.
        rows: for each class of the new run, the class whose row it starts from; None for the mean
            of all rows.
        average: where the average of the generator starts: at the other run's "average", or at its
            "weights"; None if the new run keeps none.
    """

    run: str
    step: int
    arrays: int
    tables: int
    rows: tuple[str | None, ...]
    average: str | None

    def __str__(self) -> str:
        n, same = len(self.rows), sum(row is not None for row in self.rows)
        rows = (
            "row by row" if same == n else f"({same} by name, {n - same} by the mean of all rows)"
        )
        average = {"average": ", average included", "weights": ", where the average starts too"}
        return (
            f"Starting at the weights of {self.run} after {plural(self.step, 'step')}"
            f"{average.get(self.average or '', '')}: {plural(self.arrays, 'array')}, and "
            f"{plural(self.tables, 'table')} of {plural(n, 'class', 'classes')} {rows}. "
            "Not taken: the state of the optimizers."
        )

    def save(self, run: RunFolder) -> None:
        """Write it into the folder of the new run, as `init.json`.

        Raises:
            RunError: it cannot be written.
        """
        write_json(run.init, asdict(self))


def source_of(run: RunFolder) -> str | None:
    """The run whose weights a run started from, as it was named; None if it drew its own.

    Raises:
        RunError: its `init.json` cannot be read.
    """
    then = "expected the name of the run that it started from\nRestore the file."
    with errors_as(RunError, f"{run.init} cannot be read", then):
        if not run.init.exists():
            return None
        return str(json.loads(run.init.read_text(encoding="utf-8"))["run"])


def init_from(
    gan: GAN, config: TrainConfig, class_names: Sequence[str], run_dir: str | os.PathLike[str]
) -> tuple[GANState, Loaded]:
    """A first state with the weights of another run's newest intact checkpoint.

    Both networks' parameters and statistics are taken, and the average of the generator if both
    runs keep one; if only the new run does, its average starts at the weights. The step is 0, and
    the optimizers are fresh. In a table with one row per class (embeddings, conditional
    normalisation, projections) a class takes the row of the class of the same name, or without one
    the mean of all rows. If no name is the same, as many classes take the rows in their order.

    Args:
        gan: what to train.
        config: its settings. The networks' must be the other run's, apart from the number of
            classes, dropout, momentum and precision.
        class_names: of the new run's data.
        run_dir: the other run's folder, or the folder `best/` in it for its best checkpoint.

    Returns:
        the state, for `train(..., state=state)`, and what was taken.

    Raises:
        ConfigError: the other run's networks differ.
        RunError: not a run folder, or no checkpoint in it can be read.
    """
    path = as_path(run_dir, "init_from")
    run, folder = run_and_checkpoints(path)
    _check_networks(path, run.config.model, config.model)
    with Checkpoints(folder, read_only=True) as checkpoints:
        saved = checkpoints.leaves()
        keeps_average = gan.average is not None
        only = tuple(name for name in saved if _is_taken(name, keeps_average))
        like = {name: saved[name] for name in only}
        arrays: dict[str, Any] = checkpoints.restore(like, only=only)
    _check_label_width(path, run.config.model, config.model, arrays)
    rows = class_rows(class_names, run.class_names)
    tables = [
        name
        for name, array in arrays.items()
        if name.endswith(".embedding") and len(array) == len(run.class_names)
    ]
    if rows != list(range(len(run.class_names))):
        arrays |= _with_rows(arrays, tables, rows)
    names = tuple(None if row is None else run.class_names[row] for row in rows)
    had_average = any(name.startswith("average.") for name in arrays)
    average = ("average" if had_average else "weights") if keeps_average else None
    loaded = Loaded(
        str(path), int(arrays.pop("step")), len(arrays) - len(tables), len(tables), names, average
    )
    return _state(gan, arrays, loaded), loaded


def _is_taken(path: str, keeps_average: bool) -> bool:
    """Whether a saved array is of the networks, and not of their optimizers or a user's step."""
    part, _, rest = path.partition(".")
    if part in ("gen", "disc"):
        return not rest.startswith("opt_state.")
    return path == "step" or (part == "average" and keeps_average)


def class_rows(new: Sequence[str], old: Sequence[str]) -> list[int | None]:
    """The row of a table of old classes that each new class starts from; see `init_from`."""
    ids: dict[str, int | None] = {}
    for i, name in enumerate(map(normalize_name, old)):
        ids[name] = None if name in ids else i  # of two classes with one name, neither
    rows = [ids.get(normalize_name(name)) for name in new]
    if len(new) == len(old) and (tuple(new) == tuple(old) or set(rows) == {None}):
        return list(range(len(old)))
    return rows


def _with_rows(
    arrays: dict[str, np.ndarray], tables: Sequence[str], rows: Sequence[int | None]
) -> dict[str, np.ndarray]:
    """Tables with these rows, and the vectors of their spectral normalisation."""
    new: dict[str, np.ndarray] = {}
    for name in tables:
        old = arrays[name]
        mean = old.mean(0)
        new[name] = np.stack([mean if row is None else old[row] for row in rows])
        vectors = name.replace(".params.", ".batch_stats.").removesuffix(".embedding") + "_norm."
        if f"{vectors}u" in arrays:
            u, _, v = np.linalg.svd(new[name], full_matrices=False)
            new |= {f"{vectors}u": u[:, 0], f"{vectors}v": v[0]}
    return new


def _state(gan: GAN, arrays: dict[str, np.ndarray], loaded: Loaded) -> GANState:
    """The state with these arrays, by path."""
    like = jax.eval_shape(gan.init, jax.random.key(0))

    def take(part: str, tree: Any) -> Any:
        def leaf(path: Any, wanted: Any) -> jax.Array:
            name = f"{part}.{jax.tree_util.keystr(path, simple=True, separator='.')}"
            array = arrays.get(name)
            if array is None or (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
                actual = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise ConfigError(
                    f"{loaded.run} does not fit: {name} is {actual}, the new run's is "
                    f"{wanted.dtype} {list(wanted.shape)}\n"
                    f"{EXPECTED}\n"
                    "Name another run, or use its networks."
                )
            return jnp.array(array)  # a copy each: a step must not be given an array twice

        return jax.tree.map_with_path(leaf, tree)

    def network(part: str, net: NetState, optimizer: optax.GradientTransformation) -> NetState:
        variables = take(part, net.variables)
        return NetState(variables, optimizer.init(variables["params"]))

    return GANState(
        step=jnp.zeros((), jnp.int32),
        gen=network("gen", like.gen, gan.gen_optimizer),
        disc=network("disc", like.disc, gan.disc_optimizer),
        average=take({"weights": "gen"}.get(loaded.average or "", "average"), like.average),
        extra=gan.init_extra() if gan.init_extra else None,
    )


def _check_networks(path: Path, old: BaseModelConfig, new: BaseModelConfig) -> None:
    """Raises ConfigError unless the networks of both configurations are alike but for classes."""
    if type(old) is not type(new):
        raise ConfigError(
            f"{path} does not fit: its networks are of kind {kind_of(old)}, not {kind_of(new)}\n"
            f"{EXPECTED}\n"
            f"Choose a preset with networks of kind {kind_of(old)}, or name another run."
        )
    before, after = (
        {name: value for name, value in vars(model).items() if name not in MAY_DIFFER}
        for model in (old, new)
    )
    differ = [name for name in before if before[name] != after[name]]
    if differ:
        changes = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in differ)
        raise ConfigError(
            f"{path} does not fit: other networks ({changes})\n"
            f"{EXPECTED}\n"
            f"Give {_flags({name: before[name] for name in differ})}, or name another run."
        )


def _check_label_width(
    path: Path, old: BaseModelConfig, new: BaseModelConfig, arrays: Iterable[str]
) -> None:
    """Raises ConfigError for label embeddings of another width, in networks that have some.

    By default the width is the number of classes, so that further layers depend on it.
    """
    before, after = old.embedding_width, new.embedding_width
    if before != after and any("label_embedding" in name for name in arrays):
        raise ConfigError(
            f"{path} does not fit: its label embeddings have {before} numbers, the new run's "
            f"{after}\nexpected the same width; without label_dim it is the number of classes\n"
            f"Give {_flags({'label_dim': before})}, or name another run."
        )


def _flags(values: dict[str, Any]) -> str:
    """Settings as a command line has them: widths apart, the sides of an image together."""
    words = {
        name: (size_text(value) if name == "img_size" else " ".join(map(str, value)))
        if isinstance(value, tuple)
        else value
        for name, value in values.items()
    }
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in words.items())
