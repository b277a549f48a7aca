"""The folder of a training run: its layout, its configuration file and its table of losses.

The arrays in `checkpoints/` are checkpoint.py's; the pictures are drawn in callbacks.py.
"""

import json
import logging
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgan_jax.config import TrainConfig, differences, from_dict, to_dict
from cgan_jax.errors import ConfigError, RunError

if TYPE_CHECKING:
    from cgan_jax.state import GAN, GANState

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
    """

    path: Path
    config: TrainConfig
    class_names: tuple[str, ...]

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def losses(self) -> Path:
        return self.path / "losses.csv"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """The run that a folder holds.

        Raises:
            RunError: the folder is missing or holds no run that this version can read.
        """
        path = Path(path)
        try:
            saved = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path} is not a run folder: it has no config.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path / 'config.json'} cannot be read: {error}") from error
        try:
            if saved["format"] != FORMAT:
                raise RunError(
                    f"{path} has run format {saved['format']!r:.20}; expected {FORMAT}.\n"
                    "Use the version of cgan_jax that made it, or a newer one."
                )
            names = saved["class_names"]
            if not (isinstance(names, list) and all(isinstance(n, str) for n in names) and names):
                raise ConfigError("class_names must be a list of names")
            return cls(path, from_dict(saved["config"]), tuple(names))
        except (ConfigError, KeyError, TypeError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
            raise RunError(f"{path / 'config.json'} is not a run's: {reason}") from error

    @classmethod
    def check(cls, path: str | os.PathLike[str], config: TrainConfig) -> "RunFolder | None":
        """See whether a configuration can be trained in a folder. Changes nothing.

        Returns:
            the run that is there and may go on (it may have another number of epochs), or None
            where there is none yet.

        Raises:
            RunError: the folder holds something else, or a run of another configuration.
        """
        path = Path(path)
        if path.is_file() or any(parent.is_file() for parent in path.parents):
            raise RunError(f"{path} cannot be a run folder: a file is in the way")
        if not path.is_dir() or not any(path.iterdir()):
            return None
        if not (path / "config.json").exists():
            raise RunError(
                f"{path} holds other files and no run.\nName a new or an empty folder, or a run's."
            )
        run = cls.open(path)
        changed = [d for d in differences(run.config, config) if not d.startswith("epochs:")]
        if changed:
            raise RunError(
                f"{path} holds a run of another configuration ({'; '.join(changed)}).\n"
                "Give the settings of that run to go on with it, or another folder for a new one."
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
    ) -> "RunFolder":
        """Make a run folder, or open the one that is there.

        Args:
            path: the folder.
            config: what to train. Its number of epochs may exceed that of the run that is there.
            class_names: one a class.
            resume: go on with a run that is there; otherwise rename that run's folder, and begin
                anew.

        Raises:
            RunError: as `check`; or the folder cannot be written.
        """
        path = Path(path)
        try:
            if path.is_dir() and not resume and (path / "config.json").exists():
                _rename_away(path)
            found = cls.check(path, config)
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, config, class_names)
            if found is None or config.epochs > found.config.epochs:
                run._write_config()
        except OSError as error:
            raise RunError(f"the run folder {path} cannot be written: {error}") from error
        return run

    def restore(self) -> tuple["GAN", "GANState"]:
        """The run's GAN and the state of its newest intact checkpoint. Changes nothing.

        Raises:
            RunError: no checkpoint can be read.
        """
        import jax  # here, so that a command line can look into a folder without JAX

        from cgan_jax.checkpoint import Checkpoints
        from cgan_jax.state import GAN

        gan = GAN.from_config(self.config)
        with Checkpoints(self.checkpoints, read_only=True) as checkpoints:
            return gan, checkpoints.restore(jax.eval_shape(gan.init, jax.random.key(0)))

    def _write_config(self) -> None:
        packages = ("cgan_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
        saved: dict[str, Any] = {
            "format": FORMAT,
            "config": to_dict(self.config),
            "class_names": list(self.class_names),
            "versions": {package: version(package) for package in packages},
        }
        write_atomically(self.path / "config.json", json.dumps(saved, indent=2) + "\n")

    def rewind_losses(self, step: int, steps_per_epoch: int) -> None:
        """Make `losses.csv` hold the rows of the first `step` steps, ready for the next one's.

        Rows after that were written by a run that ended before it saved again.
        """
        lines: list[str] = []
        if self.losses.exists():
            lines = self.losses.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
        kept = lines[:step]
        if len(kept) < step:
            _log.warning("%s lacks rows: it has %d of %d", self.losses, len(kept), step)
            kept = [row for row in lines if _is_before(row, step, steps_per_epoch)]
        write_atomically(self.losses, LOSSES_HEADER + "".join(kept))


def append_losses(path: Path, epoch: int, batch: int, losses: np.ndarray) -> None:
    """Add a row a step to a `losses.csv`.

    Args:
        path: the file.
        epoch: counted from 0, as in the report.
        batch: the first step's place in its epoch, from 0.
        losses: float32 `[n, 2]`: d_loss and g_loss.
    """
    rows = (f"{epoch},{batch + i},{d:.9g},{g:.9g}\n" for i, (d, g) in enumerate(losses.tolist()))
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(rows))


def read_losses(path: Path) -> np.ndarray:
    """The d_loss and g_loss columns of a `losses.csv`, float64 `[steps, 2]`."""
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=(2, 3), ndmin=2)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file such that whoever opens it, whenever, sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _is_before(row: str, step: int, steps_per_epoch: int) -> bool:
    epoch, batch, *_ = row.split(",")
    return int(epoch) * steps_per_epoch + int(batch) < step


def _rename_away(path: Path) -> None:
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(target)
    _log.warning("The run in %s was moved to %s", path, target)
