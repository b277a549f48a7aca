"""The folder of a training run: its layout, its configuration file and its table of losses.

The arrays in `checkpoints/` are checkpoint.py's; the pictures are drawn in callbacks.py.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cgan_jax.checks import one_line, short_repr
from cgan_jax.config import TrainConfig, differences, from_dict, to_dict
from cgan_jax.environment import changes, environment
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.files import atomic_write, write_errors
from cgan_jax.runs.lock import LOCK

FORMAT = 1
LOSSES_HEADER = "epoch,batch,d_loss,g_loss\n"
_log = logging.getLogger("cgan_jax")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and what its `config.json` says.

    Attributes:
        path: the folder.
        config: what determines the run's numbers.
        class_names: one a class.
        environment: what the run's last digits depend on, as it was when the run began.
        data: `Dataset.identity` of the training images; None of a run that did not record it.
    """

    path: Path
    config: TrainConfig
    class_names: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=environment, compare=False)
    data: Mapping[str, Any] | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The folder of the best checkpoint, if one is kept; see best.py."""
        return self.path / "best"

    @property
    def losses(self) -> Path:
        return self.path / "losses.csv"

    @property
    def measures(self) -> Path:
        return self.path / "measures.csv"

    @property
    def command(self) -> Path:
        """The command that trained it last, to be given again; a library's run has none."""
        return self.path / "command.txt"

    def sample_grid(self, epoch: int) -> Path:
        """The picture made after so many epochs."""
        return self.path / "samples" / f"epoch_{epoch:04d}.png"

    def sample_grids(self) -> dict[int, Path]:
        """The pictures that are there, by epoch, in order."""
        found = (self.path / "samples").glob("epoch_*.png")
        numbers = {path.stem.removeprefix("epoch_"): path for path in found}
        return dict(sorted((int(n), path) for n, path in numbers.items() if n.isdecimal()))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """The run that a folder holds.

        Raises:
            RunError: the folder is missing or holds no run that this version can read.
        """
        path = Path(path)
        file = path / "config.json"
        try:
            saved = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            inner = next(iter(sorted(path.glob("*/config.json"))), None)
            raise RunError(
                f"{path} is not a run folder: it has no config.json\n"
                f"Name a run's folder{f', as {inner.parent}' if inner else ''}."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{file} cannot be read: {one_line(error)}\n"
                "expected JSON that you may read\nPut back the file, or name another folder."
            ) from error
        try:
            if not isinstance(saved, dict):
                raise ConfigError(f"it holds {short_repr(saved)}")
            if saved["format"] != FORMAT:
                raise RunError(
                    f"{path} has run format {short_repr(saved['format'])}; expected {FORMAT}.\n"
                    "Use the version of cgan_jax that made it, or a newer one."
                )
            names = saved["class_names"]
            if not (isinstance(names, list) and all(isinstance(n, str) for n in names) and names):
                raise ConfigError("class_names must be a list of names")
            began_in = saved.get("environment", {})
            if not isinstance(began_in, dict):
                raise ConfigError(f"environment is {short_repr(began_in)}")
            data = saved.get("data")
            if not (data is None or (isinstance(data, dict) and "sha256" in data)):
                raise ConfigError(f"data is {short_repr(data)}")
            return cls(path, from_dict(saved["config"]), tuple(names), began_in, data)
        except (ConfigError, KeyError) as error:
            missing = " is missing" if isinstance(error, KeyError) else ""
            reason = str(error).partition("\n")[0] + missing
            raise RunError(
                f"{file} is not a run's: {reason}\n"
                "expected a table with a run's format, config and class_names\n"
                "Put back the file, name another folder, or use the cgan_jax that wrote it."
            ) from error

    @classmethod
    def check(
        cls,
        path: str | os.PathLike[str],
        config: TrainConfig,
        *,
        resume: bool = True,
        data: Mapping[str, Any] | None = None,
    ) -> "RunFolder | None":
        """See whether a configuration can be trained in a folder, by `start`. Changes nothing.

        Args:
            path: the folder.
            config: what to train.
            resume: see `start`.
            data: `Dataset.identity` of the training images, where they are known already.

        Returns:
            the run that is there and may go on (it may have another number of epochs), or None
            where there is none yet, or none that is to go on.

        Raises:
            RunError: the folder holds something else, or a run of another configuration or of
                other data.
        """
        path = Path(path)
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.stat()  # it says what is wrong with a name, which is_file may not
            in_the_way = any(place.is_file() for place in (path, *path.parents))
            names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        except OSError as error:
            raise RunError(
                f"{path} cannot be a run folder: {error.strerror}\n"
                "expected a folder that you may read and write\nName another."
            ) from error
        if in_the_way:
            raise RunError(
                f"{path} cannot be a run folder: a file is in the way\n"
                "expected a folder, or nothing yet\nName another."
            )
        if names <= {LOCK}:
            return None
        if "config.json" not in names:
            raise RunError(
                f"{path} holds other files and no run.\nName a new or an empty folder, or a run's."
            )
        if not resume:
            return None
        run = cls.open(path)
        changed = [d for d in differences(run.config, config) if not d.startswith("epochs:")]
        if changed:
            raise RunError(
                f"{path} holds a run of another configuration ({'; '.join(changed)}).\n"
                "Give the settings of that run to go on with it, or another folder for a new one."
            )
        if data and run.data and data["sha256"] != run.data["sha256"]:
            before, now = (
                f"{each.get('n_images')} images of {each.get('name')}, "
                f"SHA-256 {str(each['sha256'])[:12]}"
                for each in (run.data, data)
            )
            raise RunError(
                f"{path} holds a run of other data ({before} -> {now})\n"
                "expected the images that it began with\n"
                "Give those to go on with it, or another folder for a new run."
            )
        return run

    @classmethod
    def start(
        cls,
        path: str | os.PathLike[str],
        config: TrainConfig,
        class_names: tuple[str, ...],
        *,
        resume: bool = True,
        n_devices: int = 1,
        data: Mapping[str, Any] | None = None,
    ) -> "RunFolder":
        """Make a run folder, or open the one that is there.

        Args:
            path: the folder.
            config: what to train. Its number of epochs may exceed that of the run that is there.
            class_names: one a class.
            resume: go on with a run that is there; otherwise rename that run's folder, and begin
                anew.
            n_devices: how many are to train it, on which its last digits depend.
            data: `Dataset.identity` of the training images, by which going on with others is
                noticed.

        Raises:
            RunError: as `check`; or the folder cannot be written.
        """
        path = Path(path)
        try:
            found = cls.check(path, config, resume=resume, data=data)
            if not resume and (path / "config.json").exists():
                _rename_away(path)
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, config, class_names, environment(n_devices), data)
            if found:
                if changed := changes(found.environment, run.environment):
                    _log.warning(
                        "The run began elsewhere (%s): from here on its last digits are not those "
                        "that it would have had there.",
                        "; ".join(changed),
                    )
                run = replace(run, environment=found.environment, data=found.data or data)
            if found is None or config.epochs > found.config.epochs:
                run._write_config()
        except OSError as error:
            raise RunError(f"the run folder {path} cannot be written: {error}") from error
        return run

    def _write_config(self) -> None:
        saved: dict[str, Any] = {
            "format": FORMAT,
            "config": to_dict(self.config),
            "class_names": list(self.class_names),
            "environment": self.environment,
            "data": self.data,
        }
        with atomic_write(self.path / "config.json") as file:
            file.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")

    def steps_logged(self) -> int:
        """How many rows `losses.csv` has."""
        if not self.losses.exists():
            return 0
        with self.losses.open("rb") as file:
            return max(0, sum(1 for _ in file) - 1)

    def steps_done(self) -> int:
        """The newest checkpoint's step, or the rows of `losses.csv` if they are more.

        A run imported from elsewhere has no rows for the steps taken there.
        """
        saved = (int(p.name) for p in self.checkpoints.glob("*") if p.name.isdecimal())
        return max(self.steps_logged(), max(saved, default=0))

    def rewind_losses(self, step: int, steps_per_epoch: int) -> None:
        """Make `losses.csv` hold the rows of the first `step` steps, ready for the next one's.

        Rows after that were written by a run that ended before it saved again.

        Raises:
            RunError: the file cannot be read or written, or its rows are not four numbers each.
        """
        kept: list[str] = []
        try:
            if self.losses.exists():
                lines = self.losses.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
                kept = lines[:step]
                if len(kept) < step:
                    kept = [row for row in lines if _is_before(row, step, steps_per_epoch)]
            if kept and np.loadtxt(kept, delimiter=",", ndmin=2).shape != (len(kept), 4):
                raise ValueError("it has other columns")
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.losses} cannot be read: {one_line(error)}\n"
                "expected rows of epoch, batch, d_loss, g_loss\n"
                "Move it away; then the same command goes on, with the rows from there on."
            ) from error
        if len(kept) < step:
            _log.warning("%s lacks rows: it has %d of %d", self.losses, len(kept), step)
        with atomic_write(self.losses) as file:
            file.write_text(LOSSES_HEADER + "".join(kept), encoding="utf-8")


