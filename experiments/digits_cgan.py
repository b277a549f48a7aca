"""The example to copy: your own arrays, networks of your own size, one run folder.

    python -m experiments.digits_cgan        # under a minute on 2 cores

The data are scikit-learn's 1,797 handwritten digits of 8x8 pixels, which come with it (extra
`examples`). Folders of pictures and .npz files need no code: see train.py.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.errors import DataError
from experiments.shared.command_line import parse, run
from experiments.shared.training_flags import OutputFlags

MODULE = "experiments.digits_cgan"


@dataclass(frozen=True)
class Flags:
    """Train a conditional GAN on scikit-learn's digits. Run it again to resume after a stop.

    Examples:
      python -m experiments.digits_cgan
      python -m experiments.sample runs/digits --label 7 --n 16 --out sevens.png
    """

    epochs: int = 200
    """Passes over the 1,797 images. More than the run has makes it longer."""
    workdir: Path = Path("runs/digits")
    """The run's folder: checkpoints, losses, pictures."""


def digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed\n"
            "expected the extra `examples`\nInstall it with `pip install -e '.[examples]'`."
        ) from error
    found = load_digits()
    images = (found.images * (255 / 16)).round().astype(np.uint8)  # from 0..16
    return Dataset.from_arrays(images, found.target, list("0123456789"), name="digits")


def main() -> None:
    flags = parse(Flags, MODULE)
    gen, disc = (128, 256, 512), (256, 256)
    model = ModelConfig(latent_dim=32, generator_widths=gen, discriminator_widths=disc)
    config = TrainConfig(epochs=flags.epochs, model=model)
    dataset = digits()
    config = config.for_data(dataset)  # its name, number of classes, size of images

    from experiments.shared import training  # imports JAX, so only now that the flags are good

    output = OutputFlags(sample_every=20, checkpoint_every=50)
    command = (
        f"python -m {MODULE} --epochs {flags.epochs} --workdir {shlex.quote(str(flags.workdir))}"
    )
    training.run(config, dataset, flags.workdir, output, command=command)


if __name__ == "__main__":
    run(main)
