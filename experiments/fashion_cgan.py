"""The main job: train the report's conditional GAN on Fashion-MNIST.

    python -m experiments.fashion_cgan              # the report: 200 epochs
    python -m experiments.fashion_cgan --epochs 1   # a first look

The same command goes on with a run that was stopped. What training is stands in cgan_jax; other
data are train.py's.
"""

from dataclasses import dataclass
from pathlib import Path

from cgan_jax.data import SPECS, load
from cgan_jax.runs.folder import RunFolder
from experiments.shared.command_line import parse, run
from experiments.shared.training_flags import TrainingFlags

MODULE = "experiments.fashion_cgan"


@dataclass(frozen=True)
class Flags(TrainingFlags):
    """Train the report's conditional GAN on Fashion-MNIST. Run it again to go on after a stop.

    Examples:
      python -m experiments.fashion_cgan                         the report: 200 epochs
      python -m experiments.fashion_cgan --epochs 1              a first look
      python -m experiments.fashion_cgan --dry-run               what would be done, how long
      python -m experiments.fashion_cgan --lr 1e-4 --workdir runs/slow
    """

    workdir: Path = Path("runs/fashion_cgan")
    """The run's folder: checkpoints, losses, pictures."""
    data_dir: Path | None = None
    """A directory with the data: idx files, or prepared by TFDS. By default they are looked for,
    and fetched if need be."""


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    config = flags.config()
    config.check_data(SPECS[config.dataset].splits["train"].shape[0])
    if flags.alone:
        RunFolder.check(flags.workdir, config, resume=flags.resume)
    with flags.joined():
        dataset = load(config.dataset, data_dir=flags.data_dir)
        flags.train(config, dataset, flags.workdir)


if __name__ == "__main__":
    run(main)
