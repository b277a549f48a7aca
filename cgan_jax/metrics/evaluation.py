"""All measures of a trained generator beside those of real images, by one protocol.

Each measure is a function in another module of this package; this one decides which images each is
given. `experiments/evaluate.py` makes tables and plots of the result.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cgan_jax.data import Dataset
from cgan_jax.environment import environment
from cgan_jax.metrics import cas
from cgan_jax.metrics.classification import ConfusionMatrix, confusion_matrix
from cgan_jax.metrics.diversity import Neighbours, nearest_neighbours, within_class_diversity
from cgan_jax.metrics.frechet import frechet_distance, intra_frechet_distances
from cgan_jax.metrics.inception import Features
from cgan_jax.metrics.kernel import kernel_distance
from cgan_jax.metrics.likelihood import FeatureLikelihood, FeatureLikelihoodDivergence
from cgan_jax.metrics.manifold import manifold_measures
from cgan_jax.metrics.measures import MEASURES
from cgan_jax.metrics.reference import SHA256, load_reference
from cgan_jax.sampling.generator import TrainedGenerator

FORMAT = 1
COLLAPSED = 0.5  # a class with less than this share of the real images' diversity has collapsed
COPIED = 0.5  # fakes within this share of the test images' distance to training images are copies

ProgressFn = Callable[[str, int], None]
"""Called with the stage of the work and the number of images processed since the last call."""
CountFn = Callable[[int], None]
"""Called with the number of images processed since the last call."""


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


class ClassifiedImages(NamedTuple):
    """Images, their requested or true classes, and the reference's features and predictions."""

    images: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    predictions: np.ndarray


