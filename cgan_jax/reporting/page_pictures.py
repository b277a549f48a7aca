"""The pictures of a run's page: its grids, and each class's images, which are cut from them."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cgan_jax.errors import ConfigError
from cgan_jax.pictures.grids import rows_for, shown_classes, tiles
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import read_class_counts

CLASSES_BYTES = 2_000_000  # of the pictures of all classes, beyond which they are JPEGs
GREY = 128  # of the line between two images, on a light page and on a dark one


class Picture(NamedTuple):
    """A picture as a page has it: a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


class ClassPictures(NamedTuple):
    """A class on the page.

    Attributes:
        name: its name.
        n_images: how many training images it has; None where the folder does not say.
        generated: the samples in a row; None where the grids lack the class.
        nearest: whether the training images nearest to the samples are below them.
        real: its first training images in a row; None likewise.
        real_width: of that row, in percent of the samples' row.
    """

    name: str
    n_images: int | None
    generated: Picture | None
    nearest: bool
    real: Picture | None
    real_width: float


def embed(path: Path, limit: int | None = None) -> Picture | None:
    """A PNG file's picture, as a JPEG if that is smaller than both the file and the limit."""
    if not path.exists():
        return None
    with Image.open(path) as picture:
        return Picture(_data_uri(path.read_bytes(), limit), *picture.size)


def class_pictures(run: RunFolder, sample_grid: Path | None) -> list[ClassPictures]:
    """All classes, with their images in a grid of samples, `nearest.png` and `real.png`.

    Raises:
        OSError, RunError: a file cannot be read.
    """
    real = _images(run, run.path / "real.png")
    samples = _images(run, sample_grid) if sample_grid else None
    pairs = _images(run, run.nearest, n_above=2)
    generated = [] if samples is None else [samples]
    if samples is not None and pairs is not None:
        above, below = np.split(pairs, 2, axis=2)
        if np.array_equal(above, samples):  # else it was drawn after other steps
            generated.append(below)
    counts = read_class_counts(run.class_counts, run.class_names)
    shown = shown_classes(len(run.class_names)).tolist()
    columns = {label: column for column, label in enumerate(shown)}
    limit = CLASSES_BYTES // (2 * len(shown))
    mode = "L" if run.config.model.channels == 1 else "RGB"
    rows = []
    for label, name in enumerate(run.class_names):
        column, n_images = columns.get(label), counts[label] if counts else None
        fakes, reals = None, None
        if column is not None and generated:
            fakes = _strip_picture([images[:, column] for images in generated], mode, limit)
        if column is not None and real is not None and n_images != 0:
            reals = _strip_picture([real[:n_images, column]], mode, limit)
        n_rows = 1 if real is None else len(real)
        width = 100 * min(1.0, (n_images or n_rows) / n_rows)
        rows.append(ClassPictures(name, n_images, fakes, len(generated) > 1, reals, width))
    return rows


def _images(run: RunFolder, grid_file: Path, n_above: int = 1) -> np.ndarray | None:
    """The images of a grid, uint8 `[rows, columns, H, W, 3]`; None if it is not such a grid.

    Args:
        run: the run.
        grid_file: the picture, which may be missing.
        n_above: how many images, one above the other, make one of the grid's.
    """
    if not grid_file.exists():
        return None
    (height, width, _), n_classes = run.config.model.image_shape, len(run.class_names)
    with Image.open(grid_file) as picture:
        try:
            columns = len(shown_classes(n_classes))
            return tiles(picture, columns, n_above * height, width)[: rows_for(n_classes)]
        except ConfigError:  # not a picture of the run's
            return None


def _strip_picture(rows: Sequence[np.ndarray], mode: str, limit: int) -> Picture:
    """Rows of images `[n, H, W, 3]`, one above the other, with a line between two images."""
    pixels = _joined([_joined(row, axis=1) for row in rows], axis=0)
    strip, file = Image.fromarray(pixels).convert(mode), io.BytesIO()
    strip.save(file, "PNG")
    return Picture(_data_uri(file.getvalue(), limit), *strip.size)


def _joined(images: Sequence[np.ndarray] | np.ndarray, axis: int) -> np.ndarray:
    line = np.full_like(images[0].take([0], axis), GREY)
    return np.concatenate([part for image in images for part in (line, image)][1:], axis)


def _data_uri(png: bytes, limit: int | None = None) -> str:
    kind, data = "png", png
    if limit is not None and len(png) > limit:
        file = io.BytesIO()
        with Image.open(io.BytesIO(png)) as picture:
            picture.convert("RGB").save(file, "JPEG", quality=90, subsampling=0)
        kind, data = min(("jpeg", file.getvalue()), ("png", png), key=lambda each: len(each[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
