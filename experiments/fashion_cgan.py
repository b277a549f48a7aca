"""The main job: train the report's conditional GAN on Fashion-MNIST.

    python -m experiments.fashion_cgan              # the report: 200 epochs
    python -m experiments.fashion_cgan --epochs 1   # a first look

The same command goes on with a run that was stopped. What training is stands in cgan_jax.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from cgan_jax import checks
from cgan_jax.config import PRESETS, TrainConfig
from cgan_jax.data import SPECS, load
from cgan_jax.errors import ConfigError
from cgan_jax.run_folder import RunFolder
from experiments.command_line import parse, run

MODULE = "experiments.fashion_cgan"
REPORT = PRESETS["report"]


@dataclass(frozen=True)
class Flags:
    """Train the report's conditional GAN on Fashion-MNIST. Run it again to go on after a stop.

    Examples:
      python -m experiments.fashion_cgan                         the report: 200 epochs
      python -m experiments.fashion_cgan --epochs 1              a first look
      python -m experiments.fashion_cgan --dry-run               what would be done, how long
      python -m experiments.fashion_cgan --lr 1e-4 --workdir runs/slow
    """

    epochs: int = REPORT.epochs
    """Passes over the 60,000 images. More than a run has makes it longer."""
    batch_size: int = REPORT.batch_size
    """Images a step."""
    lr: float = REPORT.optimizer.lr
    """Adam's learning rate, both networks."""
    b1: float = REPORT.optimizer.b1
    """Adam's decay of the gradient's mean."""
    b2: float = REPORT.optimizer.b2
    """Adam's decay of the gradient's square."""
    latent_dim: int = REPORT.model.latent_dim
    """Size of the generator's noise."""
    seed: int = REPORT.seed
    """Of all randomness: weights, order of the data, noise."""
    workdir: Path = Path("runs/fashion_cgan")
    """The run's folder: checkpoints, losses, pictures."""
    data_dir: Path | None = None
    """A directory with the data: idx files, or prepared by TFDS. By default they are looked for,
    and fetched if need be."""
    sample_every: int = 5
    """Epochs between two grids of samples."""
    checkpoint_every: int = 5
    """Epochs between two checkpoints. A stopped run is saved anyway."""
    log_every: int = 0
    """Print the losses of every so many batches, as the report does; 0 for a line an epoch."""
    eval_every: int = 0
    """Epochs between two looks at the quality (measures.csv), by which the best checkpoint is kept;
    0 for none. `python -m experiments.evaluate` measures more, and on the test split."""
    devices: int | None = None
    """How many devices share each batch. By default one; of several processes, all."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One of several processes that train the run together. Under Slurm, Open MPI or Kubernetes
    they find each other; elsewhere say how with the next three."""
    coordinator: str | None = None
    """Address of the first of several processes, host:port, for all of them."""
    processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """The number of this one, from 0. Process 0 has the run folder."""
    resume: bool = True
    """Go on with the run in the folder; --no-resume moves it aside and begins anew."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what would be trained, from which data, and how long it takes; train nothing."""

    def check(self) -> None:
        """Raises ConfigError for what `config` does not look at."""
        for name, least in (
            ("sample_every", 1),
            ("checkpoint_every", 1),
            ("log_every", 0),
            ("eval_every", 0),
        ):
            checks.field(self, name, least)
        if self.devices is not None:
            checks.field(self, "devices", 1)
        explicit = self.coordinator, self.processes, self.process_id
        if any(given is not None for given in explicit) and None in explicit:
            raise ConfigError(
                "coordinator, processes and process-id belong together\n"
                "Give all three, or --distributed alone where processes find each other."
            )

    def config(self) -> TrainConfig:
        """What these flags ask to train."""
        return replace(
            REPORT,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            optimizer=replace(REPORT.optimizer, lr=self.lr, b1=self.b1, b2=self.b2),
            model=replace(REPORT.model, latent_dim=self.latent_dim),
        )


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    config = flags.config()
    config.check_data(SPECS[config.dataset].splits["train"].shape[0])
    if not (flags.distributed or flags.coordinator):
        RunFolder.check(flags.workdir, config, resume=flags.resume)
        train(flags, config)
        return
    from cgan_jax import hosts

    hosts.join(flags.coordinator, flags.processes, flags.process_id)
    with hosts.telling_of_failure():
        train(flags, config)


def train(flags: Flags, config: TrainConfig) -> None:
    """Load the data, and do what the flags ask."""
    dataset = load(config.dataset, data_dir=flags.data_dir)

    from experiments import training  # imports JAX, so only now that the flags are known to be good

    if flags.dry_run:
        training.describe(config, dataset, flags.workdir)
        return
    training.run(
        config,
        dataset,
        flags.workdir,
        sample_every=flags.sample_every,
        checkpoint_every=flags.checkpoint_every,
        log_every=flags.log_every,
        eval_every=flags.eval_every,
        resume=flags.resume,
        n_devices=flags.devices,
    )


if __name__ == "__main__":
    run(main)