def append_losses(path: Path, epoch: int, batch: int, losses: np.ndarray) -> None:
    """Add a row a step to a `losses.csv`.

    Args:
        path: the file.
        epoch: counted from 0, as in the report.
        batch: the first step's place in its epoch, from 0.
        losses: float32 `[n, 2]`: d_loss and g_loss.
    """
    rows = (f"{epoch},{batch + i},{d:.9g},{g:.9g}\n" for i, (d, g) in enumerate(losses.tolist()))
    with write_errors(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(rows))


def runs_in(paths: Iterable[Path]) -> list[RunFolder]:
    """The runs in folders, or in folders of such, as a sweep's is.

    Raises:
        RunError: one holds none.
    """
    found = []
    for path in paths:
        inner = sorted(config.parent for config in path.glob("*/config.json"))
        if (path / "config.json").exists() or not inner:
            inner = [path]
        found += [RunFolder.open(each) for each in inner]
    return found


def read_losses(path: Path) -> np.ndarray:
    """The d_loss and g_loss columns of a `losses.csv`, float64 `[steps, 2]`."""
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=(2, 3), ndmin=2)


def _is_before(row: str, step: int, steps_per_epoch: int) -> bool:
    epoch, batch, *_ = row.split(",")
    return int(epoch) * steps_per_epoch + int(batch) < step


def _rename_away(path: Path) -> None:
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(target)
    if (target / LOCK).exists():  # it stays with the name, and with whoever holds it
        path.mkdir()
        (target / LOCK).rename(path / LOCK)
    _log.warning("The run in %s was moved to %s", path, target)
