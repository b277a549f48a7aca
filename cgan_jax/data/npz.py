"""An .npz file of arrays as a source, such as `python -m experiments.sample` writes."""

import contextlib
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from cgan_jax.checks import ImageSize, as_path, check_class_names, errors_as, one_line
from cgan_jax.data import background as backgrounds
from cgan_jax.data import crops, stack
from cgan_jax.data.class_names import check_different
from cgan_jax.data.crops import Background, Crop, Options, PictureFormat, to_pillow
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.listing import check_split
from cgan_jax.data.mapped import check_unpacked_size, read_array
from cgan_jax.data.stack import ProgressFn
from cgan_jax.errors import DataError

_TRAIN, _TEST = ("images", "labels"), ("test_images", "test_labels")


def load_npz(
    path: str | PathLike[str],
    img_size: ImageSize | None = None,
    channels: int | None = None,
    *,
    split: str = "train",
    background: Background = "auto",
    on_progress: ProgressFn | None = None,
) -> Dataset:
    """Load the arrays `images`, `labels` and, if present, `class_names` of an .npz file.

    Args:
        path: the file. Its `images` are uint8 `[N, H, W]`, or `[N, H, W, C]` with one channel
            (grey), three (RGB) or four (RGBA); `labels` are integers `[N]`, at least 0;
            `class_names` are strings, in the order of the labels, by default the labels.
        img_size: height and width, or one number for both, that the central part of each image is
            resized to; by default their own, or a square if that exceeds 128 pixels.
        channels: 1 for grey, 3 for colour, 4 for colour and opacity; by default the number in the
            file, without opacity.
        split: "train", or "test" for the arrays `test_images` and `test_labels`, in the classes,
            size, channels and background of the training images.
        background: what transparent pixels become; see `load_folder`.
        on_progress: called as `on_progress(done, total)` while images are cropped.

    Returns:
        uint8 `[N, height, width, channels]`, named after the file. Classes without training images
        are left out.

    Raises:
        ConfigError: an invalid option.
        DataError: no such file; arrays that are missing, pickled, of another shape or dtype, or
            compressed and too large for this machine's memory; a class with another's name, or test
            images alone.
    """
    options = crops.check_options(img_size, channels, background)
    check_split(split)
    file = as_path(path, "the data file")
    arrays = _read(file, (*_TRAIN, *_TEST) if split == "test" else _TRAIN)
    images, labels = _check_arrays(file, arrays, _TRAIN)
    into = _decide(images, options, file)
    train_labels = labels
    if split == "test":
        images, labels = _check_arrays(file, arrays, _TEST)
    if "class_names" in arrays:
        names = check_class_names(arrays["class_names"].tolist(), str(file))
        check_different(names, str(file))
    else:
        values = np.union1d(train_labels, labels)
        names = tuple(str(int(value)) for value in values)
        train_labels, labels = (np.searchsorted(values, each) for each in (train_labels, labels))

    if images.shape[1:] != (*into.size, into.channels):
        images = _crop(images, into, file.stem, on_progress)
    keep = None if split == "train" else train_labels
    about = names, file.stem, f"the file {file}", into.background
    return stack.to_dataset(images, labels, *about, keep=keep)


def has_test_split(file: Path) -> bool:
    """Whether a file has the arrays of a test part.

    Raises:
        DataError: it cannot be read.
    """
    with _read_errors(file), zipfile.ZipFile(file) as archive:
        found = [name for name in _TEST if f"{name}.npy" in archive.namelist()]
    if len(found) == 1:
        raise DataError(
            f"{file} has {found[0]} alone\nexpected {' and '.join(_TEST)}, or neither\n"
            "Add the other array, or remove this one."
        )
    return bool(found)


def _decide(images: np.ndarray, options: Options, file: Path) -> PictureFormat:
    """How images become those of the data set, by the training images."""
    _, height, width, depth = images.shape
    size = options.size or crops.native_size([(height, width)], str(file))
    channels = options.channels or min(depth, 3)
    transparent: list[int] = []
    if depth == 4 and channels != 4:
        transparent = [i for i, image in enumerate(images) if image[..., 3].min() < 255]
    sample = (to_pillow(images[i]) for i in backgrounds.sample(transparent))
    background, notices = backgrounds.choose(options.background, sample, file.stem)
    stack.tell(notices)
    return PictureFormat(size, channels, background)


def _crop(
    images: np.ndarray, into: PictureFormat, name: str, on_progress: ProgressFn | None
) -> np.ndarray:
    """The images in another format."""

    def crop(image: np.ndarray) -> Crop:
        return crops.center_crop(to_pillow(image), into)

    with crops.strict_decoding():
        stacked = stack.stack(crop, images, len(images), into, name, on_progress)
    stack.tell(stack.change_notices(name, stacked.n_changed))
    return stacked.images


def _read(file: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The wanted arrays of a file and, if present, its `class_names`."""
    with _read_errors(file):
        with zipfile.ZipFile(file) as archive:
            check_unpacked_size(file, archive, stack.machine_memory())
        with np.load(file, allow_pickle=False) as saved:
            names = [name for name in (*wanted, "class_names") if name in saved]
            arrays = {name: _array(file, saved, name) for name in names}
            found = one_line(", ".join(saved), 80)
    for name in wanted:
        if name not in arrays:
            raise DataError(
                f"{file} has no array {name!r}; it holds {found}\n"
                "expected images, labels and optionally class_names\n"
                "Save them with np.savez(file, images=..., labels=...)."
            )
    return arrays


def _array(file: Path, saved: Any, name: str) -> np.ndarray:
    """An array of a file; one of uint8 as it can be trained on without a copy, on disk."""
    try:
        return read_array(file, saved.zip, f"{name}.npy")
    except (TypeError, ValueError):  # of other numbers, or with a header of another version
        return saved[name]


def _read_errors(file: Path) -> contextlib.AbstractContextManager[None]:
    then = (
        "expected an .npz file of numbers and strings, as np.savez writes it\n"
        "Save images of one size as uint8, labels as integers, names as strings; or name another."
    )
    return errors_as(DataError, f"{file} cannot be read", then)  # of many kinds


def _check_arrays(
    file: Path, arrays: dict[str, np.ndarray], names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """The images as uint8 `[N, H, W, C]`, and the labels."""
    images, labels = _check_images(file, arrays[names[0]]), arrays[names[1]]
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{names[1]} in {file} are {labels.dtype} {list(labels.shape)}\n"
            f"expected integers [{len(images)}]\nGive one label per image."
        )
    if labels.min() < 0:
        raise DataError(
            f"{file}: {names[1]} run from {labels.min()}\nexpected 0 or more\n"
            "Count the classes from 0, and remove unlabelled images."
        )
    return images, labels


def _check_images(file: Path, images: np.ndarray) -> np.ndarray:
    """The images as uint8 `[N, H, W, C]`."""
    shape, dtype = images.shape, images.dtype
    if dtype != np.uint8:
        raise DataError(
            f"images in {file} are {dtype}, expected uint8, pixel values from 0 to 255\n"
            "Save (images * 255).round().astype('uint8') if they run from 0 to 1."
        )
    if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise DataError(
            f"images in {file} are {list(shape)}\n"
            "expected [N, H, W], or [N, H, W, C] with 1, 3 or 4 channels, none of them 0\n"
            "Put the channels last: images.transpose(0, 2, 3, 1) if they come before H."
        )
    return images[..., np.newaxis] if len(shape) == 3 else images
