"""The flags of all commands that train one run, and what they ask for.

Each command adds its own, for its data above all. A run's folder is enough to resume it: what is
not given on the command line comes from the folder, then from the preset. Imports no JAX.
"""

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TypeVar

import tyro

from cgan_jax.checks import Count, ImageSize, Range
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.data.dataset import Placement
from cgan_jax.errors import CGANError, ConfigError
from cgan_jax.presets import PRESETS, preset
from cgan_jax.runs.folder import RunFolder, run_and_checkpoints
from experiments.shared.command_line import parse
from experiments.shared.settings import Field, flag_fields, given, settings, with_settings

PRESET_HELP = (
    f"The recipe that gives the defaults of all settings: {', '.join(PRESETS)}. A run that is "
    "resumed keeps its own settings."
)


INT, PATH = tyro.conf.arg(metavar="INT"), tyro.conf.arg(metavar="PATH")


class OwnFlags(Protocol):
    """A command's own flags, a dataclass."""

    @classmethod
    def folder(cls, words: Sequence[str]) -> Path | None:
        """The run's folder, found among unparsed words; None where they do not tell."""

    def img_size_to_check(self) -> ImageSize | None:
        """The image size to check a model's settings with; None for the preset's."""


Own = TypeVar("Own", bound=OwnFlags)
Part = TypeVar("Part")


@dataclass(frozen=True)
class PresetFlag:
    """The recipe to start from."""

    preset: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="", help=PRESET_HELP)
    ] = None


@dataclass(frozen=True)
class StartFlags(PresetFlag):
    """Where a run starts."""

    resume: bool = True
    """Resume the run in the folder; --no-resume moves it aside and starts over."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what would be trained, from which data, how long it takes and how much memory; train
    nothing."""


@dataclass(frozen=True)
class WeightFlags:
    """Whose weights a run starts from."""

    init_from: Annotated[Path | None, PATH] = None
    """Start from the weights of another run with the same networks: its folder, or best/ in it.
    Data, classes, loss and optimizer may be others. By default the weights are drawn."""


@dataclass(frozen=True)
class OutputFlags:
    """What a run writes and prints, and how often."""

    sample_every: Count = 5
    """Epochs between two grids of samples."""
    checkpoint_every: Count = 5
    """Epochs between two checkpoints. A stopped run is saved anyway."""
    eval_every: Annotated[int, Range(0)] = 0
    """Epochs between two evaluations (measures.csv), by which the best checkpoint is kept; 0 for
    none."""
    log_every: Annotated[int, Range(0)] = 0
    """Print the losses of every so many batches, in the report's format, which counts epochs from
    0; 0 for one line per epoch."""


