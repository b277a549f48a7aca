"""Pictures of the classes you name, from a trained run: a grid, single files, or arrays.

python -m experiments.sample runs/fashion_cgan --label "Ankle boot" --n 16 --out boots.png
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cgan_jax import checks
from cgan_jax.errors import ConfigError
from cgan_jax.files import replacing, writing
from cgan_jax.run_folder import RunFolder
from experiments.command_line import check_checkpoint_flags, parse, run

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
        checks.field(self, "n", 1)
        check_checkpoint_flags(self.step, self.best)
        if not self.label:
            raise ConfigError("there is no label\nexpected at least one\nGive some, or all.")
        suffix = self.out.suffix.lower()
        if suffix in ALIEN and not self.out.is_dir():
            raise ConfigError(
                f"out is {self.out}, but {suffix} files are not made\n"
                "expected a name that ends in .png or .npz, or a folder's\nGive another --out."
            )
        with writing(self.out):  # a name may be too long to be looked for
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

    from cgan_jax.sampling import load_generator
    from experiments.compile_cache import keep_programs

    keep_programs()
    generator = load_generator(flags.run, step=flags.step, best=flags.best)
    wanted = class_ids(flags.label, generator.class_names)
    labels = np.tile(wanted, flags.n)
    images = generator.generate(labels, seed=flags.seed, truncation=flags.truncation)
    write(images, labels, wanted, generator.class_names, flags.out)
    print(f"{len(images):,} pictures after {generator.step:,} steps are in {flags.out}.")


def class_ids(labels: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Class ids of labels, or of all.

    Raises:
        ConfigError: a label is no class.
    """
    from cgan_jax.sampling import label_ids

    every = [word.casefold() for word in labels] == ["all"]
    return label_ids(range(len(class_names)) if every else labels, class_names)


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
        with replacing(out) as file:
            np.savez(file, images=images, labels=labels, class_names=class_names)
    elif out.suffix.lower() == ".png":
        rows = images.reshape(-1, len(classes), *images.shape[1:])
        if len(classes) == 1:
            rows, names = square(rows[:, 0], names[0])
        from cgan_jax.images import grid

        with replacing(out) as file:
            grid(rows, names).save(file)
    else:
        from cgan_jax.data.pictures import picture

        words = [re.sub(r"\W+", "_", name).strip("_").lower() for name in class_names]
        if len(set(words)) < len(words):  # as of the classes "a" and "A"
            words = [f"{i}_{word}".strip("_") for i, word in enumerate(words)]
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                picture(image).save(out / f"{words[label]}_{i // len(classes):05d}.png")


def square(images: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Pictures of one class as about as many rows as columns, the name above the first.

    At most as many columns as a grid has side by side. What the last row lacks is white.
    """
    from cgan_jax.images import MOST_COLUMNS

    columns = min(math.ceil(math.sqrt(len(images))), MOST_COLUMNS)
    lacking = -len(images) % columns
    filled = np.pad(images, ((0, lacking), (0, 0), (0, 0), (0, 0)), constant_values=255)
    return filled.reshape(-1, columns, *images.shape[1:]), [name] + [""] * (columns - 1)


if __name__ == "__main__":
    run(main)
