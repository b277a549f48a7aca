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
from cgan_jax.sampling.generator import TrainedGenerator

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
FAST = Protocol(
    "fast", seeds=(0,), n_images=2_000, n_large=0, kernel_size=500, n_nearest=500, cas=False
)


class Examined(NamedTuple):
    """Images, the classes they were asked for or have, and what the reference makes of them."""

    images: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    seen: np.ndarray


class Look(NamedTuple):
    """What the measures say of some images: as a whole, of each class, and the confusion."""

    measures: dict[str, float]
    per_class: dict[str, np.ndarray]
    confusion: ConfusionMatrix


@dataclass(frozen=True, eq=False)
class Real:
    """The real images as the protocol wants them, examined once for any number of generators.

    Attributes:
        protocol: how many of them.
        training: the whole split.
        test: the whole split.
        reference: the classifier.
        seen_test: as many of each class as the protocol wants.
        training_features: of all training images, for `fcd_50k`; None without it.
        look: what the measures say of them.
        inception: for the FID, its features of `seen_test`; None without it.
    """

    protocol: Protocol
    training: Dataset
    test: Dataset
    reference: Reference
    seen_test: Examined
    training_features: np.ndarray | None
    look: Look
    inception: tuple[Features, np.ndarray] | None


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
    """Places of the first n / n_classes images, or the first one, of each class, class by class."""
    per_class = max(1, n // n_classes)
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
    confusion, of_classes = _alone(seen_test, n_classes)
    between, intra = _between(seen_test, shown, n_classes, protocol)
    look = _look(confusion, between, of_classes | {"intra_fcd": intra})
    # Over the whole, since these are in the order of their classes.
    some = np.linspace(0, len(chosen) - 1, protocol.n_nearest).astype(int)
    nearest = nearest_neighbours(seen_test.images[some], training.images)
    look.measures["nearest_training"] = float(np.median(nearest.distances))
    if protocol.cas:
        look.measures["cas"] = cas.REAL_ACCURACY
        if protocol.cas_on_real:
            look.measures["cas"] = _cas(training.images, training.labels, test, told, "real images")
    of_test = None
    if inception is not None:
        told("Inception: test images", 0)
        of_test = inception(seen_test.images, lambda n: None)
        told("Inception: training images", 0)
        look.measures["fid"] = frechet_distance(of_test, inception(shown.images, lambda n: None))
    return Real(
        protocol,
        training,
        test,
        reference,
        seen_test,
        seen_training.features if protocol.n_large else None,
        look,
        None if inception is None or of_test is None else (inception, of_test),
    )


def evaluate(
    generator: TrainedGenerator, real: Real, *, told: Told = lambda what, n: None
) -> Evaluation:
    """Measure a generator by the protocol of the real images.

    Fakes are uint8, as real images are, with as many of each class; fake i of a seed is that of
    `generator.generate`.

    Args:
        generator: of the classes and images that the data have.
        real: from `prepare`.
        told: of what is done.

    Raises:
        DataError: the generator's images are none that the reference classifier takes.
    """
    protocol, n_classes = real.protocol, len(real.test.class_names)
    labels = np.arange(protocol.n_images, dtype=np.int32) % n_classes
    looks: list[Look] = []
    for seed in protocol.seeds:
        told(f"seed {seed}: images", 0)
        images = generator.generate(labels, seed=seed)
        fakes = _examined(real.reference, images, labels, told, f"seed {seed}: classes")
        told(f"seed {seed}: measures", 0)
        confusion, of_classes = _alone(fakes, n_classes)
        between, intra = _between(real.seen_test, fakes, n_classes, protocol)
        look = _look(confusion, between, of_classes | {"intra_fcd": intra})
        told(f"seed {seed}: nearest training images", 0)
        shown = images[: protocol.n_nearest]
        nearest = nearest_neighbours(shown, real.training.images)
        look.measures["nearest_training"] = float(np.median(nearest.distances))
        if not looks:
            pairs = np.stack([shown, real.training.images[nearest.indices]])[:, : 3 * n_classes]
            look.measures.update(_of_one_seed(generator, real, seed, fakes, told))
        looks.append(look)

    per_class = {
        name: {
            "fakes": np.mean([look.per_class[name] for look in looks], 0).tolist(),
            "real": values.tolist(),
        }
        for name, values in real.look.per_class.items()
    }
    found = {n: [look.measures[n] for look in looks if n in look.measures] for n in MEASURES}
    measures = {
        name: _summary(values, real.look.measures.get(name))
        for name, values in found.items()
        if values
    }
    counts = np.sum([look.confusion.counts for look in looks], 0)
    return Evaluation(
        measures,
        per_class,
        {"fakes": ConfusionMatrix(counts), "real": real.look.confusion},
        _warnings(measures, per_class, real.test.class_names),
        _stamp(generator, real),
        pairs.reshape(2, 3, n_classes, *shown.shape[1:]),
    )


def _of_one_seed(
    generator: TrainedGenerator, real: Real, seed: int, fakes: Examined, told: Told
) -> dict[str, float]:
    """What takes too many images, or too long, to be measured for each seed."""
    protocol, found = real.protocol, {}
    n = max(protocol.n_large, cas.N_IMAGES * protocol.cas)
    labels = np.arange(n, dtype=np.int32) % len(real.test.class_names)
    told(f"seed {seed}: more images", 0)
    images = generator.generate(labels, seed=seed)  # the first of them are the fakes
    if real.training_features is not None:
        rest = slice(len(fakes.labels), protocol.n_large)
        more = _examined(real.reference, images[rest], labels[rest], told, "more images")
        features = np.concatenate([fakes.features, more.features])
        told("Frechet distance of many", 0)
        found["fcd_50k"] = frechet_distance(real.training_features, features)
    if protocol.cas:
        some = slice(cas.N_IMAGES)
        found["cas"] = _cas(images[some], labels[some], real.test, told, "fakes")
    if real.inception:
        told("Inception: fakes", 0)
        inception, of_test = real.inception
        found["fid"] = frechet_distance(of_test, inception(fakes.images, lambda n: None))
    return found


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


def _alone(shown: Examined, n_classes: int) -> tuple[ConfusionMatrix, dict[str, np.ndarray]]:
    """What images show by themselves: the confusion, and what it and their variety are by class."""
    confusion = confusion_matrix(shown.labels, shown.seen, n_classes)
    diversity = within_class_diversity(shown.images, shown.labels, n_classes)
    return confusion, {"gan_test": confusion.per_class, "diversity": diversity}


def _look(
    confusion: ConfusionMatrix, between: dict[str, float], per_class: dict[str, np.ndarray]
) -> Look:
    of_classes = {
        "gan_test": confusion.accuracy,
        "gan_test_worst": float(per_class["gan_test"].min()),
        "intra_fcd": float(per_class["intra_fcd"].mean()),
        "intra_fcd_worst": float(per_class["intra_fcd"].max()),
        "diversity": float(per_class["diversity"].mean()),
    }
    return Look(between | of_classes, per_class, confusion)


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
