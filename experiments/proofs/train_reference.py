"""Train the reference classifier that comes with cgan_jax.metrics, and write its weights.

    python -m experiments.proofs.train_reference     # 25 minutes on 2 busy cores; 92.6% on the test split

It is trained on training images 0 to 54,999 and looked at on 55,000 to 59,999. The test split says
after the last step how good it is: in this program it decides nothing.
"""

import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cgan_jax.checks import check_int_field, check_seed
from cgan_jax.data import load
from cgan_jax.errors import ConfigError
from experiments.shared.command_line import parse, run
from experiments.shared.progress import duration

MODULE = "experiments.proofs.train_reference"


@dataclass(frozen=True)
class Flags:
    """Train the reference classifier of cgan_jax.metrics on Fashion-MNIST, and write its weights.

    Example:
      python -m experiments.proofs.train_reference --out reference.safetensors
    """

    out: Path = Path("reference.safetensors")
    """Where to write the weights. The package has its own in cgan_jax/metrics/."""
    epochs: int = 12
    """Passes over the 55,000 images."""
    seed: int = 0
    """Of weights, order and augmentation."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""

    def check(self) -> None:
        """Raises ConfigError for a number out of range, or a file that could not be written."""
        check_int_field(self, "epochs", 1)
        check_seed(self.seed)
        free = self.out.parent.is_dir() and not self.out.exists()
        if self.out.suffix != ".safetensors" or not free:
            raise ConfigError(
                f"out cannot be {self.out}\n"
                "expected a new .safetensors file in a folder that is there\nName another."
            )


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    data = {split: load("fashion_mnist", split, flags.data_dir) for split in ("train", "test")}

    from flax.traverse_util import flatten_dict

    from cgan_jax.interop import save_state_dict
    from cgan_jax.metrics.classifier import Recipe, apply_in_chunks, fit
    from cgan_jax.metrics.reference import N_TRAINING, ReferenceNet
    from experiments.shared.compile_cache import keep_programs

    keep_programs()
    images, labels = data["train"].images, data["train"].labels
    module, recipe = ReferenceNet(), Recipe(flags.epochs, batch_size=64, peak_lr=3e-3, flip=True)
    began = time.perf_counter()
    with tqdm(disable=not sys.stderr.isatty(), unit="step", leave=False) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update()
            if done % (total // recipe.epochs) == 0:
                left = (time.perf_counter() - began) * (total - done) / done
                tqdm.write(
                    f"Epoch {done * recipe.epochs // total}/{recipe.epochs}: {duration(left)} left"
                )
                sys.stdout.flush()

        variables = fit(
            module,
            images[:N_TRAINING],
            labels[:N_TRAINING],
            recipe,
            seed=flags.seed,
            on_step=on_step,
        )
    save_state_dict(flags.out, flatten_dict(variables, sep="."))
    held_out = images[N_TRAINING:], labels[N_TRAINING:]
    for name, (x, y) in {
        "validation": held_out,
        "test": (data["test"].images, data["test"].labels),
    }.items():
        _, seen = apply_in_chunks(module, variables, x)
        print(f"{name}: {(seen == y).mean():.2%} of {len(y):,} images")
    print(f"SHA-256 {hashlib.sha256(flags.out.read_bytes()).hexdigest()}")
    print(f"Wrote {flags.out} after {duration(time.perf_counter() - began)}.")


if __name__ == "__main__":
    run(main)
