"""Animated GIFs from a trained run: one class turning into another, or the training itself.

python -m experiments.animate runs/fashion_cgan --from Sneaker --to "Ankle boot" --out morph.gif
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from cgan_jax.checks import Count, Range, plural
from cgan_jax.errors import ConfigError
from cgan_jax.files import atomic_write
from cgan_jax.runs.folder import RunFolder
from experiments.shared.choice import NEWEST, Checkpoint, Words, class_ids, square
from experiments.shared.command_line import parse, run
from experiments.shared.output import check_output

if TYPE_CHECKING:
    from PIL import Image

MODULE = "experiments.animate"
MORPH_FILES = (".gif", ".png", ".npz")
STRIP_FRAMES, GIF_FRAMES = 10, 60


@dataclass(frozen=True)
class Flags:
    """Animate a trained run: its training, or with --from the path between pictures.

    Examples:
      python -m experiments.animate runs/fashion_cgan              the training, epoch by epoch
      python -m experiments.animate runs/fashion_cgan --from Sneaker --to "Ankle boot"
      python -m experiments.animate runs/fashion_cgan --from Bag   from bags to other bags
      python -m experiments.animate runs/fashion_cgan --from all --to-seed 5 --out strip.png
      python -m experiments.animate runs/fashion_cgan --from found.npz --to Bag   a picture
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder."""
    start: Annotated[Words, tyro.conf.arg(name="from")] = ()
    """Classes to begin with, by name or number; or all; or the pictures in a file of
    experiments.invert, which ends in .npz. Without it, the training is shown."""
    end: Annotated[Words, tyro.conf.arg(name="to")] = ()
    """Classes to end with: one for each at the start, or one for all; or such a file. By default
    the same ones."""
    seed: int = 0
    """Seed of the latent points at the start."""
    end_seed: Annotated[int | None, tyro.conf.arg(name="to-seed")] = None
    """Seed of those at the end; by default --seed, or without --to the next one. After a file, by
    default the file's points, or without --to those of the next seed."""
    n: Count = 4
    """Number of latent points for each class; of a file, there is one for each picture."""
    frames: Annotated[int, Range(2)] | None = None
    """Number of frames from start to end; by default 60, or 10 in a strip."""
    out: Path = Path("animation.gif")
    """An animation for a name that ends in .gif, of the training, or there and back; a strip of
    pictures for .png; arrays (images, start, end, class_names) for .npz."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a file that exists."""
    truncation: float | None = None
    """Keep latent numbers within this of 0: more typical pictures, less variety. 0.5 is strong."""
    checkpoint: Checkpoint = NEWEST

    def check(self) -> None:
        """Raises an error for what the library does not look at."""
        self.checkpoint.check()
        what, kinds = ("a morph", MORPH_FILES) if self.start else ("the training", (".gif",))
        if self.out.suffix.lower() not in kinds:
            raise ConfigError(
                f"out is {self.out}, which {what} cannot be written to\n"
                f"expected a name that ends in {' or '.join(kinds)}\nGive another --out."
            )
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        unused = [name for name in changed if name not in ("run", "n", "out", "overwrite")]
        if unused and not self.start:
            flags = {"end": "to", "end_seed": "to-seed", "checkpoint": "step or --best"}
            flag = flags.get(unused[0], unused[0])
            raise ConfigError(
                f"--{flag} does not apply to the training, which is shown without --from\n"
                f"expected --from with it\nGive --from, or omit --{flag}."
            )
        check_output(self.out, self.overwrite)


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    folder = RunFolder.open(flags.run)  # says what is wrong before JAX is imported
    if flags.start:
        animate_morph(folder, flags)
    else:
        animate_training(folder, flags.n, flags.out)


def animate_training(folder: RunFolder, n: int, out: Path) -> None:
    """Write the first n rows of a run's sample grids, one epoch after the other.

    Raises:
        RunError: there are no grids, or a file cannot be read or written.
    """
    from cgan_jax.pictures.gif import EPOCH_MS, LAST_MS, save_gif
    from cgan_jax.reporting.animation import progress_pictures

    pictures = progress_pictures(folder, n)
    with atomic_write(out) as file:
        save_gif(pictures, file, [EPOCH_MS] * (len(pictures) - 1) + [LAST_MS])
    what = plural(len(pictures), "picture")
    print(f"Wrote {what} up to epoch {max(folder.sample_grids())} to {out}.")


