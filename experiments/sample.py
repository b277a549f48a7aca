"""Pictures of the classes you name, from a trained run: a grid, single files, or arrays.

python -m experiments.sample runs/fashion_cgan --label "Ankle boot" --n 16 --out boots.png
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cgan_jax.checks import Count, normalize_name, plural
from cgan_jax.errors import ConfigError
from cgan_jax.files import atomic_write, check_path, write_errors
from cgan_jax.runs.folder import RunFolder
from experiments.shared.choice import NEWEST, Checkpoint, Words, class_ids, square
from experiments.shared.command_line import parse, run
from experiments.shared.output import check_output

MODULE = "experiments.sample"
FILES = (".png", ".npz")
FOREIGN = (
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".pdf",
    ".svg",
    ".npy",
    ".zip",
)


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
    label: Words = ()
    """Classes, by name or number; or all, which is the default."""
    n: Count = 10
    """Number of pictures of each class."""
    seed: int = 0
    """Seed of the latent points."""
    out: Path = Path("samples.png")
    """A grid for a name that ends in .png; arrays (images, labels, class_names) for one that ends
    in .npz; a folder with one sub-folder of pictures per class for any other."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a file that exists."""
    truncation: float | None = None
    """Keep latent numbers within this of 0: more typical pictures, less variety. 0.5 is strong."""
    checkpoint: Checkpoint = NEWEST

    def check(self) -> None:
        """Raises an error for what the library does not look at."""
        self.checkpoint.check()
        suffix = self.out.suffix.lower()
        if suffix in FILES:
            return check_output(self.out, self.overwrite)
        check_path(self.out)
        with write_errors(self.out):
            is_folder = self.out.is_dir()
            if is_folder and any(self.out.iterdir()):
                raise ConfigError(
                    f"{self.out} holds other files\n"
                    "expected a new folder, or a name with .png or .npz\nName another."
                )
        if suffix in FOREIGN and not is_folder:
            raise ConfigError(
                f"out is {self.out}, but {suffix} files cannot be written\n"
                "expected a name that ends in .png or .npz, or a folder's\nGive another --out."
            )
        return None


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    folder = RunFolder.open(flags.run)  # says what is wrong before JAX is imported
    classes = class_ids(flags.label or (("all",),), folder.class_names)
    generator = flags.checkpoint.load(folder)
    images = generator.generate(classes, n=flags.n, seed=flags.seed, truncation=flags.truncation)
    write(images, classes, generator.class_names, flags.out)
    what = plural(len(images), "picture")
    print(f"Wrote {what} after {generator.step:,} steps to {flags.out}.")


def write(images: np.ndarray, classes: np.ndarray, class_names: Sequence[str], out: Path) -> None:
    """Write pictures in the format that the name of `out` asks for.

    Args:
        images: uint8 `[n * classes, H, W, C]`, one of each class after the other.
        classes: class ids, int32.
        class_names: of all classes.
        out: the file or folder.

    Raises:
        RunError: it cannot be written.
    """
    labels = np.resize(classes, len(images))
    if out.suffix.lower() == ".npz":
        with atomic_write(out) as file:
            np.savez(file, images=images, labels=labels, class_names=class_names)
    elif out.suffix.lower() == ".png":
        from cgan_jax.pictures.grids import grid

        names = [class_names[i] for i in classes]
        rows = images.reshape(-1, len(classes), *images.shape[1:])
        if len(classes) == 1:
            rows, names = square(rows[:, 0], names[0])
        with atomic_write(out) as file:
            grid(rows, names).save(file)
    else:
        from cgan_jax.data.crops import to_pillow

        folders = folder_names(class_names)
        counts: Counter[int] = Counter()
        with write_errors(out):
            for image, label in zip(images, labels.tolist(), strict=True):
                file = out / folders[label] / f"{counts[label]:05d}.png"
                if not counts[label]:
                    file.parent.mkdir(parents=True, exist_ok=True)
                to_pillow(image).save(file)
                counts[label] += 1


def folder_names(class_names: Sequence[str]) -> list[str]:
    """The classes' names without what a file's name cannot have; numbered if two become equal."""
    words = [re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(" .") for name in class_names]
    words = [word.encode()[:200].decode(errors="ignore").strip(" .") or "_" for word in words]
    if len(set(map(normalize_name, words))) < len(words):
        words = [f"{i}_{word}" for i, word in enumerate(words)]
    return words


if __name__ == "__main__":
    run(main)
