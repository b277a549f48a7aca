"""Train on your own data: a folder of pictures, an .npz file, or a data set of TFDS.

    python -m experiments.train photos/ --img-size 32
    python -m experiments.train mnist

The same command resumes a run that was stopped. How each kind of data is read is in
cgan_jax/data/.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from cgan_jax.checks import ImageSize, one_line, plural
from cgan_jax.config import AUGMENTATIONS, TrainConfig
from cgan_jax.data import Dataset, load_own
from cgan_jax.data.crops import Background
from cgan_jax.runs.folder import RunFolder
from experiments.shared.command_line import parse_size, run
from experiments.shared.reading import reading_bar
from experiments.shared.training_flags import PATH, flag_value, holds_run, parse_job

MODULE = "experiments.train"
# With fewer images, augmentation helps clearly: Zhao et al. 2020, "Differentiable Augmentation for
# Data-Efficient GAN Training"; Karras et al. 2020, "Training Generative Adversarial Networks with
# Limited Data".
FEW_IMAGES = 10_000
UNBALANCED = 3  # the largest class's images for each of the smallest's


@dataclass(frozen=True)
class Flags:
    """Train a conditional GAN on your own data. Run it again to resume after a stop.

    Examples:
      python -m experiments.train photos/ --img-size 32    one sub-folder of photos/ for each class
      python -m experiments.train set.npz --epochs 50      arrays images and labels
      python -m experiments.train cifar10                  from TFDS, downloaded if need be
      python -m experiments.train photos/ --dry-run        what would be done, how long
      python -m experiments.train --workdir runs/photos    resume it, with its data and settings
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder with one sub-folder of pictures per class, or with labels.csv or dataset.json; an
    .npz file with the arrays images, labels and perhaps class_names; or a name in TFDS, as mnist,
    cifar10 or emnist/letters."""
    img_size: Annotated[str | None, tyro.conf.arg(metavar="INT|INTxINT")] = None
    """Height and width to resize the pictures' centres to: 32 for squares, or as 64x48, height
    first. By default their own size."""
    channels: Literal[1, 3, 4] | None = None
    """1 for grey, 3 for colour, 4 for colour and opacity. By default 1 or 3, as the pictures
    have."""
    alpha_background: Background = "auto"
    """What transparent pixels become: white, black, or whichever the pictures contrast with."""
    skip_unreadable: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out pictures that cannot be read, instead of refusing them."""
    data_dir: Annotated[Path | None, PATH] = None
    """TFDS's data directory. By default $TFDS_DATA_DIR, or tensorflow_datasets in your home."""
    workdir: Annotated[Path | None, PATH] = None
    """The run's folder: checkpoints, losses, pictures. By default in runs/, named as the data."""

    @classmethod
    def folder(cls, words: Sequence[str]) -> Path | None:
        """The run's folder, from unparsed words; None where there is no run yet."""
        named = flag_value(words, "--workdir")
        if named:
            return Path(named).expanduser()
        folders = (default_folder(word) for word in words if not word.startswith("-"))
        return next(filter(holds_run, folders), None)

    @property
    def size(self) -> ImageSize | None:
        """The size of the images, if it is given.

        Raises:
            ConfigError: it is not a size.
        """
        return None if self.img_size is None else parse_size(self.img_size)

    def img_size_to_check(self) -> ImageSize:
        """The images' size if it is given; else one that halves often, until the data are read."""
        return self.size or 64

    def load(self) -> Dataset:
        """The training images.

        Raises:
            ConfigError, DataError: as the functions of cgan_jax.data.
        """
        with reading_bar() as on_progress:
            return load_own(
                self.data,
                img_size=self.size,
                channels=self.channels,
                data_dir=self.data_dir,
                background=self.alpha_background,
                skip_unreadable=self.skip_unreadable,
                on_progress=on_progress,
            )


def default_folder(data: str) -> Path:
    """The run's folder for data that are named so."""
    path = Path(data)
    name = path.stem if path.suffix.lower() == ".npz" else data.rstrip("/").replace("/", "_")
    if os.path.isdir(data):
        name = os.path.basename(os.path.abspath(data))
    return Path("runs") / (name or "pictures")


def hints(config: TrainConfig, dataset: Dataset) -> Iterator[str]:
    """Lines about settings that few images, or classes of very unequal sizes, call for."""
    if len(dataset) < FEW_IMAGES and not config.augment:
        pixels = dataset.images
        borders = np.concatenate([pixels[:, [0, -1]].ravel(), pixels[:, :, [0, -1]].ravel()])
        white = " --background 1" if np.median(borders) > 127 and config.background == -1 else ""
        yield (
            f"Only {plural(len(dataset), 'image')}, which the discriminator can learn by heart: "
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
    with job.device.joined():
        dataset = job.own.load()
        config = job.config.for_data(dataset)
        config.check_data(len(dataset))
        workdir = job.own.workdir or Path("runs") / dataset.name.replace("/", "_")
        if job.device.alone:
            data = dataset.identity()
            if not RunFolder.check(workdir, config, resume=job.start.resume, data=data):
                print("".join(f"{line}\n" for line in hints(config, dataset)), end="")
        job.train(config, dataset, workdir)


if __name__ == "__main__":
    run(main)