@dataclass(frozen=True)
class DeviceFlags:
    """Several devices, several processes."""

    devices: Annotated[Count | None, INT] = None
    """How many devices share each batch. By default one; of several processes, all."""
    placement: Placement = "auto"
    """Where the images are kept: on the device, or on the host, from where each chunk is read as
    it is needed, for data that fit into no memory. By default on the device if they are small."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One of several processes that train the run together. Under Slurm, Open MPI or Kubernetes
    they find each other; elsewhere say how with the next three."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Address of the first of several processes, host:port, for all of them."""
    processes: Annotated[int | None, INT] = None
    """How many processes there are."""
    process_id: Annotated[int | None, INT] = None
    """The number of this one, from 0. Process 0 has the run folder."""
    peer_timeout: Count = 60
    """Seconds without an answer after which a process counts as dead, and all others end."""

    def check(self) -> None:
        """Raises ConfigError for flags that do not go together."""
        explicit = self.coordinator, self.processes, self.process_id
        if any(flag is not None for flag in explicit) and None in explicit:
            raise ConfigError(
                "coordinator, processes and process-id belong together\n"
                "expected all three, or none\n"
                "Give all three, or --distributed alone where processes find each other."
            )

    @property
    def alone(self) -> bool:
        """Whether no other process trains the run too."""
        return not (self.distributed or self.coordinator)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Together with the other processes, if there are some; a failure of one ends them all."""
        if self.alone:
            yield
            return
        from cgan_jax.training import hosts

        hosts.initialize(self.coordinator, self.processes, self.process_id, self.peer_timeout)
        with hosts.report_failure(self.peer_timeout):
            yield


@dataclass(frozen=True)
class Job(Generic[Own]):
    """What a command line asks to train.

    Attributes:
        module: the command.
        own: its own flags.
        config: the settings.
        start: where the run starts.
        weights: from which weights.
        output: what it writes.
        device: what trains it.
    """

    module: str
    own: Own
    config: TrainConfig
    start: StartFlags
    weights: WeightFlags
    output: OutputFlags
    device: DeviceFlags

    @property
    def command(self) -> str:
        """The command that repeats all of it, for the run's folder."""
        groups = self.weights, self.output, self.device
        return command_line(self.module, self.own, setting_words(self.config), *groups)

    def train(
        self,
        config: TrainConfig,
        dataset: Dataset,
        workdir: Path,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Train, or say what would be trained, with data that are there; see `training.run`."""
        from experiments.shared import training  # imports JAX: only when all flags are good

        common: dict[str, Any] = {
            "data": data,
            "resume": self.start.resume,
            "device": self.device,
            "init_from": self.weights.init_from,
        }
        if self.start.dry_run:
            training.describe(config, dataset, workdir, **common)
        else:
            training.run(config, dataset, workdir, self.output, command=self.command, **common)


def parse_job(own: type[Own], module: str, words: Sequence[str] | None = None) -> Job[Own]:
    """The job of `python -m module`; a wrong flag ends the program with code 2.

    Args:
        own: a documented dataclass of the command's own flags, `workdir` among them.
        module: the command.
        words: the command line; by default the program's.

    Raises:
        ConfigError: a flag is out of range, or the preset is unknown.
        RunError: the folder's configuration cannot be read.
    """
    words = list(sys.argv[1:] if words is None else words)
    folder = None if "--no-resume" in words else own.folder(words)
    run = RunFolder.open(folder) if folder and holds_run(folder) else None
    name = flag_value(words, "--preset")
    # A run of the preset that is named again keeps its own settings.
    is_same = run is not None and name in (None, nearest_preset(run.config))
    base = run.config if run and is_same else preset(name or "report")
    if run and run.config.schedule_steps:  # a longer run does not stretch its schedules
        base = replace(base, schedule_steps=run.config.schedule_steps)
    setting_fields = flag_fields(base)
    kind = flags_class((own, StartFlags, WeightFlags), setting_fields, (OutputFlags, DeviceFlags))
    saved = saved_flags(kind, module, saved_words(module, run.command)) if run else None
    if saved:
        saved = replace(
            saved,
            **asdict(StartFlags()),
            device=DeviceFlags(devices=saved.device.devices),
            **vars(make_dataclass("Settings", setting_fields)()),
        )
    flags: Any = parse(kind, module, words, default=saved)
    flags.device.check()
    own_flags, weights = part_of(flags, own), part_of(flags, WeightFlags)
    if weights.init_from and run is None:  # to resume one, its source may have been removed
        run_and_checkpoints(weights.init_from)
    values = {each: given(flags, each) for each in settings(base)}
    config = with_settings(base, values, None if is_same else own_flags.img_size_to_check())
    start = part_of(flags, StartFlags)
    return Job(module, own_flags, config, start, weights, flags.output, flags.device)


def holds_run(folder: Path) -> bool:
    """Whether a folder seems to hold a run; what is wrong with its name is said elsewhere."""
    return os.path.isfile(folder / "config.json")


def flags_class(
    bases: Sequence[type], setting_fields: Sequence[Field], groups: Sequence[type] = ()
) -> Any:
    """A class of flags: those of the bases, one for each setting, and groups of others.

    Args:
        bases: documented dataclasses; the first one is the command's own.
        setting_fields: from `flag_fields`.
        groups: dataclasses, each a group of its own in `--help`.
    """
    others = [
        (kind.__name__.removesuffix("Flags").lower(), kind, field(default_factory=kind))
        for kind in groups
    ]
    own = bases[0]
    return make_dataclass(
        own.__name__,
        [*setting_fields, *others],
        bases=tuple(reversed(bases)),  # the last base's fields come first in a dataclass
        frozen=True,
        namespace={"__doc__": own.__doc__},
    )


def part_of(flags: Any, kind: type[Part]) -> Part:
    """The flags of one base class alone."""
    parts: Any = fields(kind)  # type: ignore[arg-type]
    return kind(**{each.name: getattr(flags, each.name) for each in parts})


def flag_value(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag among unparsed words, the last one if there are several."""
    value = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def positional_words(words: Sequence[str], own: type[OwnFlags]) -> list[str]:
    """The unparsed words that are neither flags nor the first value of one."""
    kinds: Any = (own, StartFlags, OutputFlags, DeviceFlags)
    values = {each.name: each.default for kind in kinds for each in fields(kind)}
    values |= {each.flag: each.value for each in settings(PRESETS["report"])}
    switches = [name for name, value in values.items() if isinstance(value, bool)]
    known = {f"--{no}{name}".replace("_", "-") for name in switches for no in ("", "no-")}
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-")
        and (not before.startswith("--") or "=" in before or before in known)
    ]


def saved_words(module: str, file: Path) -> list[str]:
    """The flags of the command that is kept in a file; none if it is another module's."""
    try:
        words = shlex.split(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return words[3:] if words[:3] == ["python", "-m", module] else []


def saved_flags(kind: type, module: str, words: Sequence[str]) -> Any:
    """The flags that `saved_words` found; None if there are none, or of a version with others."""
    if not words:
        return None
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse(kind, module, words)
    except (SystemExit, CGANError):
        return None


def nearest_preset(config: TrainConfig) -> str:
    """The preset with the same kind of networks and the fewest other settings that differ."""
    kind = type(config.model)
    names = [name for name, recipe in PRESETS.items() if type(recipe.model) is kind]
    return min(names, key=lambda name: len(setting_words(config, name)))


def setting_words(config: TrainConfig, name: str | None = None) -> list[str]:
    """The flags that turn a preset, by default the nearest one, into a configuration."""
    name = name or nearest_preset(config)
    before = {each.flag: each.value for each in settings(PRESETS[name])}
    words = [] if name == next(iter(PRESETS)) else ["--preset", name]
    for each in settings(config):
        if each.flag not in before or each.value != before[each.flag]:
            words += flag_words(each.flag, each.value)
    return words


def flag_words(name: str, value: Any) -> list[str]:
    """A flag with its value, as a command line has it."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    values = value if isinstance(value, tuple) else (value,)
    return [f"--{name}", *map(str, values)]


def command_line(module: str, own: Any, words: Sequence[str], *groups: Any) -> str:
    """The command with the given words for its settings, and what differs from defaults."""
    positional = [str(getattr(own, each.name)) for each in fields(own) if each.default is MISSING]
    others = [
        word
        for part in (own, *groups)
        for each in fields(part)
        if each.default is not MISSING and getattr(part, each.name) != each.default
        for word in flag_words(each.name, getattr(part, each.name))
    ]
    return shlex.join(["python", "-m", module, *positional, *words, *others])
