"""How many images an evaluation compares: what a protocol asks for, and what the data allow.

evaluation.py measures by a plan.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cgan_jax.checks import first_names, plural, short_repr
from cgan_jax.data import Dataset
from cgan_jax.errors import DataError
from cgan_jax.metrics import cas
from cgan_jax.metrics.classifier import Recipe

LEAST = 10  # images on either side: fewer have no distribution to compare
LEAST_LIKELIHOOD = 50
CAS_IMAGES = 100_000  # that a classifier of few images sees, each of them many times
CAS_MOST_EPOCHS = 500


@dataclass(frozen=True)
class EvalProtocol:
    """How many images are compared, and with which seeds. Figures of two protocols do not compare.

    Attributes:
        name: `full` or `fast`.
        seeds: of the fakes. Each seed is measured; mean and standard deviation are reported.
        n_images: number of fakes per seed, of test images, and of training images for the real
            column; equally many of each class.
        n_large: fakes of the first seed for `fcd_50k`; 0 to omit it.
        k: the neighbour of precision, recall, density and coverage.
        kernel_subsets: of the kernel distance.
        kernel_size: images per subset.
        n_nearest: images whose nearest training image is looked for.
        likelihood: whether to measure `fld` and `fld_gap`, of the first seed.
        cas: whether to train a classifier on 60,000 fakes of the first seed.
        cas_on_real: whether to train it on the real images too, instead of using the known figure.
    """

    name: str = "full"
    seeds: tuple[int, ...] = (0, 1, 2)
    n_images: int = 10_000
    n_large: int = 50_000
    k: int = 5
    kernel_subsets: int = 100
    kernel_size: int = 1_000
    n_nearest: int = 2_000
    likelihood: bool = True
    cas: bool = True
    cas_on_real: bool = False

    @property
    def whole_split(self) -> bool:
        """Whether the features of all training images are needed."""
        return bool(self.n_large or self.likelihood)


FULL = EvalProtocol()
FAST = EvalProtocol(
    "fast",
    seeds=(0,),
    n_images=2_000,
    n_large=0,
    kernel_size=500,
    n_nearest=500,
    likelihood=False,
    cas=False,
)


class EvalPlan(NamedTuple):
    """What a protocol becomes with some data. Those of Fashion-MNIST change nothing.

    Attributes:
        protocol: with the numbers that the data allow.
        real_counts: test images of each class, and training images for the real column.
        labels: the classes of a seed's fakes, int32 `[n_images]`, each class in turn.
        more_labels: of the images for `fcd_50k` and `cas`; each measure takes the first ones.
        n_cas: how many images `cas` trains on; 0 if it is not measured.
        cas_recipe: how it trains.
        adapted: how the protocol differs from the one asked for, one line each.
        known: whether the data are Fashion-MNIST.
    """

    protocol: EvalProtocol
    real_counts: np.ndarray
    labels: np.ndarray
    more_labels: np.ndarray
    n_cas: int
    cas_recipe: Recipe
    adapted: tuple[str, ...]
    known: bool

    def rows(self, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Indices of as many images of each class as `counts` says, if it has them.

        Class by class: of Fashion-MNIST the first ones, of other data, which may be sorted in some
        way, evenly spaced ones.
        """
        chosen = []
        for label, n in enumerate(counts):
            rows = np.flatnonzero(labels == label)
            n = min(n, len(rows))
            places = np.arange(n) if self.known else np.arange(n) * len(rows) // max(1, n)
            chosen.append(rows[places])
        return np.concatenate(chosen)

    def count_images(self, n_generators: int, n_training: int, *, fid: bool = False) -> int:
        """How many images an `Evaluator` counts for some generators: a progress bar's total."""
        protocol, batch = self.protocol, self.cas_recipe.batch_size
        trained = self.n_cas // batch * self.cas_recipe.epochs * batch
        n_real = int(self.real_counts.sum())
        fakes = len(self.labels) * len(protocol.seeds)
        fakes += max(0, protocol.n_large - protocol.n_images)
        real = (n_training if protocol.whole_split else n_real) + n_real
        real += trained * protocol.cas_on_real + 2 * n_real * fid
        return real + n_generators * (fakes + trained + len(self.labels) * fid)

    def stamp(self) -> dict[str, Any]:
        """What an evaluation's stamp has of it."""
        protocol = asdict(self.protocol) | {"cas_recipe": self.cas_recipe._asdict()}
        if not self.adapted:
            return {"protocol": protocol}
        counts = {"class_counts": self.real_counts.tolist(), "n_cas": self.n_cas}
        return {"protocol": protocol | counts, "adapted": list(self.adapted)}


