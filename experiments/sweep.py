"""Train many seeds, and small grids of settings: each member is a run folder of its own.

They are trained one after another by shared/sweep_training.py; the table and the plot of the
results are in shared/sweep_summary.py.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from cgan_jax.checks import Count, ImageSize, short_repr
from cgan_jax.config import TrainConfig
from cgan_jax.data import SPECS, Dataset
from cgan_jax.errors import ConfigError
from cgan_jax.presets import PRESETS, preset
from cgan_jax.runs.folder import RunFolder
from experiments import fashion_cgan
from experiments.shared.command_line import parse, run
from experiments.shared.data_flags import TRAIN, DataFlags, Parts, describe_holdout
from experiments.shared.settings import Setting, flag_fields, given, settings, with_settings
from experiments.shared.sweep_folder import SweepFolder
from experiments.shared.training_flags import (
    OutputFlags,
    PresetFlag,
    command_line,
    flag_value,
    flag_words,
    flags_class,
    holds_run,
    part_of,
    saved_flags,
    saved_words,
    setting_words,
)

MODULE = "experiments.sweep"
DATASET = PRESETS["report"].dataset


@dataclass(frozen=True)
class Flags(DataFlags):
    """Train with many seeds and settings. Run it again to resume after a stop.

    Every combination is a run, in a folder of its own that all other commands take. Most settings
    accept several values. The runs are trained one after another; those that differ in their seed
    alone share a compiled program.

    Examples:
      python -m experiments.sweep                                four seeds, 200 epochs
      python -m experiments.sweep --seeds 3 --lr 1e-4 2e-4 4e-4  three seeds of each
      python -m experiments.sweep --epochs 20 --loss hinge least_squares --workdir runs/losses
      python -m experiments.sweep --data photos/ --img-size 32 --workdir runs/photo_seeds
      python -m experiments.sweep --workdir runs/losses          resume it, with its settings
    """

    seeds: Count = 4
    """How many seeds of each setting, from --seed on."""
    workdir: Path = Path("runs/sweep")
    """The sweep's folder: a run folder for each member, sweep.csv and sweep.png."""
    data: Annotated[str, tyro.conf.arg(metavar="DATA")] = DATASET
    """A folder, an .npz file, or a name in TFDS, as for `train`. What is held out of them is the
    same in all runs: --seed chooses it, unless --holdout-seed does."""
    sample_every: Count = 20
    """Epochs between two grids of samples."""
    checkpoint_every: Count = 5
    """Epochs between two checkpoints. Stopped runs are saved anyway."""

    @property
    def plain(self) -> bool:
        """Whether the data are all of Fashion-MNIST, as its publishers have them."""
        return part_of(self, DataFlags) == DataFlags(DATASET, data_dir=self.data_dir)


def parse_sweep(
    words: Sequence[str] | None = None,
) -> tuple[Flags, dict[str, TrainConfig], str]:
    """The command's own flags, the members' configurations by name, and the whole command.

    What is not given comes from the command that is kept in the sweep's folder, then from the
    preset.

    Raises:
        ConfigError: a flag is out of range, or the preset is unknown.
    """
    words = list(sys.argv[1:] if words is None else words)
    file = Path(flag_value(words, "--workdir") or Flags.workdir).expanduser() / "command.txt"
    saved = saved_words(MODULE, file)
    name = flag_value([*saved, *words], "--preset") or "report"
    base = preset(name)
    kind = flags_class((Flags, PresetFlag), flag_fields(base, several=True))
    flags: Any = parse(kind, MODULE, words, default=saved_flags(kind, MODULE, saved))
    own = part_of(flags, Flags)
    values = {each: given(flags, each) for each in settings(base)}
    changed = [
        word
        for each, value in values.items()
        if value != ((each.value,) if each.can_vary else each.value)
        for word in flag_words(each.flag, value)
    ]
    preset_words = ["--preset", name] if name != "report" else []
    command = command_line(MODULE, own, [*preset_words, *changed])
    img_size = None if own.plain else own.img_size_to_check()
    return own, members(base, values, own.seeds, img_size), command


