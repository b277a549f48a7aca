"""The data that a run is measured with: found again by its folder, and checked. Imports no JAX."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from cgan_jax.checks import size_text
from cgan_jax.data import SPECS, Dataset
from cgan_jax.data.holdout import count_copies, hold_out
from cgan_jax.data.own import is_path
from cgan_jax.errors import RunError
from cgan_jax.runs.folder import RunFolder
from experiments.shared.command_line import parse
from experiments.shared.data_flags import TRAIN, DataFlags, saved_data_flags

KNOWN = "fashion_mnist"
USUAL = (KNOWN, None), (KNOWN, 0.0)  # data and share held out: the published splits


class EvalData(NamedTuple):
    """The images to measure with.

    Attributes:
        training: the run's.
        test: others, with the same classes.
        about_test: what these are, if they are not a test split.
    """

    training: Dataset
    test: Dataset
    about_test: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a run's data come from; runs of equal sources are measured with the same images.

    Attributes:
        flags: which data.
        seed: of the run, for what is held out; 0 where nothing is.
        sha256: of the run's training images; None if it need not be compared.
    """

    flags: DataFlags
    seed: int = 0
    sha256: str | None = None

    def load(self, *runs: RunFolder) -> EvalData:
        """The images of runs of this source.

        Raises:
            ConfigError, DataError: they cannot be loaded.
            RunError: they are not those that the run was trained on, or recorded to be tested on.
        """
        training, held_out, share = self.flags.parts(self.seed, runs[0])
        if self.sha256:
            was_trained = "was trained on other images"
            _check_same(runs[0], was_trained, runs[0].data or {}, training, "to train on")
        test, about = held_out, f"held out of training (--holdout {share:g})"
        if test is None:
            test, about = self.flags.load_test(training), ""
        for run in runs:
            if self.sha256 and (record := (run.data or {}).get("test")):  # not of older runs
                _check_same(run, "recorded other test images", record, test, "to test on")
        if test is not None:
            if self.flags.data != KNOWN and (n_copies := count_copies(test, training)):
                about += f"{', ' * bool(about)}{n_copies:,} of them copies of training images"
            return EvalData(training, test, about or None)
        rest, half = hold_out(training, 0.5, in_place=True)
        about = (
            "half of the training images, as the run held none out; the generator has seen them, "
            "so copies look good"
        )
        return EvalData(rest, half, about)


def _check_same(
    run: RunFolder, what: str, before: Mapping[str, Any], images: Dataset | None, use: str
) -> None:
    """Raise a RunError if images are not those that a run has recorded."""
    there, sha256 = "the data have none now", None
    if images:
        n, sha256 = len(images), str(images.identity()["sha256"])
        there = f"{images.source} has {n} {use}, {sha256[:12]}"
    if sha256 != before["sha256"]:
        raise RunError(
            f"{run.path} {what}: {before.get('n_images')}, SHA-256 {str(before['sha256'])[:12]}; "
            f"{there}\n"
            "expected the same images, read in the same way\n"
            "Restore them, or name their new place with --data."
        )


def source_of(run: RunFolder, data: str | None = None, data_dir: Path | None = None) -> Source:
    """Where a run's data come from.

    Args:
        run: the run.
        data: their place, if it is another than the run's command says.
        data_dir: TFDS's data directory, likewise.

    Raises:
        RunError: it does not say where, and `data` neither.
    """
    saved = saved_data_flags(run)
    is_known = _is_fashion_mnist(run) and (saved is None or (saved.data, saved.holdout) in USUAL)
    if data in (None, KNOWN) and is_known:
        return Source(DataFlags(KNOWN, data_dir=data_dir or (saved.data_dir if saved else None)))
    if data:
        own = replace(saved, data=data) if saved else _shaped_as(run, data)
    elif saved:
        own = saved
    else:
        raise RunError(
            f"{run.path} holds a run on {run.config.dataset}, and not the command that trained it\n"
            "expected a run of `train`, or the data\n"
            "Name the data with --data: a folder, an .npz file, or a name in TFDS."
        )
    is_seeded = own.holdout_seed is None and (own.holdout or not saved)
    sha256 = (run.data or {}).get("sha256")
    own = replace(own, data_dir=None if is_path(own.data) else data_dir or own.data_dir)
    return Source(own, run.config.seed if is_seeded else 0, sha256)


def _shaped_as(run: RunFolder, data: str) -> DataFlags:
    """The flags that read data as the images of a run are."""
    model = run.config.model
    words = ["--img-size", size_text(model.img_size), "--channels", str(model.channels)]
    return parse(DataFlags, TRAIN, [data, *words])


def _is_fashion_mnist(run: RunFolder) -> bool:
    model = run.config.model
    is_same = (run.config.dataset, model.img_size, model.channels) == (KNOWN, 28, 1)
    return is_same and run.class_names == SPECS[KNOWN].class_names
