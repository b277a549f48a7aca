"""The main job: train the report's conditional GAN on Fashion-MNIST.

    python -m experiments.fashion_cgan                                   # the report: 200 epochs
    python -m experiments.fashion_cgan --epochs 1 --workdir runs/first   # a first look

The same command resumes a run that was stopped. Training itself is in cgan_jax; for other data see
train.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cgan_jax.data import SPECS, load
from cgan_jax.runs.folder import RunFolder
from experiments.shared.command_line import run
from experiments.shared.training_flags import PATH, flag_value, parse_job

MODULE = "experiments.fashion_cgan"


@dataclass(frozen=True)
class Flags:
    """Train the report's conditional GAN, or another preset, on Fashion-MNIST.

    Run it again to resume after a stop.

    Examples:
      python -m experiments.fashion_cgan                         the report: 200 epochs
      python -m experiments.fashion_cgan --dry-run               what would be done, how long
      python -m experiments.fashion_cgan --epochs 1 --workdir runs/first    a first look
      python -m experiments.fashion_cgan --loss hinge --lr 1e-4 --workdir runs/hinge
      python -m experiments.fashion_cgan --workdir runs/hinge    resume it, with its settings
    """

    workdir: Path = Path("runs/fashion_cgan")
    """The run's folder: checkpoints, losses, pictures."""
    data_dir: Annotated[Path | None, PATH] = None
    """A directory with the data: idx files, or prepared by TFDS. By default they are looked for,
    and fetched if need be."""

    @classmethod
    def folder(cls, words: Sequence[str]) -> Path:
        """The run's folder, from unparsed words."""
        return Path(flag_value(words, "--workdir") or cls.workdir).expanduser()

    def img_size_to_check(self) -> None:
        """The preset's: Fashion-MNIST's."""


def main() -> None:
    job = parse_job(Flags, MODULE)
    n_images = SPECS[job.config.dataset].splits["train"].shape[0]
    config, workdir = job.config.with_schedule_steps(n_images), job.own.workdir
    config.check_data(n_images)
    if job.device.alone:
        RunFolder.check(workdir, config, resume=job.start.resume)
    with job.device.joined():
        dataset = load(config.dataset, data_dir=job.own.data_dir)
        job.train(config, dataset, workdir)


if __name__ == "__main__":
    run(main)
