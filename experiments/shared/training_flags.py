"""The flags that all commands that train one run share, and what they ask for.

What each command adds, its data above all, is in its own file. Imports no JAX.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from cgan_jax.checks import check_int_field
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.errors import ConfigError
from cgan_jax.presets import PRESETS

REPORT = PRESETS["report"]


@dataclass(frozen=True)
class TrainingFlags:
    """Flags of a training run. The defaults are the report's."""

    epochs: int = REPORT.epochs
    """Passes over the images. More make a run longer."""
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
    sample_every: int = 5
    """Epochs between two grids of samples."""
    checkpoint_every: int = 5
    """Epochs between two checkpoints. A stopped run is saved anyway."""
    log_every: int = 0
    """Print the losses of every so many batches, as the report does; 0 for a line an epoch."""
    eval_every: int = 0
    """Epochs between two looks at the quality (measures.csv), by which the best checkpoint is kept;
    0 for none."""
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
            check_int_field(self, name, least)
        if self.devices is not None:
            check_int_field(self, "devices", 1)
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

        hosts.initialize(self.coordinator, self.processes, self.process_id)
        with hosts.report_failure():
            yield

    def train(self, config: TrainConfig, dataset: Dataset, workdir: Path) -> None:
        """Do what the flags ask, with data that are there."""
        from experiments.shared import (
            training,  # imports JAX, so only when the flags are known to be good
        )

        if self.dry_run:
            training.describe(config, dataset, workdir, resume=self.resume)
            return
        training.run(
            config,
            dataset,
            workdir,
            sample_every=self.sample_every,
            checkpoint_every=self.checkpoint_every,
            log_every=self.log_every,
            eval_every=self.eval_every,
            resume=self.resume,
            n_devices=self.devices,
        )
