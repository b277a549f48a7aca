"""All measures of a trained generator beside those of real images, by one protocol.

Each measure is a function of its own in this package; here stands which images each is given.
Tables and pictures of the outcome are the command line's, experiments/evaluate.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from cgan_jax.data import Dataset
from cgan_jax.environment import environment
from cgan_jax.metrics import cas
from cgan_jax.metrics.classification import ConfusionMatrix, confusion_matrix
from cgan_jax.metrics.diversity import nearest_neighbours, within_class_diversity
from cgan_jax.metrics.frechet import frechet_distance, intra_frechet_distances
from cgan_jax.metrics.inception import Features
from cgan_jax.metrics.kernel import kernel_distance
from cgan_jax.metrics.manifold import manifold_measures
from cgan_jax.metrics.reference import Reference, load_reference
from cgan_jax.sampling import TrainedGenerator

FORMAT = 1
COLLAPSED = 0.5  # of the real images' diversity: a class below this has few pictures
COPIED = 0.5  # of the test images' distance to the training set: fakes below this are copies

MEASURES: Mapping[str, str] = {
    "gan_test": "taken for the class asked for",
    "gan_test_worst": "the same, worst class",
    "fcd": "Frechet distance to test images",
    "fcd_50k": "50,000 fakes to all training images",
    "intra_fcd": "Frechet distance within a class, mean",
    "intra_fcd_worst": "the same, worst class",
    "kcd": "kernel distance",
    "precision": "fakes among real images",
    "recall": "real images among fakes",
    "density": "real neighbourhoods around a fake",
    "coverage": "real neighbourhoods with a fake",
    "cas": "a classifier trained on fakes alone",
    "nearest_training": "grey levels to the nearest training image",
    "diversity": "grey levels between two of a class",
    "fid": "Frechet distance, Inception's features",
}
"""What is measured, in the order of the tables."""

Told = Callable[[str, int], None]
"""Told what is being done and how many more images have been gone through."""


@dataclass(frozen=True)
class Protocol:
    """How many images are compared, and with which seeds. Figures of two protocols do not compare.

    Attributes:
        name: `full` or `fast`.
        seeds: of the fakes. Those of each seed are measured; mean and standard deviation are told.
        n_images: so many fakes of each seed, so many test images, and so many training images for
            the real column; as many of each class.
        n_large: fakes of the first seed for `fcd_50k`; 0 to leave it out.
        k: the neighbour of precision, recall, density and coverage.
        kernel_subsets: of the kernel distance.
        kernel_size: images in each of them.
        n_nearest: images whose nearest training image is looked for.
        cas: whether to train a classifier on 60,000 fakes of the first seed.
        cas_on_real: whether to train it on the real images as well, in place of the known figure.
    """

    name: str = "full"
    seeds: tuple[int, ...] = (0, 1, 2)
    n_images: int = 10_000
    n_large: int = 50_000
    k: int = 5
    kernel_subsets: int = 100
    kernel_size: int = 1_000
    n_nearest: int = 2_000
    cas: bool = True
    cas_on_real: bool = False


FULL = Protocol()
FAST = Protocol("fast", seeds=(0,), n_images=2_000, n_large=0, kernel_size=500, n_nearest=500)


class Examined(NamedTuple):
    """Images, the classes they were asked for or have, and what the reference makes of them."""

    images: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    seen: np.ndarray

    def first(self, n: int) -> "Examined":
        """The first n of them."""
        return Examined(*(array[:n] for array in self))


@dataclass(frozen=True, eq=False)
class Real:
    """The real images as the protocol wants them, examined once for any number of generators."""

    protocol: Protocol
    class_names: tuple[str, ...]
    reference: Reference
    training: Dataset
    training_features: np.ndarray | None
    test: Examined
    per_class: Mapping[str, np.ndarray]
    measures: Mapping[str, float]
    confusion: ConfusionMatrix
    fid: tuple[Features, np.ndarray] | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found out about one generator.

    Attributes:
        measures: by name, `mean`, `sd` (None for one value), `values` a seed, and `real`.
        per_class: `gan_test`, `intra_fcd` and `diversity` of each class, fakes' and real images'.
        confusion: of the fakes of all seeds, and of the test images.
        warnings: what is badly wrong, a line each.
        stamp: everything that the figures depend on.
        neighbours: three fakes a class and the training images nearest to them, uint8
            `[2, 3, classes, H, W, C]`.
    """

    measures: Mapping[str, Mapping[str, Any]]
    per_class: Mapping[str, Mapping[str, list[float]]]
    confusion: Mapping[str, ConfusionMatrix]
    warnings: tuple[str, ...]
    stamp: Mapping[str, Any]
    neighbours: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "format": FORMAT,
            "stamp": self.stamp,
            "measures": self.measures,
            "per_class": self.per_class,
            "confusion": {who: found.counts.tolist() for who, found in self.confusion.items()},
            "warnings": self.warnings,
        }


def balanced(labels: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    """Places of the first n / n_classes images of each class, class by class."""
    per_class = n // n_classes
    return np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(n_classes)])


