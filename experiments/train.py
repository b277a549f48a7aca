"""Train on your own data: a folder of pictures, an .npz file, or a data set of TFDS.

    python -m experiments.train photos/ --img-size 32
    python -m experiments.train mnist

The same command goes on with a run that was stopped. How each kind of data is read stands in
cgan_jax/data/.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cgan_jax.checks import as_path
from cgan_jax.data import SPECS, Dataset, load, load_folder, load_npz, load_tfds
from cgan_jax.errors import ConfigError
from cgan_jax.runs.folder import RunFolder
from experiments.shared.command_line import parse, run
from experiments.shared.training_flags import TrainingFlags

MODULE = "experiments.train"


@dataclass(frozen=True)
class DataFlags:
    """Which data, and what is made of them."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder with one sub-folder of pictures a class; an .npz file with the arrays images, labels
    and perhaps class_names; or a name in TFDS, as mnist, cifar10 or emnist/letters."""
    img_size: int | None = None
    """Height and width to resize the pictures' central squares to. By default their own size."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour. By default what the pictures have."""
    data_dir: Path | None = None
    """TFDS's data directory. By default $TFDS_DATA_DIR, or tensorflow_datasets in your home."""

    def load(self) -> Dataset:
        """The training images.

        Raises:
            ConfigError, DataError: as the functions of cgan_jax.data.
        """
        path = as_path(self.data, "data")
        is_npz = path.suffix.lower() == ".npz"
        if os.path.exists(path) or is_npz or self.data.startswith((".", "/", "~")):
            if self.data_dir:
                raise ConfigError(
                    f"data_dir does not go with {self.data}, which is a path\n"
                    "expected the name of a data set of TFDS\nOmit it."
                )
            read = load_npz if is_npz and not os.path.isdir(path) else load_folder
            return read(path, self.img_size, self.channels)
        if self.data in SPECS and self.img_size is None and self.channels is None:
            return load(self.data, data_dir=self.data_dir)  # from more places than TFDS
        return load_tfds(
            self.data, data_dir=self.data_dir, img_size=self.img_size, channels=self.channels
        )


@dataclass(frozen=True)
class Flags(TrainingFlags, DataFlags):
    """Train a conditional GAN on your own data. Run it again to go on after a stop.

    Examples:
      python -m experiments.train photos/ --img-size 32    a sub-folder of photos/ for each class
      python -m experiments.train set.npz --epochs 50      arrays images and labels
      python -m experiments.train cifar10                  from TFDS, downloaded if need be
      python -m experiments.train photos/ --dry-run        what would be done, how long
    """

    workdir: Path | None = None
    """The run's folder: checkpoints, losses, pictures. By default in runs/, named as the data."""


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    flags.config()  # says what is wrong before anything is read
    with flags.joined():
        dataset = flags.load()
        config = flags.config().for_data(dataset)
        config.check_data(len(dataset))
        workdir = flags.workdir or Path("runs") / dataset.name.replace("/", "_")
        if flags.alone:
            RunFolder.check(workdir, config, resume=flags.resume, data=dataset.identity())
        flags.train(config, dataset, workdir)


if __name__ == "__main__":
    run(main)
