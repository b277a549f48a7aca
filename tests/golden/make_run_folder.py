"""Write tests/golden/run_folder, a small run of this version.

    python -m tests.golden.make_run_folder

Later versions must open it, so write another one only for a new format, next to this one.
"""

import shutil
from pathlib import Path

import numpy as np

from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.reporting.callbacks import LossesTable
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from experiments.proofs import tiny

FOLDER = Path(__file__).parent / "run_folder"
CONFIG = TrainConfig(
    dataset="tiny",
    epochs=2,
    batch_size=4,
    model=ModelConfig(
        n_classes=3,
        latent_dim=5,
        img_size=4,
        generator_widths=(8, 16),
        discriminator_widths=(16, 16),
    ),
)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    run = RunFolder.start(FOLDER, CONFIG, tiny.CLASS_NAMES)
    with Checkpoints(run.checkpoints, keep=1) as checkpoints:
        train(
            GAN.from_config(CONFIG),
            CONFIG,
            tiny.dataset(),
            callbacks=[LossesTable(run)],
            checkpoints=checkpoints,
        )
    (FOLDER / "losses.png").unlink()
    for marker in FOLDER.rglob("commit_success.txt"):  # Orbax writes the machine's path into it
        marker.write_text("Checkpoint commit was successful\n")
    images = load_generator(FOLDER).generate(tiny.CLASS_NAMES, seed=0)
    np.save(FOLDER / "expected_images.npy", images)


if __name__ == "__main__":
    main()