def plan_evaluation(
    protocol: EvalProtocol, training: Dataset, test: Dataset, *, known: bool
) -> EvalPlan:
    """Fit a protocol to some data.

    Where a class has too few images, the fakes, the test images and the training images for the
    real column have as many of each class as the smaller part of the data, up to the protocol's
    number in all; neighbourhoods and subsets shrink with them, and what needs more is omitted.

    Args:
        protocol: what to measure.
        training: the training images.
        test: the test images, of the same classes.
        known: whether they are Fashion-MNIST's, for which the protocol was made.

    Raises:
        DataError: the parts have other classes or shapes, or there are fewer than ten images.
    """
    _check_parts(training, test)
    n_classes = len(training.class_names)
    per_class = max(1, protocol.n_images // n_classes)
    if known:
        return _plan_of_known(protocol, n_classes, per_class)
    in_training, in_test = training.class_counts(), test.class_counts()
    smaller = np.minimum(in_training, in_test)
    is_even = smaller.min() >= per_class
    counts = np.full(n_classes, per_class) if is_even else _scaled(smaller, protocol.n_images)
    n, cas_counts = int(counts.sum()), _scaled(in_training, cas.N_IMAGES) * protocol.cas
    if n < LEAST:
        raise DataError(
            f"{training.name}: only {plural(n, 'image')} can be compared, of {len(training):,} "
            f"training and {len(test):,} test images\nexpected at least {LEAST}\n"
            "Add images, or hold out a larger share of them."
        )
    has_large = bool(is_even and not np.ptp(in_training)) and len(training) >= protocol.n_large
    fitted = replace(
        protocol,
        n_images=n,
        n_large=protocol.n_large * has_large,
        k=max(1, min(protocol.k, n // 10)),
        kernel_size=min(protocol.kernel_size, n // 2),
        n_nearest=min(protocol.n_nearest, n),
        likelihood=protocol.likelihood and n >= LEAST_LIKELIHOOD,
        cas_on_real=protocol.cas,
    )
    n_cas = int(cas_counts.sum())
    more_labels = _in_turns(cas_counts)
    if fitted.n_large:
        more_labels = np.arange(max(fitted.n_large, n_cas), dtype=np.int32) % n_classes
    recipe = _cas_recipe(n_cas) if protocol.cas else cas.RECIPE
    missing = [name for name, each in zip(training.class_names, counts, strict=True) if not each]
    notes = _notes(protocol, fitted, counts, missing, n_cas)
    labels = _in_turns(counts)
    return EvalPlan(fitted, counts, labels, more_labels, n_cas, recipe, notes, known=False)


def _plan_of_known(protocol: EvalProtocol, n_classes: int, per_class: int) -> EvalPlan:
    """The protocol as it stands, with equally many images of each class."""
    n_more = max(protocol.n_large, cas.N_IMAGES * protocol.cas)
    return EvalPlan(
        protocol,
        np.full(n_classes, per_class),
        np.arange(protocol.n_images, dtype=np.int32) % n_classes,
        np.arange(n_more, dtype=np.int32) % n_classes,
        cas.N_IMAGES * protocol.cas,
        cas.RECIPE,
        adapted=(),
        known=True,
    )


def _check_parts(training: Dataset, test: Dataset) -> None:
    for what, one, other in (
        ("images", list(training.images.shape[1:]), list(test.images.shape[1:])),
        ("classes", training.class_names, test.class_names),
    ):
        if one != other:
            raise DataError(
                f"{training.name}: the test images have other {what}, {short_repr(other)}\n"
                f"expected {short_repr(one)}, as the training images\nRead both in the same way."
            )


def _scaled(counts: np.ndarray, n: int) -> np.ndarray:
    """Counts in the same proportions, at most about n in all, and none that was there becomes 0."""
    return np.maximum(counts * min(n, counts.sum()) // counts.sum(), counts > 0)


def _in_turns(counts: np.ndarray) -> np.ndarray:
    """Labels, int32: the classes in turn, until each has come `counts` times."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    turns = np.concatenate([np.arange(n) for n in counts])
    return labels[np.lexsort((labels, turns))]


def _cas_recipe(n: int) -> Recipe:
    """That of Fashion-MNIST, with more epochs of fewer images."""
    epochs = max(cas.RECIPE.epochs, min(CAS_MOST_EPOCHS, CAS_IMAGES // n))
    return cas.RECIPE._replace(epochs=epochs, batch_size=min(cas.RECIPE.batch_size, n))


def _notes(
    asked: EvalProtocol,
    fitted: EvalProtocol,
    counts: np.ndarray,
    missing: Sequence[str],
    n_cas: int,
) -> tuple[str, ...]:
    """How a fitted protocol differs from the one asked for."""
    notes = []
    if fitted.n_images < asked.n_images:
        low, high = counts.min(), counts.max()
        notes.append(
            f"{fitted.n_images:,} fakes and as many test images instead of {asked.n_images:,}, "
            f"{f'{low:,} to ' * bool(low < high)}{high:,} of a class"
        )
    if missing:
        notes.append(f"none of {first_names(missing)}, which have too few")
    for name, what in (("n_large", "fcd_50k"), ("likelihood", "fld")):
        if getattr(asked, name) and not getattr(fitted, name):
            notes.append(f"{what} omitted, which needs more images")
    for name, what in (("k", "nearest neighbours: k is"), ("kernel_size", "kcd on subsets of")):
        old, new = getattr(asked, name), getattr(fitted, name)
        if new != old:
            notes.append(f"{what} {new:,} instead of {old:,}")
    if n_cas and n_cas != cas.N_IMAGES:
        notes.append(f"cas trained on {n_cas:,} images instead of {cas.N_IMAGES:,}")
    return tuple(notes)
