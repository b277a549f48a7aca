"""The latent points of a trained run whose images are nearest to your pictures.

    python -m experiments.invert runs/fashion_cgan coat.png --label Coat --out found.png
    python -m experiments.animate runs/fashion_cgan --from found.npz --to Bag

One picture and one label take a few seconds on two CPU cores; without a label, so does each class.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from cgan_jax.checks import Count, ImageSize, Seed, errors_as, height_and_width, plural
from cgan_jax.data.crops import Background
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.files import atomic_write
from cgan_jax.runs.folder import RunFolder
from experiments.shared.choice import NEWEST, Checkpoint, Words, class_ids
from experiments.shared.command_line import parse, run
from experiments.shared.data_flags import saved_data_flags
from experiments.shared.output import check_output
from experiments.shared.reading import reading_bar

if TYPE_CHECKING:
    from cgan_jax.sampling.inversion import Inverted

MODULE = "experiments.invert"


@dataclass(frozen=True)
class Flags:
    """Find the latent points whose images are nearest to pictures.

    Examples:
      python -m experiments.invert runs/fashion_cgan coat.png --label Coat
      python -m experiments.invert runs/fashion_cgan a.png b.png --out both.png   tries all classes
      python -m experiments.animate runs/fashion_cgan --from both.npz --to Bag    continues there
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder."""
    pictures: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PICTURE ...", help_behavior_hint=""),
    ]
    """Pictures like those that the run was trained on. Their central parts are resized."""
    label: Words = ()
    """Their classes, by name or number: one per picture, or one for all. Without it all classes are
    tried for each."""
    starts: Count = 8
    """Number of random points to start from, for each picture and class."""
    steps: Count = 300
    """Number of steps of gradient descent."""
    seed: Seed = 0
    """Seed of the random points."""
    alpha_background: Background | None = None
    """What transparent pixels become: white, black, or auto, as for `train`. By default as when the
    run was trained."""
    embedding: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fit the label's embedding too, as a mixture of those of all classes."""
    out: Path = Path("inverted.png")
    """A grid, its name ends in .png: each picture, below it the nearest images, the best first.
    Beside it a file that ends in .npz gets the latent points."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace files that exist."""
    checkpoint: Checkpoint = NEWEST

    def check(self) -> None:
        """Raises an error for what the library does not look at before the run is loaded."""
        self.checkpoint.check()
        if not self.pictures:
            raise ConfigError("there is no picture\nexpected at least one\nName some files.")
        if self.out.suffix.lower() != ".png":
            raise ConfigError(
                f"out is {self.out}, which a grid cannot be written to\n"
                "expected a name that ends in .png\nGive another --out."
            )
        for file in (self.out, self.out.with_suffix(".npz")):
            check_output(file, self.overwrite)


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    folder = RunFolder.open(flags.run)  # says what is wrong before JAX is imported
    model = folder.config.model
    saved = saved_data_flags(folder)
    background = flags.alpha_background or (saved.alpha_background if saved else "auto")
    images = read(flags.pictures, model.img_size, model.channels, background)
    labels = class_ids(flags.label, folder.class_names) if flags.label else None
    generator = flags.checkpoint.load(folder)

    from cgan_jax.sampling.inversion import invert

    with reading_bar("Inverting") as on_progress:
        found = invert(
            generator,
            images,
            labels,
            starts=flags.starts,
            steps=flags.steps,
            seed=flags.seed,
            embedding=flags.embedding,
            on_progress=on_progress,
        )
    for i, file in enumerate(flags.pictures):
        print(f"{file}: {describe(found, i)}")
    arrays = flags.out.with_suffix(".npz")
    found.save(arrays)
    draw(found, flags.starts, flags.out)
    what = plural(len(images), "picture")
    print(f"Wrote {what} and the nearest images to {flags.out}, their latent points to {arrays}.")


def read(
    files: tuple[Path, ...], img_size: ImageSize, channels: int, background: Background
) -> np.ndarray:
    """Pictures as the loaders of training images read them, uint8 `[n, H, W, C]`.

    "auto" chooses a background for each picture, and grey of more than 8 bits has its usual range.

    Raises:
        DataError: a file is not a picture that can be read.
    """
    from PIL import Image

    from cgan_jax.data import background as backgrounds
    from cgan_jax.data.crops import PictureFormat, center_crop, strict_decoding
    from cgan_jax.data.stack import tell

    images, size = [], height_and_width(img_size)
    then = "expected an intact image of 8 bits per channel, or 16- or 32-bit grey\nName another."
    for file in files:
        with (
            errors_as(DataError, f"{file} cannot be read", then),
            strict_decoding(),
            Image.open(file) as image,
        ):
            transparent = [image] if channels != 4 and image.has_transparency_data else []
            chosen, notices = backgrounds.choose(background, transparent, str(file))
            tell(notices)
            images.append(center_crop(image, PictureFormat(size, channels, chosen)).image)
    return np.stack(images)


def describe(found: "Inverted", i: int) -> str:
    """The classes that were tried for a picture, the best three of them, and how near they come."""
    best: dict[int, float] = {}
    for label, distance in zip(found.labels[i].tolist(), found.distance[i].tolist(), strict=True):
        best.setdefault(label, distance)
    (first, nearest), *others = list(best.items())[:3]
    then = ", ".join(f"{found.class_names[label]} {distance:.3f}" for label, distance in others)
    return (
        f"{found.class_names[first]} at distance {nearest:.3f} "
        f"({found.pixel_error[i, 0]:.1f} of 255 grey levels)" + f"; then {then}" * bool(then)
    )


def draw(found: "Inverted", rows: int, out: Path) -> None:
    """Write a grid: each picture, and below it at most `rows` of its nearest images.

    Raises:
        RunError: it cannot be written.
    """
    from cgan_jax.pictures.grids import grid

    columns = np.concatenate([found.targets[:, None], found.images[:, :rows]], 1)
    names = [found.class_names[label] for label in found.labels[:, 0]]
    with atomic_write(out) as file:
        grid(columns.swapaxes(0, 1), names).save(file)


if __name__ == "__main__":
    run(main)