def animate_morph(folder: RunFolder, flags: Flags) -> None:
    """Write pictures on the path from the classes that the flags name to others.

    Raises:
        CGANError: the flags ask for something that does not exist, or a file cannot be read or
            written.
    """
    start, labels, latent = path_end(flags.start, folder)
    end, end_labels, end_latent = (
        path_end(flags.end, folder) if flags.end else (start, labels, None)
    )
    from_file = latent is not None or end_latent is not None
    if from_file and flags.n != Flags.n:
        raise ConfigError(
            f"n is {flags.n}, with a file of pictures\nexpected one latent point for each picture\n"
            "Omit --n."
        )
    end_seed = flags.end_seed
    if end_seed is None and not flags.end:
        end_seed = (flags.seed + 1) % 2**32
    generator = flags.checkpoint.load(folder)
    frames = generator.morph(
        labels,
        end_labels,
        n=1 if from_file else flags.n,
        seed=flags.seed,
        end_seed=end_seed,
        frames=flags.frames or (STRIP_FRAMES if flags.out.suffix.lower() == ".png" else GIF_FRAMES),
        truncation=flags.truncation,
        latent=latent,
        end_latent=end_latent,
    )
    start, end = np.broadcast_arrays(start, end)
    write(frames, start, end, generator.class_names, flags.out)
    what = f"{len(frames)} frames of {plural(frames.shape[1], 'picture')}"
    print(f"Wrote {what} after {generator.step:,} steps to {flags.out}.")


def path_end(
    words: Sequence[Sequence[str]], folder: RunFolder
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Class ids of one end of a path, its labels for `morph`, and its latent points if they are
    given: of classes, or of the pictures in a file of experiments.invert.

    Raises:
        ConfigError: a label is not a class, or the file is of other classes.
        DataError: the file cannot be read.
    """
    files = [word for group in words for word in group if word.lower().endswith(".npz")]
    if not files:
        ids = class_ids(words, folder.class_names)
        return ids, ids, None
    if sum(map(len, words)) > 1:
        raise ConfigError(
            f"{files[0]} is not the only word after its flag\nexpected classes, or one file\n"
            "Invert several pictures at once, into one file."
        )
    from cgan_jax.sampling.inversion import load_inverted

    found = load_inverted(files[0])
    latent, model = found.latent[:, 0], folder.config.model
    if (found.class_names, latent.shape[1]) != (folder.class_names, model.latent_dim):
        raise ConfigError(
            f"{files[0]} is of a run with other classes or latent points\n"
            f"expected those of {folder.path}\nInvert the pictures with this run."
        )
    ids, weights = found.labels[:, 0], found.weights[:, 0]
    is_label = (weights == np.eye(weights.shape[1])[ids]).all()
    return ids, ids if is_label else weights, latent


def write(
    frames: np.ndarray, start: np.ndarray, end: np.ndarray, class_names: Sequence[str], out: Path
) -> None:
    """Write a morph in the format that the name of `out` asks for.

    Args:
        frames: uint8 `[frames, n * classes, H, W, C]`, one of each class after the other.
        start: class ids at the start, int32 `[classes]`.
        end: class ids at the end.
        class_names: of all classes.
        out: the file.

    Raises:
        RunError: it cannot be written.
    """
    from cgan_jax.pictures.gif import morph_pictures, save_there_and_back

    n = frames.shape[1] // len(start)
    grids = frames.reshape(len(frames), n, len(start), *frames.shape[2:])
    names = [[class_names[i] for i in ids] for ids in (start, end)]
    with atomic_write(out) as file:
        if out.suffix.lower() == ".gif":
            save_there_and_back(morph_pictures(*squares(grids, *names)), file)
        elif out.suffix.lower() == ".png":
            strips(grids, *names).save(file)
        else:
            starts, ends = np.tile(start, n), np.tile(end, n)
            np.savez(file, images=frames, start=starts, end=ends, class_names=class_names)


def squares(
    grids: np.ndarray, start_names: list[str], end_names: list[str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Frames of one class in about as many rows as columns; frames of several unchanged."""
    if len(start_names) > 1:
        return grids, start_names, end_names
    frames = np.stack([square(frame[:, 0], "")[0] for frame in grids])
    blank = [""] * (frames.shape[2] - 1)
    return frames, start_names + blank, end_names + blank


def strips(grids: np.ndarray, start_names: list[str], end_names: list[str]) -> "Image.Image":
    """The frames side by side, one row per latent point, the classes one below the other."""
    from PIL import Image

    from cgan_jax.pictures.gif import strip_picture

    pictures = [
        strip_picture(grids[:, :, i], start, end)
        for i, (start, end) in enumerate(zip(start_names, end_names, strict=True))
    ]
    # Long names make larger images, so that strips may be of unequal width.
    width, height = max(each.width for each in pictures), sum(each.height for each in pictures)
    whole, top = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


if __name__ == "__main__":
    run(main)
