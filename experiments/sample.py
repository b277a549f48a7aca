"""Pictures of the classes you name, from a trained run: a grid, single files, or arrays.

python -m experiments.sample runs/fashion_cgan --label "Ankle boot" --n 16 --out boots.png
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cgan_jax.checks import check_int_field
from cgan_jax.errors import ConfigError
from cgan_jax.files import atomic_write, write_errors
from cgan_jax.runs.folder import RunFolder
from experiments.shared.choice import class_ids, square
from experiments.shared.command_line import check_checkpoint_flags, parse, run

MODULE = "experiments.sample"
ALIEN = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".pdf", ".svg", ".npy", ".zip")


@dataclass(frozen=True)
class Flags:
    """Generate pictures of classes by name, from a trained run.

    Examples:
      python -m experiments.sample runs/fashion_cgan                      ten of each class
      python -m experiments.sample runs/fashion_cgan --label "Ankle boot" --n 16 --out boots.png
      python -m experiments.sample runs/fashion_cgan --label Bag 5 --n 1000 --out bags.npz
      python -m experiments.sample runs/fashion_cgan --label all --n 100 --out pictures
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder."""
    label: tuple[str, ...] = ("all",)
    """Classes, by name or number; or all."""
    n: int = 10
    """How many pictures of each."""
    seed: int = 0
    """Of the latent points."""
    out: Path = Path("samples.png")
    """A grid for a name that ends in .png; arrays (images, labels, class_names) for one that ends
    in .npz; a folder of single pictures for any other."""
    truncation: float | None = None
    """Keep latent numbers within this of 0: more typical pictures, less variety. 0.5 is strong."""
    step: int | None = None
    """Take the checkpoint of this step; by default the newest that is intact."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the best checkpoint, which --eval-every keeps."""

    def check(self) -> None:
        """Raises ConfigError for what the library does not look at."""
        check_int_field(self, "n", 1)
        check_checkpoint_flags(self.step, self.best)
        if not self.label:
            raise ConfigError("there is no label\nexpected at least one\nGive some, or all.")
        suffix = self.out.suffix.lower()
        if suffix in ALIEN and not self.out.is_dir():
            raise ConfigError(
                f"out is {self.out}, but {suffix} files are not made\n"
                "expected a name that ends in .png or .npz, or a folder's\nGive another --out."
            )
        with write_errors(self.out):  # a name may be too long to be looked for
            full = self.out.is_dir() and any(self.out.iterdir())
        if full:
            raise ConfigError(
                f"{self.out} holds other files\n"
                "expected a new folder, or a name with .png or .npz\nName another."
            )


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    RunFolder.open(flags.run)  # says what is wrong before JAX is imported

    from cgan_jax.sampling.generator import load_generator
    from experiments.shared.compile_cache import keep_programs

    keep_programs()
    generator = load_generator(flags.run, step=flags.step, best=flags.best)
    wanted = class_ids(flags.label, generator.class_names)
    labels = np.tile(wanted, flags.n)
    images = generator.generate(labels, seed=flags.seed, truncation=flags.truncation)
    write(images, labels, wanted, generator.class_names, flags.out)
    print(f"{len(images):,} pictures after {generator.step:,} steps are in {flags.out}.")


def write(
    images: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray,
    class_names: Sequence[str],
    out: Path,
) -> None:
    """Write pictures as the name of `out` asks.

    Args:
        images: uint8 `[n * classes, H, W, C]`, one of each class after the other.
        labels: of the images, int32.
        classes: those that were asked for, int32.
        class_names: of all classes.
        out: the file or folder.

    Raises:
        RunError: it cannot be written.
    """
    names = [class_names[i] for i in classes]
    if out.suffix.lower() == ".npz":
        with atomic_write(out) as file:
            np.savez(file, images=images, labels=labels, class_names=class_names)
    elif out.suffix.lower() == ".png":
        rows = images.reshape(-1, len(classes), *images.shape[1:])
        if len(classes) == 1:
            rows, names = square(rows[:, 0], names[0])
        from cgan_jax.pictures.grids import grid

        with atomic_write(out) as file:
            grid(rows, names).save(file)
    else:
        from cgan_jax.data.square_images import to_pillow

        words = [re.sub(r"\W+", "_", name).strip("_").lower() for name in class_names]
        if len(set(words)) < len(words):  # as of the classes "a" and "A"
            words = [f"{i}_{word}".strip("_") for i, word in enumerate(words)]
        with write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                to_pillow(image).save(out / f"{words[label]}_{i // len(classes):05d}.png")


if __name__ == "__main__":
    run(main)
