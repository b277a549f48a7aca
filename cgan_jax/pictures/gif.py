"""Frames of a morph, and animated GIFs. The grids of a frame are grids.py's."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from PIL import Image

from cgan_jax.pictures.grids import TILE, grid

STEP_MS, HOLD_MS = 50, 800  # how long a frame stays, and one at an end
EPOCH_MS, LAST_MS = 150, 2500
GREYS = 32  # levels: enough for such pictures, in a quarter of the bytes of 256
MORPH_WIDTH = 320  # pixels that few columns of a morph have together


def morph_pictures(
    frames: np.ndarray, start_names: Sequence[str], end_names: Sequence[str]
) -> list[Image.Image]:
    """Draw a morph, one grid per frame. Names that change fade out, and the new ones in.

    Args:
        frames: uint8 `[frames, rows, columns, H, W, C]`.
        start_names: one per column, of the first frame.
        end_names: the same, of the last frame.

    Returns:
        RGB pictures of one size.

    Raises:
        ConfigError: the images or the names do not make a grid; see `cgan_jax.grid`.
    """
    columns, height, width = frames.shape[2:5]
    side = MORPH_WIDTH // columns
    scale = max(1, side // max(height, width)) if side > TILE else 1
    enlarged = frames.repeat(scale, 3).repeat(scale, 4)
    same = list(start_names) == list(end_names)
    pictures = []
    for images, t in zip(enlarged, np.linspace(0, 1, len(frames)), strict=True):
        fade = 0 if same else round(255 * (1 - abs(1 - 2 * t)))
        names = start_names if t <= 0.5 else end_names
        pictures.append(grid(images, names, ink=(fade, fade, fade)))
    return pictures


def strip_picture(frames: np.ndarray, start_name: str, end_name: str) -> Image.Image:
    """Draw a morph's frames side by side, one row per latent point.

    Args:
        frames: uint8 `[frames, rows, H, W, C]`, at least two frames.
        start_name: above the first frame.
        end_name: above the last.
    """
    names = [start_name, *[""] * (len(frames) - 2), end_name]
    return grid(frames.swapaxes(0, 1), names)


def save_there_and_back(pictures: Sequence[Image.Image], file: str | PathLike[str]) -> None:
    """Save pictures as a GIF that loops to the last one and back; both ends stay for a while.

    Args:
        pictures: of one size, at least two.
        file: the file to write.
    """
    way = [STEP_MS] * (len(pictures) - 2)
    save_gif([*pictures, *pictures[-2:0:-1]], file, [HOLD_MS, *way, HOLD_MS, *way])


def save_gif(
    pictures: Sequence[Image.Image], file: str | PathLike[str], durations: Sequence[int]
) -> None:
    """Save pictures as a GIF that loops, grey ones in 32 levels.

    Args:
        pictures: RGB, of one size, at least one.
        file: the file to write.
        durations: how long each is shown, in milliseconds; a GIF counts in tens.
    """
    first, *rest = map(_with_palette, pictures)
    options = {"duration": list(durations), "loop": 0, "optimize": True}
    first.save(file, "GIF", save_all=True, append_images=rest, **options)


def _with_palette(picture: Image.Image) -> Image.Image:
    """The picture in at most 256 colours, all that a GIF can have."""
    values = np.asarray(picture)
    if (values != values[..., :1]).any():
        return picture.quantize(256, dither=Image.Dither.NONE)
    levels = np.linspace(0, 255, GREYS).round().astype(np.uint8)
    nearest = (values[..., 0].astype(np.uint16) * (GREYS - 1) + 127) // 255
    grey = Image.fromarray(nearest.astype(np.uint8))
    grey.putpalette(levels.repeat(3).tobytes())
    return grey
