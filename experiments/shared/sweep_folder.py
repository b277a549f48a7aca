"""A sweep's folder: a run folder for each member, and sweep.json, which says who is one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cgan_jax.checks import one_line, short_repr
from cgan_jax.config import TrainConfig
from cgan_jax.errors import RunError
from cgan_jax.files import atomic_write
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import LOCK_FILES

FORMAT = 1


@dataclass
class SweepFolder:
    """A folder with runs that were trained together.

    Attributes:
        path: the folder.
        members: the names of its runs' folders.
        diverged: the step in which they did, of members that have.
    """

    path: Path
    members: tuple[str, ...]
    diverged: dict[str, int] = field(default_factory=dict)

    def run(self, name: str) -> Path:
        """A member's run folder."""
        return self.path / name

    @property
    def _file(self) -> Path:
        return self.path / "sweep.json"

    @classmethod
    def open(cls, path: Path) -> "SweepFolder":
        """The sweep that a folder holds.

        Raises:
            RunError: it holds none that this version can read.
        """
        file = path / "sweep.json"
        try:
            saved = json.loads(file.read_text(encoding="utf-8"))
            if saved["format"] != FORMAT:
                raise ValueError(f"its format is {short_repr(saved['format'])}, expected {FORMAT}")
            diverged = {str(name): int(step) for name, step in saved["diverged"].items()}
            return cls(path, tuple(map(str, saved["members"])), diverged)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{file} cannot be read: {one_line(error)}\nexpected what a sweep wrote there\n"
                "Put back the file, or name another folder."
            ) from error

    @classmethod
    def check(cls, path: Path, members: Mapping[str, TrainConfig]) -> "SweepFolder | None":
        """See whether members can be trained in a folder, by `start`. Changes nothing.

        Returns:
            the sweep that is there, or None.

        Raises:
            RunError: the folder holds something else, or a sweep of other members.
        """
        # As for any run; a folder that holds something is looked at here.
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if not names - LOCK_FILES:
            RunFolder.check(path, next(iter(members.values())))
            return None
        if "sweep.json" not in names:
            raise RunError(
                f"{path} holds other files and no sweep.\nName a new or an empty folder, or a "
                "sweep's."
            )
        found = cls.open(path)
        if set(found.members) != set(members):
            raise RunError(
                f"{path} holds a sweep of other members ({one_line(', '.join(found.members))}).\n"
                "Give the settings of that sweep to go on with it, or another folder for a new one."
            )
        for name, config in members.items():
            RunFolder.check(found.run(name), config)
        return found

    @classmethod
    def start(cls, path: Path, members: Mapping[str, TrainConfig]) -> "SweepFolder":
        """Make a sweep's folder, or open the one that is there.

        Raises:
            RunError: as `check`; or it cannot be written.
        """
        found = cls.check(path, members)
        if found is None:
            found = cls(path, tuple(members))
            found._write()
        return found

    def note_divergence(self, name: str, step: int) -> None:
        """Keep in mind that a member has diverged: it is not to go on."""
        self.diverged[name] = step
        self._write()

    def _write(self) -> None:
        saved = {"format": FORMAT, "members": self.members, "diverged": self.diverged}
        with atomic_write(self._file) as file:
            file.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
