"""A sweep's folder: one run folder per member, and sweep.json, which lists the members."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cgan_jax.checks import errors_as, one_line, short_repr
from cgan_jax.config import TrainConfig
from cgan_jax.errors import RunError
from cgan_jax.files import write_json
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import LOCK_FILES

FORMAT = 1
FILE = "sweep.json"


@dataclass
class SweepFolder:
    """A folder with runs that were trained together.

    Attributes:
        path: the folder.
        members: the names of its runs' folders.
        diverged: the members that have diverged, and in which step.
    """

    path: Path
    members: tuple[str, ...]
    diverged: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "SweepFolder":
        """The sweep in a folder.

        Raises:
            RunError: the folder has no sweep that this version can read.
        """
        file = path / FILE
        then = "expected the file that a sweep wrote\nPut back the file, or name another folder."
        with errors_as(RunError, f"{file} cannot be read", then):
            saved = json.loads(file.read_text(encoding="utf-8"))
            if saved["format"] != FORMAT:
                raise ValueError(f"its format is {short_repr(saved['format'])}, expected {FORMAT}")
            diverged = {str(name): int(step) for name, step in saved["diverged"].items()}
            return cls(path, tuple(map(str, saved["members"])), diverged)

    @classmethod
    def check(cls, path: Path, members: Mapping[str, TrainConfig]) -> "SweepFolder":
        """Check that members can be trained in a folder, by `start`. Changes nothing.

        Returns:
            the sweep in the folder, or a new one that is not written yet.

        Raises:
            RunError: the folder holds something else, or a sweep of other members.
        """
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if not names - LOCK_FILES:
            RunFolder.check(path, next(iter(members.values())))  # the checks of any new folder
            return cls(path, tuple(members))
        if FILE not in names:
            raise RunError(
                f"{path} holds other files and no sweep\n"
                "Name a new or an empty folder, or a sweep's."
            )
        sweep = cls.open(path)
        if set(sweep.members) != set(members):
            raise RunError(
                f"{path} holds a sweep of other members ({one_line(', '.join(sweep.members))})\n"
                "Give the settings of that sweep to resume it, or another folder for a new one."
            )
        for name, config in members.items():
            RunFolder.check(path / name, config)
        return sweep

    @classmethod
    def start(cls, path: Path, members: Mapping[str, TrainConfig]) -> "SweepFolder":
        """Create a sweep's folder, or open the existing one.

        Raises:
            RunError: as `check`; or it cannot be written.
        """
        sweep = cls.check(path, members)
        sweep._write()
        return sweep

    def note_divergence(self, name: str, step: int) -> None:
        """Record that a member has diverged, so that it is not resumed."""
        self.diverged[name] = step
        self._write()

    def _write(self) -> None:
        saved = {"format": FORMAT, "members": self.members, "diverged": self.diverged}
        write_json(self.path / FILE, saved)
