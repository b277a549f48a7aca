"""The folder of a training run: its layout and its configuration file.

The arrays in `checkpoints/` are checkpoint.py's, the tables tables.py's; the pictures are drawn by
cgan_jax/reporting/.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cgan_jax.checks import as_path, errors_as, short_repr
from cgan_jax.config import TrainConfig, differences, from_dict, to_dict
from cgan_jax.environment import changes, environment
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.files import write_errors, write_json
from cgan_jax.runs.lock import LOCK_FILES

FORMAT = 1
_log = logging.getLogger("cgan_jax")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and what its `config.json` says.

    Attributes:
        path: the folder.
        config: what determines the run's numbers.
        class_names: one per class.
        environment: what the run's last digits depend on, as it was when the run began.
        data: `Dataset.identity` of the training images, and as "test" of the test images if it was
            recorded; None of a run that recorded neither.
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
        """The folder of the best checkpoint, which the callback `BestCheckpoint` writes."""
        return self.path / "best"

    @property
    def losses(self) -> Path:
        return self.path / "losses.csv"

    @property
    def measures(self) -> Path:
        return self.path / "measures.csv"

    @property
    def class_counts(self) -> Path:
        """How many training images each class has; a run of the library alone has none."""
        return self.path / "classes.csv"

    @property
    def nearest(self) -> Path:
        """The last samples, each above the training image nearest to it by pixels."""
        return self.path / "nearest.png"

    @property
    def command(self) -> Path:
        """The command that trained it last, to rerun it; a run of the library alone has none."""
        return self.path / "command.txt"

    @property
    def init(self) -> Path:
        """What the first weights were taken from; a run that drew its own has none."""
        return self.path / "init.json"

    def sample_grid(self, epoch: int) -> Path:
        """The picture drawn after `epoch` epochs."""
        return self.path / "samples" / f"epoch_{epoch:04d}.png"

    @property
    def stopped_grid(self) -> Path:
        """The picture drawn where training stopped between two of these; gone once it resumes."""
        return self.path / "samples" / "stopped.png"

    def sample_grids(self) -> dict[int, Path]:
        """The pictures of epochs that are there, in order."""
        files = (self.path / "samples").glob("epoch_*.png")
        numbers = {path.stem.removeprefix("epoch_"): path for path in files}
        return dict(sorted((int(n), path) for n, path in numbers.items() if n.isdecimal()))

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
        return max(self.steps_logged(), self.steps_saved())

    def steps_saved(self) -> int:
        """The newest step in `checkpoints/`, by the names there; 0 without any."""
        names = [path.name for path in self.checkpoints.glob("*")]
        return max((int(name) for name in names if name.isdecimal()), default=0)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """The run that a folder holds.

        Raises:
            RunError: the folder is missing or holds no run that this version can read.
        """
        path = as_path(path, "path")
        file = path / "config.json"
        then = "expected JSON that you may read\nPut back the file, or name another folder."
        with errors_as(RunError, f"{file} cannot be read", then):
            if not file.exists():
                inner = next(iter(sorted(path.glob("*/config.json"))), None)
                raise RunError(
                    f"{path} is not a run folder: it has no config.json\n"
                    f"Name a run's folder{f', such as {inner.parent}' if inner else ''}."
                )
            saved = json.loads(file.read_text(encoding="utf-8"))
        then = (
            "expected a table with a run's format, config and class_names\n"
            "Put back the file, name another folder, or use the cgan_jax that wrote it."
        )
        try:
            if not isinstance(saved, dict):
                raise ConfigError(f"it holds {short_repr(saved)}")
            if saved["format"] != FORMAT:
                raise RunError(
                    f"{path} has run format {short_repr(saved['format'])}; expected {FORMAT}.\n"
                    "Use the version of cgan_jax that wrote it, or a newer one."
                )
            names = saved["class_names"]
            if not (isinstance(names, list) and all(isinstance(n, str) for n in names) and names):
                raise ConfigError("class_names must be a list of names")
            origin = saved.get("environment", {})
            if not isinstance(origin, dict):
                raise ConfigError(f"environment is {short_repr(origin)}")
            data = saved.get("data")
            parts = [data, data.get("test", data)] if isinstance(data, dict) else [data]
            is_whole = all(isinstance(part, dict) and "sha256" in part for part in parts)
            if not (data is None or is_whole):
                raise ConfigError(f"data is {short_repr(data)}")
            return cls(path, from_dict(saved["config"]), tuple(names), origin, data)
        except (ConfigError, KeyError) as error:
            missing = " is missing" if isinstance(error, KeyError) else ""
            reason = str(error).partition("\n")[0] + missing
            raise RunError(f"{file} is not a run's: {reason}\n{then}") from error

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
            the run that is there and can be resumed (it may have another number of epochs), or
            None where there is none yet, or none to resume.

        Raises:
            RunError: the folder holds something else, or a run of another configuration or of
                other data.
        """
        path = as_path(path, "path")
        names = _names_in(path)
        if names <= LOCK_FILES:
            return None
        if "config.json" not in names:
            raise RunError(
                f"{path} holds other files, and not a run\n"
                "expected a new or an empty folder, or a run's\nName another."
            )
        if not resume:
            return None
        run = cls.open(path)
        before, now = ((each or {}).get("sha256") for each in (run.data, data))
        same_images = before is not None and before == now  # whatever they are called
        may_differ = ("epochs:", "dataset:") if same_images else ("epochs:",)
        changed = [d for d in differences(run.config, config) if not d.startswith(may_differ)]
        if run.data and data and not same_images:
            before, now = (
                f"{each.get('n_images')} images of {each.get('name')}, "
                f"SHA-256 {str(each['sha256'])[:12]}"
                for each in (run.data, data)
            )
            changed.append(f"other data: {before} -> {now}")
        if changed:
            raise RunError(
                f"{path} holds a run of another configuration ({'; '.join(changed)}).\n"
                "Give that run's settings and images to resume it, or another folder for a new run."
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
            class_names: one per class.
            resume: resume a run that is there; otherwise move that run away, beside the folder,
                and start over.
            n_devices: how many are to train it, on which its last digits depend.
            data: `Dataset.identity` of the training images, by which a run that is resumed with
                others is noticed.

        Raises:
            RunError: as `check`; or the folder cannot be written.
        """
        path = as_path(path, "path")
        with write_errors(path):
            old = cls.check(path, config, resume=resume, data=data)
            if not resume and (path / "config.json").exists():
                _move_away(path)
            path.mkdir(parents=True, exist_ok=True)
            origin: Mapping[str, str] = environment(n_devices)
            if old:
                if changed := changes(old.environment, origin):
                    _log.warning(
                        "The run began elsewhere (%s): from here on its last digits are not those "
                        "that it would have had there.",
                        "; ".join(changed),
                    )
                config = replace(config, dataset=old.config.dataset)
                origin, data = old.environment, old.data or data
            run = cls(path, config, class_names, origin, data)
            if old is None or config.epochs > old.config.epochs:
                run._write_config()
        return run

    def _write_config(self) -> None:
        saved: dict[str, Any] = {
            "format": FORMAT,
            "config": to_dict(self.config),
            "class_names": list(self.class_names),
            "environment": self.environment,
            "data": self.data,
        }
        write_json(self.path / "config.json", saved)


def run_and_checkpoints(path: str | os.PathLike[str]) -> tuple[RunFolder, Path]:
    """The run that a folder holds, and where its checkpoints are; `best/` may be named itself.

    Raises:
        RunError: the folder is missing or holds no run that this version can read.
    """
    path = as_path(path, "path")
    if path.name == "best" and (path.parent / "config.json").is_file():
        run = RunFolder.open(path.parent)
        return run, run.best
    run = RunFolder.open(path)
    return run, run.checkpoints


def runs_in(paths: Iterable[Path]) -> list[RunFolder]:
    """The runs in folders, or in folders of run folders, such as a sweep's.

    Raises:
        RunError: one holds none.
    """
    runs = []
    for path in (as_path(path, "path") for path in paths):
        inner = sorted(config.parent for config in path.glob("*/config.json"))
        if (path / "config.json").exists() or not inner:
            inner = [path]
        runs += [RunFolder.open(folder) for folder in inner]
    return runs


def _names_in(path: Path) -> set[str]:
    """What is in a folder, which need not exist yet."""
    then = "expected a folder that you may read and write, or nothing yet\nName another."
    with errors_as(RunError, f"{path} cannot be a run folder", then, OSError):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # it says what is wrong with a name, which is_file may not
        if any(place.is_file() for place in (path, *path.parents)):
            raise FileExistsError("a file is in the way")
        return {entry.name for entry in path.iterdir()} if path.is_dir() else set()


def _move_away(path: Path) -> None:
    """Move what a run folder holds beside it: the lock stays, with whoever holds it."""
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    target.mkdir()
    # config.json last: if this ends in between, what is left is still a run folder.
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "config.json"):
        if entry.name not in LOCK_FILES:
            entry.rename(target / entry.name)
    _log.warning("The run in %s was moved to %s", path, target)