def members(
    base: TrainConfig, values: dict[Setting, Any], seeds: int, img_size: ImageSize | None = None
) -> dict[str, TrainConfig]:
    """Each run's name and configuration. Only what varies is in the name, and the seed.

    Args:
        base: what is not among the settings.
        values: of each setting that can vary a tuple of values, of others the value.
        seeds: how many seeds, from the setting's on.
        img_size: to check a model's settings with; None for the preset's.

    Raises:
        ConfigError: a setting has no value, or the same one twice; or a value is impossible.
    """
    fixed = {each: value for each, value in values.items() if not each.can_vary}
    grid = {each: value for each, value in values.items() if each.can_vary}
    for each, options in grid.items():
        if not options or len(set(options)) < len(options):
            raise ConfigError(
                f"{each.flag} must be one or more values, each once, not {short_repr(options)}\n"
                f"Omit it for the default, {each.value}."
            )
    # The names of members, and so the folders of earlier sweeps, have these two settings last.
    order = sorted(grid, key=lambda each: each.flag in ("lr", "b1"))
    configs = {}
    for combination in itertools.product(*(grid[each] for each in order)):
        chosen = dict(zip(order, combination, strict=True))
        config = with_settings(base, fixed | chosen, img_size)
        words = [f"{each.flag}_{_short(chosen[each])}" for each in order if len(grid[each]) > 1]
        for seed in range(config.seed, config.seed + seeds):
            configs["_".join([*words, f"seed_{seed}"])] = replace(config, seed=seed)
    return configs


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_schedule_steps(config: TrainConfig, folder: Path, n_images: int) -> TrainConfig:
    """A member with the length of its schedules: as asked for, as begun in its folder, or all."""
    saved = RunFolder.open(folder).config.schedule_steps if holds_run(folder) else None
    steps = config.schedule_steps or saved
    return replace(config, schedule_steps=steps).with_schedule_steps(n_images)


def fitted(
    members: dict[str, TrainConfig], workdir: Path, n_images: int, dataset: Dataset | None = None
) -> dict[str, TrainConfig]:
    """The members' configurations for some images, which they and the sweep's folder fit.

    Raises:
        ConfigError, RunError: they do not.
    """
    configs = {
        name: with_schedule_steps(config, workdir / name, n_images)
        for name, config in members.items()
    }
    if dataset:
        configs = {name: config.for_data(dataset) for name, config in configs.items()}
    next(iter(configs.values())).check_data(n_images)
    SweepFolder.check(workdir, configs)
    return configs


def main() -> None:
    flags, configs, command = parse_sweep()
    first = next(iter(configs.values()))
    if flags.plain:  # before these are looked for
        fitted(configs, flags.workdir, SPECS[DATASET].splits["train"].shape[0])
    member = flags.workdir / next(iter(configs))
    before = RunFolder.open(member) if holds_run(member) else None
    parts = flags.parts(first.seed, before, first)
    dataset = parts.training
    configs = fitted(configs, flags.workdir, len(dataset), dataset)
    if parts.held_out is not None:
        print(describe_holdout(dataset, parts.held_out))
        if flags.holdout is None:  # whatever a later version's default is
            command += f" --holdout {parts.share}"

    from experiments.shared import sweep_training  # imports JAX: only when all flags are good

    sweep_training.run(
        configs,
        dataset,
        flags.workdir,
        OutputFlags(sample_every=flags.sample_every, checkpoint_every=flags.checkpoint_every),
        command=command,
        data=flags.identity(parts),  # members that are there keep theirs
        member_commands=train_commands(flags, configs, parts),
    )


def train_commands(flags: Flags, members: dict[str, TrainConfig], parts: Parts) -> dict[str, str]:
    """For each run the command that trains it alone; `evaluate` reads its data there."""
    if flags.plain:
        return {
            name: command_line(
                fashion_cgan.MODULE,
                fashion_cgan.Flags(flags.workdir / name, flags.data_dir),
                setting_words(config),
            )
            for name, config in members.items()
        }
    data = part_of(flags, DataFlags).decided(parts)
    if parts.held_out is not None:
        seed = next(iter(members.values())).seed if data.holdout_seed is None else data.holdout_seed
        data = replace(data, holdout_seed=seed)
    return {
        name: command_line(
            TRAIN, data, [*setting_words(config), "--workdir", str(flags.workdir / name)]
        )
        for name, config in members.items()
    }


if __name__ == "__main__":
    run(main)
