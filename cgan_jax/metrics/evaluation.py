"""All measures of a trained generator beside those of real images, by one protocol.

Each measure is a function in another module of this package; this one decides which images each is
given, as eval_plan.py has it. `experiments/evaluate.py` makes tables and plots of the result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cgan_jax.checks import plural
from cgan_jax.data import Dataset
from cgan_jax.environment import environment
from cgan_jax.metrics import cas
from cgan_jax.metrics.classification import ConfusionMatrix, confusion_matrix
from cgan_jax.metrics.diversity import Neighbours, nearest_neighbours, within_class_diversity
from cgan_jax.metrics.eval_plan import FULL, EvalProtocol, plan_evaluation
from cgan_jax.metrics.frechet import frechet_distance, intra_frechet_distances
from cgan_jax.metrics.inception import Features
from cgan_jax.metrics.kernel import kernel_distance
from cgan_jax.metrics.likelihood import FeatureLikelihood, FeatureLikelihoodDivergence
from cgan_jax.metrics.manifold import manifold_measures
from cgan_jax.metrics.measures import MEASURES, Measure
from cgan_jax.metrics.reference import Reference, load_reference
from cgan_jax.sampling.generator import TrainedGenerator

FORMAT = 1
COLLAPSED = 0.5  # a class with less than this share of the real images' diversity has collapsed
MOST_WARNINGS = 10  # of collapsed classes
COPIED = 0.5  # fakes within this share of the test images' distance to training images are copies

SPLITS = (
    "fakes against the test split; in the real column, the first training images of "
    "each class against the test split; fcd_50k and nearest_training against all training "
    "images; cas on the whole test split"
)
OWN_SPLITS = SPLITS.replace("the first training", "evenly spaced training")

ProgressFn = Callable[[str, int], None]
"""Called with the stage of the work and the number of images processed since the last call."""
CountFn = Callable[[int], None]
"""Called with the number of images processed since the last call."""


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
        per_class: `gan_test`, `intra_fcd` and `diversity` of each class, of `fakes` and `real`; NaN
            for a class with too few images.
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
            "per_class": {
                name: {who: [None if np.isnan(x) else x for x in row] for who, row in rows.items()}
                for name, rows in self.per_class.items()
            },
            "confusion": {name: each.counts.tolist() for name, each in self.confusion.items()},
            "warnings": self.warnings,
        }


class Evaluator:
    """Measures generators by a protocol, beside real images.

    The real images are the test split and, instead of fakes, training images. Their figures are for
    comparison and are not bounds: the reference classifier was trained on these training images.

    Args:
        training: the training split.
        test: the test split, or images that were held out; of the same classes.
        protocol: how many images are compared. With data that have too few for it, it is adapted to
            them, and each evaluation's stamp says how.
        reference: what sees the images; by default Fashion-MNIST's classifier, for which the
            protocol was made. Of other data, pass `train_reference(training)`, or your own.
        inception: for the FID; see `load_inception`.
        own_measure: measures of your own, of the fakes of each seed and of the test images.
        on_progress: called as the work proceeds.
        about_test: what the test images are, for the stamp, if not a test split.

    Attributes:
        on_progress: the same; another one may take its place between two evaluations.
        real_test: the protocol's test images.
        real_measures: the measures of the real images.
        plan: which images are compared.

    Raises:
        DataError: the reference classifier cannot take the images, the two parts do not fit, or
            they are too few to compare.
    """

    def __init__(
        self,
        training: Dataset,
        test: Dataset,
        protocol: EvalProtocol = FULL,
        *,
        reference: Reference | None = None,
        inception: Features | None = None,
        own_measure: Measure | None = None,
        on_progress: ProgressFn = lambda stage, n: None,
        about_test: str | None = None,
    ) -> None:
        self._training, self._test, self._about_test = training, test, about_test
        self._inception, self.on_progress = inception, on_progress
        self._own_measure = own_measure
        self._reference, self._n_classes = reference or load_reference(), len(test.class_names)
        self.plan = plan_evaluation(protocol, training, test, known=reference is None)
        protocol = self._protocol = self.plan.protocol
        rows = self.plan.rows(test.labels, self.plan.real_counts)
        self.real_test = self._classify(test.images[rows], test.labels[rows], "test images")
        chosen = self.plan.rows(training.labels, self.plan.real_counts)
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
        self._measure_real_extras(stand_in)

    def _measure_real_extras(self, stand_in: ClassifiedImages) -> None:
        """Add the measures that are taken of one seed of fakes to those of the real images."""
        protocol, training = self._protocol, self._training
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
            images, labels = training.images, training.labels
            if self.plan.n_cas < len(training):
                counts = np.bincount(self.plan.more_labels[: self.plan.n_cas])
                rows = self.plan.rows(labels, counts)
                images, labels = images[rows], labels[rows]
            extras["cas"] = self._cas(images, labels, "real images")
        elif protocol.cas:
            extras["cas"] = cas.REAL_ACCURACY
        if self._inception:
            count = self._start("Inception: test images")
            self._test_inception = self._inception(self.real_test.images, count)
            extras["fid"] = self._fid(self._inception, stand_in.images, "training images")

    def evaluate(self, generator: TrainedGenerator) -> Evaluation:
        """Measure a generator.

        The fakes are uint8, like the real images, with equally many of each class, or with
        the classes of the test images; fake i of a seed is image i of `generator.generate`.

        Args:
            generator: of the real images' classes and shape.

        Raises:
            DataError: the reference classifier cannot take the generator's images.
        """
        protocol, n_classes, real = self._protocol, self._n_classes, self.real_measures
        labels = self.plan.labels
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
                neighbours = self._neighbours(generator, seed, fakes, nearest)
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
            for name in dict.fromkeys([*MEASURES, *real.overall])
            if (values := [each.overall[name] for each in by_seed if name in each.overall])
            and not np.isnan(values).any()
        }
        counts = np.sum([each.confusion.counts for each in by_seed], 0)
        return Evaluation(
            summaries,
            per_class,
            {"fakes": ConfusionMatrix(counts), "real": real.confusion},
            (*_warnings(summaries, per_class, self._test.class_names), *self._weakness()),
            self._stamp(generator.step),
            neighbours.reshape(2, 3, n_classes, *images.shape[1:]),
        )

    def _start(self, stage: str) -> CountFn:
        """Report a new stage of the work; returns what counts the images processed in it."""
        self.on_progress(stage, 0)
        return partial(self.on_progress, stage)

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
            "gan_test_worst": float(np.nanmin(confusion.per_class)),
            "fcd": frechet_distance(x, y),
            "intra_fcd": _mean(intra_fcd),
            "intra_fcd_worst": float(np.nan if np.isnan(intra_fcd).all() else np.nanmax(intra_fcd)),
            "kcd": kernel_distance(x, y, subsets=subsets, size=size)[0],
            "nearest_training": float(np.median(nearest.distances)),
            "diversity": _mean(diversity),
        } | manifold_measures(x, y, k=protocol.k)._asdict()
        if self._own_measure:
            overall |= self._own_measure(images.images, images.labels)
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
        protocol, labels, extras = self._protocol, self.plan.more_labels, {}
        self._start(f"seed {seed}: more images")
        images = generator.generate(labels, seed=seed) if len(labels) else fakes.images
        if protocol.n_large:  # the first of these images are the fakes
            rest = slice(len(fakes.labels), protocol.n_large)
            more = self._classify(images[rest], labels[rest], f"seed {seed}: more classes")
            features = np.concatenate([fakes.features, more.features])
            extras["fcd_50k"] = frechet_distance(self._training_features, features)
        if protocol.likelihood:
            self._start(f"seed {seed}: likelihood")
            extras |= _likelihood_measures(self._likelihood(fakes.features))
        if protocol.cas:
            rows = slice(self.plan.n_cas)
            extras["cas"] = self._cas(images[rows], labels[rows], "fakes")
        if self._inception:
            extras["fid"] = self._fid(self._inception, fakes.images, "fakes")
        return extras

    def _cas(self, images: np.ndarray, labels: np.ndarray, name: str) -> float:
        count, test = self._start(f"a classifier of {name}"), self._test
        recipe = self.plan.cas_recipe
        on_step = lambda done, total: count(recipe.batch_size)  # noqa: E731
        real = test.images, test.labels, self._n_classes
        score = cas.classification_accuracy_score(
            images, labels, *real, recipe=recipe, on_step=on_step
        )
        return score.accuracy

    def _fid(self, inception: Features, images: np.ndarray, name: str) -> float:
        features = inception(images, self._start(f"Inception: {name}"))
        return frechet_distance(self._test_inception, features)

    def _neighbours(
        self, generator: TrainedGenerator, seed: int, fakes: ClassifiedImages, nearest: Neighbours
    ) -> np.ndarray:
        """Three fakes of each class and the training images nearest to them."""
        labels = np.arange(3 * self._n_classes, dtype=np.int32) % self._n_classes
        n, training = len(labels), self._training.images
        if np.array_equal(fakes.labels[:n], labels) and len(nearest.indices) >= n:
            return np.stack([fakes.images[:n], training[nearest.indices[:n]]])
        images = generator.generate(labels, seed=seed)
        return np.stack([images, training[nearest_neighbours(images, training).indices]])

    def _weakness(self) -> tuple[str, ...]:
        """A warning where the reference classifier is too weak to judge by."""
        reference = self._reference
        if reference.accuracy is None or reference.chance is None:
            return ()
        accuracy = min(reference.accuracy, self.real_measures.overall["gan_test"])
        if accuracy - reference.chance > 1 - accuracy:
            return ()
        return (
            f"WEAK REFERENCE: its classifier recognises {accuracy:.0%} of real images that it has "
            f"not seen, by chance {reference.chance:.0%}: all measures but nearest_training, "
            "diversity and cas say little",
        )

    def _stamp(self, step: int) -> dict[str, Any]:
        reference = self._reference
        stamp = self.plan.stamp() | {
            "step": step,
            "reference_sha256": reference.sha256,
            "splits": SPLITS if self.plan.known else OWN_SPLITS,
            "environment": environment(),
        }
        if reference.accuracy is not None:
            names = ("accuracy", "chance", "n_validation")
            stamp["reference"] = {name: getattr(reference, name) for name in names}
        return stamp | ({"test": self._about_test} if self._about_test else {})


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
    if len(lines) > MOST_WARNINGS:
        others = plural(len(lines) - MOST_WARNINGS, "more class", "more classes")
        lines[MOST_WARNINGS:] = [f"COLLAPSE: so do images of {others}"]
    nearest = measures["nearest_training"]
    if nearest["mean"] < COPIED * nearest["real"]:
        lines.append(
            f"COPIES: fakes are {nearest['mean']:.1f} grey levels from the training set, "
            f"test images {nearest['real']:.1f}"
        )
    return tuple(lines)


def _mean(values: np.ndarray) -> float:
    """The mean of those that are known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
