"""Animated GIFs: of the ways between images, and of a run's training.

The images are latent_space.py's or the run folder's, their grids images.py's.
"""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cgan_jax.checks import one_line
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.images import MARGIN, TILE, grid, tiles
from cgan_jax.run_folder import RunFolder

STEP_MS, HOLD_MS = 50, 800  # how long a frame is shown, and one to be looked at
EPOCH_MS, LAST_MS = 150, 2500
GREYS = 32  # levels: enough for such pictures, in a quarter of the bytes of 256
MORPH_WIDTH = 320  # pixels that few columns of a morph have together
CAPTION_SIZE = 20


def morph_pictures(
    frames: np.ndarray, start_names: Sequence[str], end_names: Sequence[str]
) -> list[Image.Image]:
    """Draw a morph, a grid a frame. Names that change fade out, and the new ones in.

    Args:
        frames: uint8 `[frames, rows, columns, H, W, C]`.
        start_names: one a column, of the first frame.
        end_names: the same, of the last frame.

    Returns:
        RGB pictures of one size.

    Raises:
        ConfigError: the images or the names do not make a grid; see `cgan_jax.images.grid`.
    """
    columns, width = frames.shape[2], frames.shape[4]
    side = MORPH_WIDTH // columns
    scale = max(1, side // width) if side > TILE else 1
    enlarged = frames.repeat(scale, 3).repeat(scale, 4)
    same = list(start_names) == list(end_names)
    pictures = []
    for images, t in zip(enlarged, np.linspace(0, 1, len(frames)), strict=True):
        fade = 0 if same else round(255 * (1 - abs(1 - 2 * t)))
        names = start_names if t <= 0.5 else end_names
        pictures.append(grid(images, names, ink=(fade, fade, fade)))
    return pictures


def strip_picture(frames: np.ndarray, start_name: str, end_name: str) -> Image.Image:
    """Draw a morph's frames side by side, a row a latent point.

    Args:
        frames: uint8 `[frames, rows, H, W, C]`, at least two frames.
        start_name: above the first frame.
        end_name: above the last.
    """
    names = [start_name, *[""] * (len(frames) - 2), end_name]
    return grid(frames.swapaxes(0, 1), names)


def progress_pictures(run: RunFolder, rows: int) -> list[Image.Image]:
    """A run's sample grids in the order of its epochs, the epoch's number above each.

    Args:
        run: its folder.
        rows: how many of a grid's rows to show, from the top, at most; a latent point each.

    Returns:
        RGB pictures of one size.

    Raises:
        RunError: there is none, or one cannot be read.
    """
    files = run.sample_grids()
    if not files:
        raise RunError(
            f"{run.path} has no sample grids\nexpected samples/epoch_0001.png and the like\n"
            "Train it for an epoch, or name another run's folder."
        )
    captions = {epoch: f"epoch {epoch} of {max(files)}" for epoch in files}
    font = ImageFont.load_default(CAPTION_SIZE)
    caption_width = max(round(font.getlength(text)) + 2 * MARGIN for text in captions.values())
    side = run.config.model.img_size
    pictures: list[Image.Image] = []
    for epoch, file in files.items():
        try:
            with Image.open(file) as opened:
                drawn = opened.convert("RGB")
            shown = grid(tiles(drawn, len(run.class_names), side, side)[:rows], run.class_names)
        except ConfigError as error:
            raise RunError(
                f"{file} is {drawn.width}x{drawn.height} pixels, "
                "which no sample grid of this run is\n"
                "expected the picture that the run wrote\nPut it back, or delete it."
            ) from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise RunError(
                f"{file} cannot be read: {one_line(error)}\n"
                "expected a PNG picture that you may read\nPut it back, or delete it."
            ) from error
        size = (max(shown.width, caption_width), CAPTION_SIZE + shown.height)
        picture = Image.new("RGB", pictures[0].size if pictures else size, "white")
        picture.paste(shown, (0, CAPTION_SIZE))
        place = (MARGIN, MARGIN // 2)
        ImageDraw.Draw(picture).text(place, captions[epoch], "black", font, "lt")
        pictures.append(picture)
    return pictures


def save_there_and_back(pictures: Sequence[Image.Image], file: str | PathLike[str]) -> None:
    """Save pictures as a GIF that runs to the last one and back, for ever; both ends stay a while.

    Args:
        pictures: of one size, at least two.
        file: the file to write.
    """
    way = [STEP_MS] * (len(pictures) - 2)
    save_gif([*pictures, *pictures[-2:0:-1]], file, [HOLD_MS, *way, HOLD_MS, *way])


def save_progress(pictures: Sequence[Image.Image], file: str | PathLike[str]) -> None:
    """Save pictures as a GIF that runs for ever, its last one shown for longer.

    Args:
        pictures: of one size, at least one.
        file: the file to write.
    """
    save_gif(pictures, file, [EPOCH_MS] * (len(pictures) - 1) + [LAST_MS])


def save_gif(
    pictures: Sequence[Image.Image], file: str | PathLike[str], durations: Sequence[int]
) -> None:
    """Save pictures as a GIF that runs for ever, grey ones in 32 levels.

    Args:
        pictures: RGB, of one size, at least one.
        file: the file to write.
        durations: how long each is shown, in milliseconds; a GIF counts in tens.
    """
    first, *rest = map(_with_palette, pictures)
    first.save(
        file,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=list(durations),
        loop=0,
        optimize=True,
    )


def _with_palette(picture: Image.Image) -> Image.Image:
    """The picture in at most 256 colours, which is what a GIF can hold."""
    values = np.asarray(picture)
    if (values != values[..., :1]).any():
        return picture.quantize(256, dither=Image.Dither.NONE)
    levels = np.linspace(0, 255, GREYS).round().astype(np.uint8)
    nearest = (values[..., 0].astype(np.uint16) * (GREYS - 1) + 127) // 255
    grey = Image.fromarray(nearest.astype(np.uint8))
    grey.putpalette(levels.repeat(3).tobytes())
    return grey