class Measures(NamedTuple):
    """The measures of some images: overall, per class, and their confusion matrix."""

    overall: dict[str, float]
    per_class: dict[str, np.ndarray]
    confusion: ConfusionMatrix


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The measures of one generator.

    Attributes:
        measures: by name, `mean`, `sd` (None for one value), `values` per seed, and `real`.
        per_class: `gan_test`, `intra_fcd` and `diversity` of each class, of `fakes` and `real`.
        confusion: of the `fakes` of all seeds, and of the `real` test images.
        warnings: serious defects, one line each.
        stamp: everything that the figures depend on.
        neighbours: three fakes per class and the training images nearest to them, uint8
            `[2, 3, classes, H, W, C]`.
    """

    measures: Mapping[str, Mapping[str, Any]]
    per_class: Mapping[str, Mapping[str, list[float]]]
    confusion: Mapping[str, ConfusionMatrix]
    warnings: tuple[str, ...]
    stamp: Mapping[str, Any]
    neighbours: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """The contents of `evaluation.json`."""
        return {
            "format": FORMAT,
            "stamp": self.stamp,
            "measures": self.measures,
            "per_class": self.per_class,
            "confusion": {name: each.counts.tolist() for name, each in self.confusion.items()},
            "warnings": self.warnings,
        }


def balanced(labels: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    """Indices of the first n / n_classes images, at least one, of each class, class by class."""
    per_class = max(1, n // n_classes)
    return np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(n_classes)])


def count_images(
    protocol: EvalProtocol, n_generators: int, n_training: int = 60_000, *, fid: bool = False
) -> int:
    """How many images an `Evaluator` counts for some generators: the total of a progress bar."""
    steps = cas.N_IMAGES // cas.RECIPE.batch_size * cas.RECIPE.epochs
    trained = steps * cas.RECIPE.batch_size * protocol.cas
    inception = protocol.n_images * fid
    fakes = protocol.n_images * len(protocol.seeds)
    fakes += max(0, protocol.n_large - protocol.n_images)
    real = (n_training if protocol.whole_split else protocol.n_images) + protocol.n_images
    real += trained * protocol.cas_on_real + 2 * inception
    return real + n_generators * (fakes + trained + inception)


class Evaluator:
    """Measures generators by a protocol, beside real images.

    The real images are the test split and, instead of fakes, training images. Their figures are for
    comparison and are not bounds: the reference classifier was trained on these training images.

    Args:
        training: the training split.
        test: the test split.
        protocol: how many images are compared.
        inception: for the FID; see `load_inception`.
        on_progress: called as the work proceeds.

    Attributes:
        real_test: the protocol's test images.
        real_measures: the measures of the real images.

    Raises:
        DataError: the reference classifier cannot take the images.
    """

    def __init__(
        self,
        training: Dataset,
        test: Dataset,
        protocol: EvalProtocol = FULL,
        *,
        inception: Features | None = None,
        on_progress: ProgressFn = lambda stage, n: None,
    ) -> None:
        self._training, self._test, self._protocol = training, test, protocol
        self._inception, self._on_progress = inception, on_progress
        self._reference, self._n_classes = load_reference(), len(test.class_names)
        rows = balanced(test.labels, protocol.n_images, self._n_classes)
        self.real_test = self._classify(test.images[rows], test.labels[rows], "test images")
        chosen = balanced(training.labels, protocol.n_images, self._n_classes)
        rows = np.arange(len(training)) if protocol.whole_split else chosen
        stand_in = self._classify(training.images[rows], training.labels[rows], "training images")
        self._training_features = stand_in.features
        if protocol.whole_split:
            stand_in = ClassifiedImages(*(array[chosen] for array in stand_in))

        self._start("measures of real images")
        # Evenly spaced, since the images are in the order of their classes.
        spread = np.linspace(0, len(self.real_test.images) - 1, protocol.n_nearest).astype(int)
        nearest = nearest_neighbours(self.real_test.images[spread], training.images)
        self.real_measures = self._collect_measures(self.real_test, nearest, stand_in)
        extras = self.real_measures.overall
        if protocol.likelihood:
            self._start("likelihood of real images")
            self._likelihood = FeatureLikelihoodDivergence(
                self._training_features,
                self.real_test.features,
                n_centres=min(protocol.n_images, len(training) // 2),
            )
            extras |= _likelihood_measures(self._likelihood.real)
        if protocol.cas_on_real:
            extras["cas"] = self._cas(training.images, training.labels, "real images")
        elif protocol.cas:
            extras["cas"] = cas.REAL_ACCURACY
        if inception:
            count = self._start("Inception: test images")
            self._test_inception = inception(self.real_test.images, count)
            extras["fid"] = self._fid(inception, stand_in.images, "training images")

    def evaluate(self, generator: TrainedGenerator) -> Evaluation:
        """Measure a generator.

        The fakes are uint8, like the real images, with equally many of each class; fake i of a seed
        is image i of `generator.generate`.

        Args:
            generator: of the real images' classes and shape.

        Raises:
            DataError: the reference classifier cannot take the generator's images.
        """
        protocol, n_classes, real = self._protocol, self._n_classes, self.real_measures
        labels = np.arange(protocol.n_images, dtype=np.int32) % n_classes
        by_seed: list[Measures] = []
        for seed in protocol.seeds:
            self._start(f"seed {seed}: images")
            images = generator.generate(labels, seed=seed)
            fakes = self._classify(images, labels, f"seed {seed}: classes")
            self._start(f"seed {seed}: measures")
            sample = images[: protocol.n_nearest]
            nearest = nearest_neighbours(sample, self._training.images)
            measures = self._collect_measures(fakes, nearest, fakes)
            if not by_seed:
                neighbours = np.stack([sample, self._training.images[nearest.indices]])
                measures.overall.update(self._first_seed_extras(generator, seed, fakes))
            by_seed.append(measures)

        per_class = {
            name: {
                "fakes": np.mean([each.per_class[name] for each in by_seed], 0).tolist(),
                "real": values.tolist(),
            }
            for name, values in real.per_class.items()
        }
        summaries = {
            name: _summary(values, real.overall.get(name))
            for name in MEASURES
            if (values := [each.overall[name] for each in by_seed if name in each.overall])
        }
        counts = np.sum([each.confusion.counts for each in by_seed], 0)
        return Evaluation(
            summaries,
            per_class,
            {"fakes": ConfusionMatrix(counts), "real": real.confusion},
            _warnings(summaries, per_class, self._test.class_names),
            _stamp(protocol, generator.step),
            neighbours[:, : 3 * n_classes].reshape(2, 3, n_classes, *images.shape[1:]),
        )

    def _start(self, stage: str) -> CountFn:
        """Report a new stage of the work; returns what counts the images processed in it."""
        self._on_progress(stage, 0)
        return partial(self._on_progress, stage)

    def _classify(self, images: np.ndarray, labels: np.ndarray, stage: str) -> ClassifiedImages:
        return ClassifiedImages(images, labels, *self._reference(images, self._start(stage)))

    def _collect_measures(
        self, images: ClassifiedImages, nearest: Neighbours, fakes: ClassifiedImages
    ) -> Measures:
        """Measures of images alone, of their nearest training images, and of fakes beside tests."""
        n_classes, protocol, labels = self._n_classes, self._protocol, self.real_test.labels
        x, y = self.real_test.features, fakes.features
        confusion = confusion_matrix(images.labels, images.predictions, n_classes)
        diversity = within_class_diversity(images.images, images.labels, n_classes)
        intra_fcd = intra_frechet_distances(x, labels, y, fakes.labels, n_classes)
        subsets, size = protocol.kernel_subsets, protocol.kernel_size
        overall = {
            "gan_test": confusion.accuracy,
            "gan_test_worst": float(confusion.per_class.min()),
            "fcd": frechet_distance(x, y),
            "intra_fcd": float(intra_fcd.mean()),
            "intra_fcd_worst": float(intra_fcd.max()),
            "kcd": kernel_distance(x, y, subsets=subsets, size=size)[0],
            "nearest_training": float(np.median(nearest.distances)),
            "diversity": float(diversity.mean()),
        } | manifold_measures(x, y, k=protocol.k)._asdict()
        per_class = {
            "gan_test": confusion.per_class,
            "diversity": diversity,
            "intra_fcd": intra_fcd,
        }
        return Measures(overall, per_class, confusion)

    def _first_seed_extras(
        self, generator: TrainedGenerator, seed: int, fakes: ClassifiedImages
    ) -> dict[str, float]:
        """The measures that need too many images, or too much time, for every seed."""
        protocol, extras = self._protocol, {}
        n = max(protocol.n_large, cas.N_IMAGES * protocol.cas)
        labels = np.arange(n, dtype=np.int32) % self._n_classes
        self._start(f"seed {seed}: more images")
        images = generator.generate(labels, seed=seed)  # the first of them are the fakes
        if protocol.n_large:
            rest = slice(len(fakes.labels), protocol.n_large)
            more = self._classify(images[rest], labels[rest], f"seed {seed}: more classes")
            features = np.concatenate([fakes.features, more.features])
            extras["fcd_50k"] = frechet_distance(self._training_features, features)
        if protocol.likelihood:
            self._start(f"seed {seed}: likelihood")
            extras |= _likelihood_measures(self._likelihood(fakes.features))
        if protocol.cas:
            extras["cas"] = self._cas(images[: cas.N_IMAGES], labels[: cas.N_IMAGES], "fakes")
        if self._inception:
            extras["fid"] = self._fid(self._inception, fakes.images, "fakes")
        return extras

    def _cas(self, images: np.ndarray, labels: np.ndarray, name: str) -> float:
        count, test = self._start(f"a classifier of {name}"), self._test
        on_step = lambda done, total: count(cas.RECIPE.batch_size)  # noqa: E731
        real = test.images, test.labels, self._n_classes
        return cas.classification_accuracy_score(images, labels, *real, on_step=on_step).accuracy

    def _fid(self, inception: Features, images: np.ndarray, name: str) -> float:
        features = inception(images, self._start(f"Inception: {name}"))
        return frechet_distance(self._test_inception, features)


def _likelihood_measures(likelihood: FeatureLikelihood) -> dict[str, float]:
    return {"fld": likelihood.divergence, "fld_gap": likelihood.gap}


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
                f"COLLAPSE: images of {name} differ by {fake:.1f} grey levels, "
                f"real ones by {real:.1f}"
            )
    nearest = measures["nearest_training"]
    if nearest["mean"] < COPIED * nearest["real"]:
        lines.append(
            f"COPIES: fakes are {nearest['mean']:.1f} grey levels from the training set, "
            f"test images {nearest['real']:.1f}"
        )
    return tuple(lines)


def _stamp(protocol: EvalProtocol, step: int) -> dict[str, Any]:
    return {
        "protocol": asdict(protocol) | {"cas_recipe": cas.RECIPE._asdict()},
        "step": step,
        "reference_sha256": SHA256,
        "splits": "fakes against the test split; in the real column, the first training images of "
        "each class against the test split; fcd_50k and nearest_training against all training "
        "images; cas on the whole test split",
        "environment": environment(),
    }
