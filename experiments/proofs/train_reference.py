"""Train the reference classifier of cgan_jax.metrics, and write its weights.

    python -m experiments.proofs.train_reference     # 25 minutes; 92.6% on the test split

Training images 0 to 54,999 train it, and 55,000 to 59,999 validate it. The test split is used only
after the last step, and decides nothing.
"""

import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cgan_jax.bars import duration
from cgan_jax.checks import Count, Seed
from cgan_jax.data import load
from cgan_jax.errors import ConfigError
from experiments.shared.command_line import parse, run

MODULE = "experiments.proofs.train_reference"


@dataclass(frozen=True)
class Flags:
    """Train the reference classifier of cgan_jax.metrics on Fashion-MNIST, and write its weights.

    Example:
      python -m experiments.proofs.train_reference --out reference.safetensors
    """

    out: Path = Path("reference.safetensors")
    """A new file for the weights. Those of the package are in cgan_jax/metrics/."""
    epochs: Count = 12
    """Passes over the 55,000 images."""
    seed: Seed = 0
    """Of weights, order and augmentation."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and downloaded if necessary."""

    def check(self) -> None:
        """Raises ConfigError for a file that cannot be written."""
        free = self.out.parent.is_dir() and not self.out.exists()
        if self.out.suffix != ".safetensors" or not free:
            raise ConfigError(
                f"out cannot be {self.out}\n"
                "expected a new .safetensors file in an existing folder\nName another."
            )


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    training, test = (load("fashion_mnist", split, flags.data_dir) for split in ("train", "test"))

    from flax.traverse_util import flatten_dict

    from cgan_jax.interop import save_state_dict
    from cgan_jax.metrics.classifier import Recipe, apply_in_chunks, fit
    from cgan_jax.metrics.reference import N_TRAINING, ReferenceNet
    from experiments.shared.compile_cache import keep_programs

    keep_programs()
    images, labels = training.images, training.labels
    module, recipe = ReferenceNet(), Recipe(flags.epochs, batch_size=64, peak_lr=3e-3, flip=True)
    start = time.perf_counter()
    with tqdm(disable=not sys.stderr.isatty(), unit="step", leave=False) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update()
            if done % (total // recipe.epochs) == 0:
                epoch = done * recipe.epochs // total
                left = (time.perf_counter() - start) * (total - done) / done
                tqdm.write(f"Epoch {epoch}/{recipe.epochs}: {duration(left)} left")
                sys.stdout.flush()

        rows = slice(N_TRAINING)
        variables = fit(
            module, images[rows], labels[rows], recipe, seed=flags.seed, on_step=on_step
        )
    save_state_dict(flags.out, flatten_dict(variables, sep="."))
    for name, x, y in (
        ("validation", images[N_TRAINING:], labels[N_TRAINING:]),
        ("test", test.images, test.labels),
    ):
        _, predictions = apply_in_chunks(module, variables, x)
        print(f"{name}: {(predictions == y).mean():.2%} of {len(y):,} images")
    print(f"SHA-256 {hashlib.sha256(flags.out.read_bytes()).hexdigest()}")
    print(f"Wrote {flags.out} after {duration(time.perf_counter() - start)}.")


if __name__ == "__main__":
    run(main)