def work(protocol: Protocol, n_generators: int, n_training: int = 60_000) -> int:
    """How many images `prepare` and `evaluate` will tell of."""
    steps = cas.N_IMAGES // cas.RECIPE.batch_size * cas.RECIPE.epochs
    trained = steps * cas.RECIPE.batch_size if protocol.cas else 0
    fakes = protocol.n_images * len(protocol.seeds)
    if protocol.n_large:
        fakes += protocol.n_large - protocol.n_images
    real = (n_training if protocol.n_large else protocol.n_images) + protocol.n_images
    return real + trained * protocol.cas_on_real + n_generators * (fakes + trained)


def prepare(
    training: Dataset,
    test: Dataset,
    protocol: Protocol = FULL,
    *,
    inception: Features | None = None,
    told: Told = lambda what, n: None,
) -> Real:
    """Examine the real images: the test split, and training images in place of fakes.

    Args:
        training: the training split.
        test: the test split.
        protocol: how many of them.
        inception: for the FID; see `load_inception`.
        told: of what is done.

    Raises:
        DataError: the images are none that the reference classifier takes.
    """
    reference, n_classes = load_reference(), len(test.class_names)
    chosen = balanced(test.labels, protocol.n_images, n_classes)
    seen_test = _examined(reference, test.images[chosen], test.labels[chosen], told, "test images")
    # In place of fakes, for the measures' floor: what an ideal generator would reach.
    stand_in = balanced(training.labels, protocol.n_images, n_classes)
    wanted = np.arange(len(training)) if protocol.n_large else stand_in
    seen_training = _examined(
        reference, training.images[wanted], training.labels[wanted], told, "training images"
    )
    shown = seen_training
    if protocol.n_large:
        shown = Examined(*(array[stand_in] for array in seen_training))
    told("measures of real images", 0)
    confusion = confusion_matrix(seen_test.labels, seen_test.seen, n_classes)
    diversity = within_class_diversity(seen_test.images, seen_test.labels, n_classes)
    between, intra = _between(seen_test, shown, n_classes, protocol)
    per_class = {"gan_test": confusion.per_class, "intra_fcd": intra, "diversity": diversity}
    measures = between | _of_classes(per_class)
    measures["gan_test"] = confusion.accuracy
    spread = _spread(seen_test.images, protocol.n_nearest)
    measures["nearest_training"] = _median_distance(seen_test.images[spread], training.images)
    if protocol.cas:
        measures["cas"] = cas.REAL_ACCURACY
        if protocol.cas_on_real:
            measures["cas"] = _cas(training.images, training.labels, test, told, "real images")
    fid = None
    if inception is not None:
        told("Inception: test images", 0)
        fid = inception, inception(seen_test.images, lambda n: None)
        told("Inception: training images", 0)
        floor = inception(shown.images, lambda n: None)
        measures["fid"] = frechet_distance(fid[1], floor)
    return Real(
        protocol,
        test.class_names,
        reference,
        training,
        seen_training.features if protocol.n_large else None,
        seen_test,
        per_class,
        measures,
        confusion,
        fid,
    )


def evaluate(
    generator: TrainedGenerator, real: Real, test: Dataset, *, told: Told = lambda what, n: None
) -> Evaluation:
    """Measure a generator by the protocol of the real images.

    Fakes are uint8, as real images are, with as many of each class; fake i of a seed is that of
    `generator.generate`.

    Args:
        generator: of the classes and images that the data have.
        real: from `prepare`.
        test: the whole test split, for `cas`.
        told: of what is done.

    Raises:
        DataError: the generator's images are none that the reference classifier takes.
    """
    protocol, n_classes = real.protocol, len(real.class_names)
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    classes: dict[str, list[np.ndarray]] = {name: [] for name in real.per_class}
    counts = np.zeros((n_classes, n_classes), np.int64)
    neighbours = None
    for place, seed in enumerate(protocol.seeds):
        first = place == 0
        n = max(protocol.n_images, protocol.n_large * first)
        many = n if not (first and protocol.cas) else max(n, cas.N_IMAGES)
        told(f"seed {seed}: images", 0)
        labels = np.arange(many, dtype=np.int32) % n_classes
        images = generator.generate(labels, seed=seed)
        all_fakes = _examined(real.reference, images[:n], labels[:n], told, f"seed {seed}: classes")
        fakes = all_fakes.first(protocol.n_images)
        told(f"seed {seed}: measures", 0)
        confusion = confusion_matrix(fakes.labels, fakes.seen, n_classes)
        counts += confusion.counts
        between, intra = _between(real.test, fakes, n_classes, protocol)
        of_classes = {
            "gan_test": confusion.per_class,
            "intra_fcd": intra,
            "diversity": within_class_diversity(fakes.images, fakes.labels, n_classes),
        }
        for name, values in of_classes.items():
            classes[name].append(values)
        now = between | _of_classes(of_classes) | {"gan_test": confusion.accuracy}
        told(f"seed {seed}: nearest training images", 0)
        shown = fakes.images[: protocol.n_nearest]
        nearest = nearest_neighbours(shown, real.training.images)
        now["nearest_training"] = float(np.median(nearest.distances))
        if first:
            pairs = np.stack([shown, real.training.images[nearest.indices]])[:, : 3 * n_classes]
            neighbours = pairs.reshape(2, 3, n_classes, *shown.shape[1:])
            if protocol.n_large:
                told("50,000 fakes: Frechet distance", 0)
                assert real.training_features is not None
                now["fcd_50k"] = frechet_distance(real.training_features, all_fakes.features)
            if protocol.cas:
                fakes_alone = images[: cas.N_IMAGES], labels[: cas.N_IMAGES]
                now["cas"] = _cas(*fakes_alone, test, told, "fakes")
            if real.fid:
                told("Inception: fakes", 0)
                inception, of_test = real.fid
                now["fid"] = frechet_distance(of_test, inception(fakes.images, lambda n: None))
        for name, value in now.items():
            found[name].append(value)
    assert neighbours is not None
    per_class = {
        name: {"fakes": np.mean(values, 0).tolist(), "real": real.per_class[name].tolist()}
        for name, values in classes.items()
    }
    measures = {
        name: _summary(values, real.measures.get(name)) for name, values in found.items() if values
    }
    return Evaluation(
        measures,
        per_class,
        {"fakes": ConfusionMatrix(counts), "real": real.confusion},
        _warnings(measures, per_class, real.class_names),
        _stamp(generator, real),
        neighbours,
    )


