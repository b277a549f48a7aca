"""The flags that say which data to train on; and the data of a run, to evaluate it. No JAX."""

import logging
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import tyro

from cgan_jax.checks import ImageSize, check_seed, plural, size_text
from cgan_jax.config import TrainConfig
from cgan_jax.data import SPECS, Dataset
from cgan_jax.data.crops import Background
from cgan_jax.data.holdout import DEFAULT_SHARE, LEAST, check_share, count_copies, hold_out
from cgan_jax.data.own import has_test_split, is_path, load_own
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.runs.folder import RunFolder
from experiments.shared.command_line import parse_size
from experiments.shared.reading import reading_bar
from experiments.shared.training_flags import INT, PATH, flag_value, saved_flags, saved_words

TRAIN = "experiments.train"


class Parts(NamedTuple):
    """The parts of some data.

    Attributes:
        training: the images to train on.
        held_out: those of `--holdout`, or None.
        share: that were held out.
    """

    training: Dataset
    held_out: Dataset | None
    share: float


@dataclass(frozen=True)
class DataFlags:
    """Which pictures to train on, and how to read them."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder with one sub-folder of pictures per class, or with labels.csv or dataset.json; an
    .npz file with the arrays images, labels and perhaps class_names; or a name in TFDS, as mnist,
    cifar10 or emnist/letters."""
    img_size: Annotated[str | None, tyro.conf.arg(metavar="INT|INTxINT")] = None
    """Height and width to resize the pictures' centres to: 32 for squares, or as 64x48, height
    first. By default their own, or a square of their shorter sides where they have several, more
    than 128 pixels, or one that the networks cannot halve. A run that is resumed keeps its own."""
    channels: Literal[1, 3, 4] | None = None
    """1 for grey, 3 for colour, 4 for colour and opacity. By default 1 or 3, as the pictures
    have."""
    alpha_background: Background = "auto"
    """What transparent pixels become: white, black, or whichever the pictures contrast with."""
    skip_unreadable: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out pictures that cannot be read, instead of refusing them."""
    data_dir: Annotated[Path | None, PATH] = None
    """TFDS's data directory. By default $TFDS_DATA_DIR, or tensorflow_datasets in your home."""
    holdout: Annotated[float | None, tyro.conf.arg(metavar="SHARE")] = None
    """Share of each class to hold out of training, for `evaluate`; 0 trains on all. By default 0.1
    of 500 pictures or more that have no test part."""
    holdout_seed: Annotated[int | None, INT] = None
    """Chooses which are held out. By default --seed; give one number to compare several seeds."""

    @property
    def size(self) -> ImageSize | None:
        """The size of the images, if it is given.

        Raises:
            ConfigError: it is not a size.
        """
        return None if self.img_size is None else parse_size(self.img_size)

    def img_size_to_check(self) -> ImageSize:
        """The images' size if it is given; else one that halves often, until the data are read."""
        return self.size or 64

    def load(self, split: str = "train") -> Dataset:
        """The images of a part that the data themselves have: `train` or `test`.

        Raises:
            ConfigError, DataError: as the functions of cgan_jax.data.
        """
        with reading_bar() as on_progress:
            return load_own(
                self.data,
                split=split,
                img_size=self.size,
                channels=self.channels,
                data_dir=self.data_dir,
                background=self.alpha_background,
                skip_unreadable=self.skip_unreadable,
                on_progress=on_progress,
            )

    def load_test(self, training: Dataset) -> Dataset | None:
        """The data's own test part, if they have one, in the size of the training images."""
        if not has_test_split(self.data, self.data_dir):
            return None
        return self._of_size(training.images.shape[1:3]).load("test")

    def _of_size(self, size: ImageSize) -> Self:
        """These flags with a size where none is given. Published data have theirs."""
        fixed = self.size is not None or self.data in SPECS
        return self if fixed else replace(self, img_size=size_text(size))

    def _load_fitting(self, config: TrainConfig | None) -> Dataset:
        """The training images; as squares if the networks cannot have their own size."""
        whole = self.load()
        height, width = whole.images.shape[1:3]
        if config is None or self.img_size is not None or height == width:
            return whole
        try:
            config.for_data(whole)
            return whole
        except ConfigError as error:
            reason = str(error).splitlines()[0]
        logging.getLogger("cgan_jax").info("%s: %s: reading squares", whole.name, reason)
        del whole  # not while the error holds it too
        return self._of_size(min(height, width)).load()

    def parts(
        self, seed: int, run: RunFolder | None = None, config: TrainConfig | None = None
    ) -> Parts:
        """The training images, and what is held out of them.

        Args:
            seed: the run's, which chooses the images unless `holdout_seed` does.
            run: a run that is there already, whose image size is kept. Where no share is given and
                it was trained on all images, as older ones were, it keeps all.
            config: of a new run, whose networks the default size is to fit.

        Raises:
            ConfigError, DataError: as `load` and `hold_out`.
        """
        seed = check_seed(seed if self.holdout_seed is None else self.holdout_seed)
        share = None if self.holdout is None else check_share(self.holdout)
        own = self._of_size(run.config.model.img_size) if run else self
        try:
            whole = own._load_fitting(config)
        except (ConfigError, DataError) as error:
            is_name = not is_path(self.data)  # or the place of a folder that is gone
            if run is None or (isinstance(error, ConfigError) and not is_name):
                raise
            reason = str(error).splitlines()[0].partition("; did you mean")[0]
            raise DataError(
                f"{reason}\nexpected the data that {run.path} was trained on\n"
                "Restore them, or name their new place: as DATA to train, with --data to evaluate."
            ) from error
        if share is None:
            is_enough = len(whole) >= LEAST and not has_test_split(self.data, self.data_dir)
            share = DEFAULT_SHARE if is_enough and not _trained_on(whole, run) else 0.0
        if not share:
            return Parts(whole, None, 0.0)
        return Parts(*hold_out(whole, share, seed, in_place=True), share)

    def decided(self, parts: Parts) -> Self:
        """These flags with what was decided for some data, whatever other data or versions do."""
        share = self.holdout if parts.held_out is None else parts.share
        background = parts.training.background or self.alpha_background
        return replace(self, holdout=share, alpha_background=background)

    def identity(self, parts: Parts, run: RunFolder | None = None) -> dict[str, Any]:
        """What a run records of its data, so that `evaluate` notices others.

        Args:
            parts: what `parts` returned.
            run: a run that is there already, whose record stays.

        Returns:
            `Dataset.identity` of the training images; for a new run as "test" also that of those
            held out or, of a folder or file, of its test part.

        Raises:
            ConfigError, DataError: as `load`.
        """
        test = parts.held_out
        if test is None and run is None and is_path(self.data):  # those of TFDS have versions
            test = self.load_test(parts.training)
        tested = {} if test is None else {"test": test.identity()}
        return parts.training.identity() | tested


def describe_holdout(training: Dataset, held_out: Dataset) -> str:
    """A line about what is held out."""
    n = len(held_out)
    whole = plural(n + len(training), "picture")
    n_copies = count_copies(held_out, training)
    copies = f" {n_copies:,} have copies among those that are trained on." * (n_copies > 0)
    return (
        f"Holding out {n:,} of {whole} for `evaluate`: they are not trained on "
        f"(--holdout 0 trains on all).{copies}"
    )


def saved_data_flags(run: RunFolder) -> DataFlags | None:
    """The data flags in the command that a run keeps; None if it is not one of `train`."""
    words = saved_words(TRAIN, run.command)
    if not words:
        return None
    known = [words[0]]
    for field in fields(DataFlags):
        flag = f"--{field.name.replace('_', '-')}"
        if flag in words and isinstance(field.default, bool):
            known.append(flag)
        elif field.default is not MISSING and (value := flag_value(words, flag)):
            known += [flag, value]
    return saved_flags(DataFlags, TRAIN, known)


def _trained_on(whole: Dataset, run: RunFolder | None) -> bool:
    """Whether a run trains on all images. One that did not record which, did."""
    return run is not None and (not run.data or run.data["sha256"] == whole.identity()["sha256"])
