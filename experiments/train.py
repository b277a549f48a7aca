"""Train on your own data: a folder of pictures, an .npz file, or a data set of TFDS.

    python -m experiments.train photos/ --img-size 32
    python -m experiments.train mnist

The same command resumes a run that was stopped. How each kind of data is read is in
cgan_jax/data/.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from cgan_jax.checks import as_path, one_line, plural
from cgan_jax.config import AUGMENTATIONS, TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.runs.folder import RunFolder
from experiments.shared.command_line import run
from experiments.shared.data_flags import TRAIN, DataFlags, describe_holdout
from experiments.shared.training_flags import (
    PATH,
    flag_value,
    holds_run,
    parse_job,
    positional_words,
)

MODULE = TRAIN
# With fewer images, augmentation helps clearly: Zhao et al. 2020, "Differentiable Augmentation for
# Data-Efficient GAN Training"; Karras et al. 2020, "Training Generative Adversarial Networks with
# Limited Data".
FEW_IMAGES = 10_000
UNBALANCED = 3  # the largest class's images for each of the smallest's


@dataclass(frozen=True)
class Flags(DataFlags):
    """Train a conditional GAN on your own data. Run it again to resume after a stop.

    Examples:
      python -m experiments.train photos/ --img-size 32    one sub-folder of photos/ for each class
      python -m experiments.train set.npz --epochs 50      arrays images and labels
      python -m experiments.train cifar10                  from TFDS, downloaded if need be
      python -m experiments.train photos/ --dry-run        what would be done, how long
      python -m experiments.train --workdir runs/photos    resume it, with its data and settings
    """

    workdir: Annotated[Path | None, PATH] = None
    """The run's folder: checkpoints, losses, pictures. By default in runs/, named as the data."""

    @classmethod
    def folder(cls, words: Sequence[str]) -> Path | None:
        """The run's folder, from unparsed words; None where there is no run yet."""
        named = flag_value(words, "--workdir")
        if named:
            return Path(named).expanduser()
        folders = map(default_folder, positional_words(words, cls))
        return next(filter(holds_run, folders), None)


def default_folder(data: str) -> Path:
    """The run's folder for data that are named so."""
    path = as_path(data, "data")
    name = path.stem if path.suffix.lower() == ".npz" else data.rstrip("/").replace("/", "_")
    if os.path.isdir(path):
        name = os.path.basename(os.path.abspath(path))
    return Path("runs") / (name or "pictures")


def hints(config: TrainConfig, dataset: Dataset) -> Iterator[str]:
    """Lines about settings that few images, or classes of very unequal sizes, call for."""
    if len(dataset) < FEW_IMAGES and not config.augment:
        pixels = dataset.images
        borders = np.concatenate([pixels[:, [0, -1]].ravel(), pixels[:, :, [0, -1]].ravel()])
        white = " --background 1" if np.median(borders) > 127 and config.background == -1 else ""
        yield (
            f"Only {plural(len(dataset), 'image')}, which the discriminator can memorise: "
            f"try --augment {','.join(AUGMENTATIONS)}{white}"
        )
    counts = dataset.class_counts()
    low, high = int(counts.argmin()), int(counts.argmax())
    if counts[high] > UNBALANCED * counts[low] and not config.balance:
        smallest, largest = (one_line(dataset.class_names[i], 40) for i in (low, high))
        yield (
            f"Unbalanced classes, from {plural(int(counts[low]), 'image')} of {smallest} to "
            f"{counts[high]:,} of {largest}: --balance draws all equally often"
        )


def main() -> None:
    job = parse_job(Flags, MODULE)
    workdir = job.own.workdir or default_folder(job.own.data)
    before = RunFolder.open(workdir) if job.start.resume and holds_run(workdir) else None
    with job.device.joined():
        parts = job.own.parts(job.config.seed, before, job.config)
        dataset = parts.training
        if parts.held_out is not None and job.device.alone:
            print(describe_holdout(dataset, parts.held_out))
        config = job.config.for_data(dataset)
        config.check_data(len(dataset))
        job = replace(job, own=job.own.decided(parts))  # in the command that the run keeps
        data = job.own.identity(parts, before)
        del parts  # and with it the images that are held out
        resume = job.start.resume
        if job.device.alone and not RunFolder.check(workdir, config, resume=resume, data=data):
            print("".join(f"{line}\n" for line in hints(config, dataset)), end="")
        job.train(config, dataset, workdir, data)


if __name__ == "__main__":
    run(main)