def _examined(
    reference: Reference, images: np.ndarray, labels: np.ndarray, told: Told, what: str
) -> Examined:
    told(what, 0)
    features, seen = reference(images, lambda n: told(what, n))
    return Examined(images, labels, features, seen)


def _between(
    test: Examined, shown: Examined, n_classes: int, protocol: Protocol
) -> tuple[dict[str, float], np.ndarray]:
    """The measures on features, and the Frechet distance of each class."""
    manifold = manifold_measures(test.features, shown.features, k=protocol.k)
    kernel, _ = kernel_distance(
        test.features,
        shown.features,
        subsets=protocol.kernel_subsets,
        size=protocol.kernel_size,
    )
    intra = intra_frechet_distances(
        test.features, test.labels, shown.features, shown.labels, n_classes
    )
    fcd = frechet_distance(test.features, shown.features)
    return {"fcd": fcd, "kcd": kernel} | manifold._asdict(), intra


def _of_classes(per_class: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {
        "gan_test_worst": float(per_class["gan_test"].min()),
        "intra_fcd": float(per_class["intra_fcd"].mean()),
        "intra_fcd_worst": float(per_class["intra_fcd"].max()),
        "diversity": float(per_class["diversity"].mean()),
    }


def _spread(images: np.ndarray, n: int) -> np.ndarray:
    """n places over the whole, so that images in the order of classes have all of them."""
    return np.linspace(0, len(images) - 1, min(n, len(images))).round().astype(int)


def _median_distance(images: np.ndarray, training: np.ndarray) -> float:
    return float(np.median(nearest_neighbours(images, training).distances))


def _cas(images: np.ndarray, labels: np.ndarray, test: Dataset, told: Told, what: str) -> float:
    what = f"a classifier of {what}"
    told(what, 0)
    score = cas.classification_accuracy_score(
        images,
        labels,
        test.images,
        test.labels,
        len(test.class_names),
        on_step=lambda done, total: told(what, cas.RECIPE.batch_size),
    )
    return score.accuracy


def _summary(values: list[float], real: float | None) -> dict[str, Any]:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": values,
        "real": real,
    }


def _warnings(
    measures: Mapping[str, Mapping[str, Any]],
    per_class: Mapping[str, Mapping[str, list[float]]],
    class_names: tuple[str, ...],
) -> tuple[str, ...]:
    lines = []
    diversity = per_class["diversity"]
    for name, fake, real in zip(class_names, diversity["fakes"], diversity["real"], strict=True):
        if fake < COLLAPSED * real:
            lines.append(
                f"COLLAPSE: pictures of {name} differ by {fake:.1f} grey levels, "
                f"real ones by {real:.1f}"
            )
    nearest = measures["nearest_training"]
    if nearest["mean"] < COPIED * nearest["real"]:
        lines.append(
            f"COPIES: fakes are {nearest['mean']:.1f} grey levels from the training set, "
            f"test images {nearest['real']:.1f}"
        )
    return tuple(lines)


def _stamp(generator: TrainedGenerator, real: Real) -> dict[str, Any]:
    return {
        "protocol": asdict(real.protocol) | {"cas_recipe": cas.RECIPE._asdict()},
        "step": generator.step,
        "reference_sha256": real.reference.sha256,
        "splits": "fakes against the test split; in the real column training images, class by "
        "class the first, against the test split; fcd_50k and nearest_training against all "
        "training images; cas on the whole test split",
        "environment": environment(),
    }
