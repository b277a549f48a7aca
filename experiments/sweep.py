"""Train many seeds, and small grids of settings, at once: each member is a run folder of its own.

The program that trains them together is cgan_jax/sweep.py; the table and the plot of what came of
it are in sweep_results.py.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cgan_jax.checks import check_int_field, short_repr
from cgan_jax.config import TrainConfig
from cgan_jax.data import SPECS, load
from cgan_jax.errors import ConfigError
from cgan_jax.presets import PRESETS
from experiments.shared.command_line import parse, run
from experiments.shared.sweep_folder import SweepFolder

MODULE = "experiments.sweep"
REPORT = PRESETS["report"]


@dataclass(frozen=True)
class Flags:
    """Train the report's GAN with many seeds and settings at once. Run it again to go on.

    Every combination is a run, in a folder of its own that all other commands take. Runs that
    differ in seed, --lr or --b1 share one program; those of another --latent-dim come after them.

    Examples:
      python -m experiments.sweep                                four seeds, 200 epochs
      python -m experiments.sweep --seeds 3 --lr 1e-4 2e-4 4e-4  three seeds of each
      python -m experiments.sweep --epochs 20 --latent-dim 20 100 --workdir runs/latent
    """

    seeds: int = 4
    """How many seeds of each setting, from --seed on."""
    seed: int = REPORT.seed
    """The first seed."""
    epochs: int = REPORT.epochs
    """Passes over the 60,000 images. More than the runs have makes them longer."""
    batch_size: int = REPORT.batch_size
    """Images a step."""
    lr: tuple[float, ...] = (REPORT.optimizer.lr,)
    """Adam's learning rates, both networks."""
    b1: tuple[float, ...] = (REPORT.optimizer.b1,)
    """Adam's decays of the gradient's mean."""
    latent_dim: tuple[int, ...] = (REPORT.model.latent_dim,)
    """Sizes of the generator's noise."""
    workdir: Path = Path("runs/sweep")
    """The sweep's folder: a run folder for each member, sweep.csv and sweep.png."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""
    sample_every: int = 20
    """Epochs between two grids of samples."""
    checkpoint_every: int = 5
    """Epochs between two checkpoints. Stopped runs are saved anyway."""

    def check(self) -> None:
        """Raises ConfigError for what `members` does not look at."""
        for name in ("seeds", "sample_every", "checkpoint_every"):
            check_int_field(self, name, 1)
        for name in ("lr", "b1", "latent_dim"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(
                    f"{name} must be one or more values, each once, not {short_repr(values)}\n"
                    "Omit it for the report's."
                )

    def members(self) -> dict[str, TrainConfig]:
        """Each run's name and configuration. Only what varies is in the name, and the seed."""
        found = {}
        for latent_dim, lr, b1, seed in itertools.product(
            self.latent_dim, self.lr, self.b1, range(self.seed, self.seed + self.seeds)
        ):
            varied = {"latent_dim": (latent_dim, self.latent_dim), "lr": (lr, self.lr)}
            varied |= {"b1": (b1, self.b1)}
            words = [f"{name}_{value:g}" for name, (value, all_) in varied.items() if len(all_) > 1]
            found["_".join([*words, f"seed_{seed}"])] = replace(
                REPORT,
                epochs=self.epochs,
                batch_size=self.batch_size,
                seed=seed,
                optimizer=replace(REPORT.optimizer, lr=lr, b1=b1),
                model=replace(REPORT.model, latent_dim=latent_dim),
            )
        return found


def programs(members: dict[str, TrainConfig]) -> Sequence[dict[str, TrainConfig]]:
    """The members that one program can train together: those with networks of one size."""
    by_model = itertools.groupby(members.items(), lambda member: member[1].model)
    return [dict(group) for _, group in by_model]


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    members = flags.members()
    for config in members.values():
        config.check_data(SPECS[config.dataset].splits["train"].shape[0])
    SweepFolder.check(flags.workdir, members)
    dataset = load(REPORT.dataset, data_dir=flags.data_dir)

    from experiments.shared import (
        sweep_training,  # imports JAX, so only now that the flags are good
    )

    sweep_training.run(
        programs(members),
        dataset,
        flags.workdir,
        sample_every=flags.sample_every,
        checkpoint_every=flags.checkpoint_every,
    )


if __name__ == "__main__":
    run(main)
