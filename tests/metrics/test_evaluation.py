"""The protocol as a whole: which images each measure is given, with generators of known images."""

import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from cgan_jax.data import Dataset
from cgan_jax.data.holdout import hold_out
from cgan_jax.errors import DataError
from cgan_jax.metrics import cas, eval_plan
from cgan_jax.metrics.classification import confusion_matrix
from cgan_jax.metrics.eval_plan import FAST, FULL, EvalProtocol, plan_evaluation
from cgan_jax.metrics.evaluation import Evaluator
from cgan_jax.metrics.measures import MEASURES, describe
from cgan_jax.metrics.quick import evenly, quick_measures
from cgan_jax.metrics.reference import SHA256, Reference
from experiments.digits_cgan import digits

SMALL = EvalProtocol(
    "small",
    seeds=(0, 1),
    n_images=200,
    n_large=400,
    kernel_subsets=3,
    kernel_size=50,
    n_nearest=60,
    cas=False,
)


class FromImages(NamedTuple):
    """A generator of given images of each class; each seed starts at another image."""

    images: np.ndarray
    labels: np.ndarray
    step: int = 7

    def generate(self, labels, *, seed):
        images = np.empty((len(labels), *self.images.shape[1:]), np.uint8)
        for label in range(10):
            pool = self.images[self.labels == label]
            rows = np.flatnonzero(labels == label)
            images[rows] = pool[(np.arange(len(rows)) + 17 * seed) % len(pool)]
        return images


@pytest.fixture(scope="module")
def training(fashion_mnist):
    """A part of the split, so that searches are short."""
    return subset(fashion_mnist, slice(0, 4000))


@pytest.fixture(scope="module")
def others(fashion_mnist):
    """Real images that are in neither split; the reference classifier was trained on them."""
    return subset(fashion_mnist, slice(20_000, 26_000))


def subset(data, rows):
    return Dataset.from_arrays(data.images[rows], data.labels[rows], data.class_names)


@pytest.fixture(scope="module")
def evaluator(training, fashion_mnist_test):
    return Evaluator(training, fashion_mnist_test, SMALL)


@pytest.fixture(scope="module")
def of_real(evaluator, others):
    """The evaluation of a generator of real images."""
    return evaluator.evaluate(FromImages(others.images, others.labels))


def test_real_images_instead_of_fakes_are_as_good_as_real(of_real):
    measures = of_real.measures
    assert measures["gan_test"]["mean"] > 0.9
    assert measures["fcd"]["mean"] < 2 * measures["fcd"]["real"]
    assert measures["kcd"]["mean"] < 0.05
    for name in ("precision", "recall", "coverage"):
        assert measures[name]["mean"] == pytest.approx(measures[name]["real"], abs=0.12)
    nearest = measures["nearest_training"]
    assert nearest["mean"] == pytest.approx(nearest["real"], rel=0.25)
    assert of_real.warnings == ()


def test_each_measure_has_one_value_per_seed_and_a_real_figure(of_real):
    assert list(of_real.measures) == [n for n in MEASURES if n not in ("cas", "fid", "pixel_fd")]
    for name, figures in of_real.measures.items():
        values = figures["values"]
        assert len(values) == (1 if name in ("fcd_50k", "fld", "fld_gap") else 2)
        assert figures["mean"] == pytest.approx(np.mean(values))
        if len(values) > 1:
            assert figures["sd"] == pytest.approx(np.std(values, ddof=1))
            assert figures["real"] is not None
    counts = of_real.confusion["fakes"].counts
    assert counts.sum() == 400
    assert (counts.sum(1) == 40).all()  # equally many of each class


def test_every_measure_says_which_direction_is_better():
    """Those of a run's measures.csv too."""
    assert {meaning.better for meaning in MEASURES.values()} == {"higher", "lower", "near real"}
    assert describe("fcd") == "Frechet distance to test images; lower is better"
    assert "principal components of the pixels; lower" in describe("pixel_fd")
    assert describe("a user's own measure") == ""


def test_the_stamp_has_what_the_figures_depend_on(of_real):
    saved = json.loads(json.dumps(of_real.to_dict()))
    stamp = saved["stamp"]
    assert stamp["reference_sha256"] == SHA256
    assert stamp["step"] == 7
    assert stamp["protocol"]["seeds"] == [0, 1]
    assert stamp["protocol"]["n_images"] == 200
    assert {"cgan_jax", "jax", "numpy"} <= stamp["environment"].keys()


def test_baseline_compares_test_images_with_training_images(evaluator):
    """Compared with themselves, their distances would be 0."""
    assert evaluator.real_measures.overall["nearest_training"] > 10
    assert evaluator.real_measures.overall["fcd"] > 0.1
    assert len(evaluator.real_test.labels) == 200
    assert (np.bincount(evaluator.real_test.labels) == 20).all()


def test_copies_of_training_images_give_a_warning(evaluator, training):
    copies = evaluator.evaluate(FromImages(training.images, training.labels))
    assert copies.measures["nearest_training"]["mean"] == 0
    assert any(line.startswith("COPIES") for line in copies.warnings)
    fakes, nearest = copies.neighbours
    assert fakes.shape == (3, 10, 28, 28, 1)
    np.testing.assert_array_equal(fakes, nearest)


def test_exchanged_classes_show_in_the_measures_of_classes(of_real, evaluator, others):
    """But not in those of the whole."""
    generator = FromImages(others.images, (others.labels + 1) % 10)
    shifted = evaluator.evaluate(generator).measures
    assert shifted["gan_test"]["mean"] < 0.1
    assert shifted["fcd"]["mean"] == pytest.approx(of_real.measures["fcd"]["mean"], rel=0.5)
    assert shifted["intra_fcd"]["mean"] > 5 * of_real.measures["intra_fcd"]["mean"]


def test_a_collapsed_class_gives_a_warning_with_its_name(of_real, evaluator, others):
    """One image of a bag."""
    bags = np.flatnonzero(others.labels == 8)
    images, labels = (np.delete(array, bags[1:], 0) for array in (others.images, others.labels))
    evaluation = evaluator.evaluate(FromImages(images, labels))
    (line,) = evaluation.warnings
    assert line.startswith("COLLAPSE: images of Bag differ by 0.0 grey levels")
    assert evaluation.per_class["diversity"]["fakes"][8] == 0
    assert evaluation.measures["coverage"]["mean"] < of_real.measures["coverage"]["mean"]


def test_uint8_does_not_wrap_around(evaluator, others):
    """Images one grey level brighter are nearly the same; wrapped around, white becomes black."""
    brighter = np.minimum(others.images.astype(int) + 1, 255).astype(np.uint8)
    wrapped = others.images + np.uint8(1) * 60
    figures = [
        evaluator.evaluate(FromImages(images, others.labels)).measures["fcd"]
        for images in (brighter, wrapped)
    ]
    assert figures[0]["mean"] < 2 * figures[0]["real"] < figures[1]["mean"]


@pytest.mark.slow
def test_one_seed_has_cas_and_fid_and_progress_counts_every_image(
    training, others, fashion_mnist_test, monkeypatch
):
    """CAS of fakes and requested classes, on the whole test split; a stub trains nothing."""
    calls, stages = [], []

    def score(images, labels, test_images, test_labels, n_classes, *, recipe, on_step):
        calls.append((len(images), len(labels), np.bincount(labels).tolist(), len(test_images)))
        total = len(images) // cas.RECIPE.batch_size * cas.RECIPE.epochs
        for step in range(total):
            on_step(step + 1, total)
        return confusion_matrix(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0]), 10)

    def inception(images, on_chunk):
        on_chunk(len(images))
        return images[:, 10:18, 10:18].reshape(len(images), -1) / 255

    monkeypatch.setattr(cas, "classification_accuracy_score", score)
    monkeypatch.setattr(cas, "N_IMAGES", 500)
    protocol = replace(SMALL, seeds=(0,), cas=True)
    on_progress = lambda stage, n: stages.append((stage, n))  # noqa: E731
    options = {"inception": inception, "on_progress": on_progress}
    evaluator = Evaluator(training, fashion_mnist_test, protocol, **options)
    generator = FromImages(others.images, others.labels)
    measures = evaluator.evaluate(generator).measures
    assert (measures["cas"]["mean"], measures["cas"]["real"]) == (0.75, cas.REAL_ACCURACY)
    assert calls == [(500, 500, [50] * 10, 10_000)]
    assert 0 < measures["fid"]["real"] < 10 and 0 < measures["fid"]["mean"] < 10
    assert sum(n for _, n in stages) == evaluator.plan.count_images(1, len(training), fid=True)
    names = {stage for stage, _ in stages}
    assert {stage for stage, n in stages if n == 0} == names  # each is announced
    assert names >= {"test images", "seed 0: classes", "a classifier of fakes", "Inception: fakes"}
    full = plan_evaluation(FULL, training, fashion_mnist_test, known=True)
    assert full.count_images(2, 60_000) - full.count_images(1, 60_000) > 60_000


def test_the_first_of_each_class_of_fashion_mnist_and_evenly_spaced_ones_of_other_data(evaluator):
    labels = np.array([1, 0, 0, 1, 1, 0, 1])
    for known, expected in ((True, [1, 2, 0, 3]), (False, [1, 2, 0, 4])):
        plan = evaluator.plan._replace(known=known)
        assert plan.rows(labels, np.array([2, 2])).tolist() == expected


def test_quick_measures_tell_real_images_from_noise(fashion_mnist, others):
    measure = quick_measures(fashion_mnist)
    labels = np.arange(1000, dtype=np.int32) % 10
    good = measure(FromImages(others.images, others.labels).generate(labels, seed=0), labels)
    noise = measure(np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), np.uint8), labels)
    assert list(good) == ["gan_test", "fcd", "coverage", "pixel_fd"]
    assert good["gan_test"] > 0.9 and noise["gan_test"] < 0.3
    assert good["coverage"] > 0.7 > noise["coverage"]
    assert 10 * good["fcd"] < noise["fcd"]
    assert 10 * good["pixel_fd"] < noise["pixel_fd"]


def test_quick_measures_of_other_data_use_pixels(tiny_dataset, fashion_mnist):
    """Of data in the order of their classes, and of few images, too."""
    rows = np.argsort(fashion_mnist.labels, kind="stable")[::20]
    images = np.repeat(fashion_mnist.images[rows], 3, axis=-1)
    data = Dataset.from_arrays(images, fashion_mnist.labels[rows], fashion_mnist.class_names)
    measure, labels = quick_measures(data), np.arange(2000)
    again = measure(images[::-1], labels)
    noise = measure(np.random.default_rng(0).integers(0, 256, (2000, 28, 28, 3), "u1"), labels)
    assert again.keys() == {"pixel_fd"}
    assert 100 * again["pixel_fd"] < noise["pixel_fd"]
    few = quick_measures(tiny_dataset)
    assert few(tiny_dataset.images, labels)["pixel_fd"] < 1


def test_quick_measures_compare_with_images_that_the_reference_has_not_seen(means):
    """With a class that has few of them, and with too few for a measure of neighbourhoods."""
    data = digits()
    training, unseen = hold_out(data, 0.2)
    measure = quick_measures(training, replace(means, validation=unseen))
    labels = np.arange(2000, dtype=np.int32) % 10
    fakes = np.stack([data.images[data.labels == label][0] for label in range(10)])[labels]
    seen = measure(unseen.images, unseen.labels)
    assert list(seen) == ["gan_test", "fcd", "coverage", "pixel_fd"]
    one_each = measure(fakes, labels)
    assert seen["coverage"] == 1 > one_each["coverage"]
    assert one_each["gan_test"] == np.mean(means(fakes)[1] == labels)
    assert seen["fcd"] < 0.1 * one_each["fcd"]
    few = quick_measures(training, replace(means, validation=subset(unseen, slice(0, 5))))
    assert list(few(fakes, labels)) == ["gan_test", "fcd", "pixel_fd"]


@pytest.fixture(scope="module")
def few():
    """320 digits in classes of 60 down to 2, and one of a single image; their means as features."""
    data = digits()
    counts = (60, 60, 60, 50, 40, 30, 12, 5, 2, 1)
    rows = [np.flatnonzero(data.labels == c)[:n] for c, n in enumerate(counts)]
    return hold_out(subset(data, np.concatenate(rows)), 0.25)


@pytest.fixture
def means():
    """Features that need no training: the means of blocks, and the brightest as a prediction."""

    def classify(images, on_chunk=lambda n: None):
        on_chunk(len(images))
        features = images.reshape(len(images), 4, 2, 4, 2).mean((2, 4)).reshape(len(images), 16)
        return features.astype(np.float32), (features.argmax(1) % 10).astype(np.int32)

    validation = subset(digits(), slice(0, 30))
    return Reference(classify, "means of blocks", validation, accuracy=0.4, chance=0.2)


@pytest.mark.slow
def test_few_and_unbalanced_images_adapt_the_protocol_and_say_so(few, means, monkeypatch):
    """Any features will do. A class that has no test image has no figures."""
    monkeypatch.setattr(cas, "RECIPE", cas.RECIPE._replace(epochs=1))
    monkeypatch.setattr(eval_plan, "CAS_IMAGES", 0)
    training, test = few
    stages = []
    options = {"reference": means, "about_test": "held out"}
    evaluator = Evaluator(training, test, replace(FULL, seeds=(0, 1)), **options)
    counts = np.bincount(test.labels, minlength=10)
    assert counts.tolist() == [15, 15, 15, 12, 10, 8, 3, 1, 1, 0]
    evaluator.on_progress = lambda stage, n: stages.append(n)
    generator = FromImages(training.images, training.labels)
    evaluation = evaluator.evaluate(generator)
    plan = evaluator.plan
    assert plan.labels[:16].tolist() == [*range(9), *range(7)]  # in turns
    assert sum(stages) == plan.count_images(2, len(training)) - plan.count_images(1, len(training))
    saved = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    stamp = saved["stamp"]
    sizes = {"n_images": 80, "n_large": 0, "k": 5, "kernel_size": 40, "n_cas": len(training)}
    assert stamp["protocol"].items() >= sizes.items()
    assert stamp["protocol"]["class_counts"] == counts.tolist()
    for words in (
        "80 fakes",
        "none of 9",
        "fcd_50k omitted",
        "subsets of 40",
        "cas trained on 240",
    ):
        assert any(words in line for line in stamp["adapted"]), words
    assert (stamp["reference_sha256"], stamp["test"]) == ("means of blocks", "held out")
    assert stamp["reference"] == {"accuracy": 0.4, "chance": 0.2, "n_validation": 30}
    assert np.sum(saved["confusion"]["fakes"], 1).tolist() == (2 * counts).tolist()
    assert set(saved["measures"]) == set(MEASURES) - {"fcd_50k", "fid", "pixel_fd"}
    assert saved["measures"]["cas"]["real"] > 0.1
    assert saved["per_class"]["intra_fcd"]["fakes"][7:] == [None] * 3
    assert saved["measures"]["nearest_training"]["mean"] == 0
    assert evaluation.neighbours.shape == (2, 3, 10, 8, 8, 1)
    np.testing.assert_array_equal(*evaluation.neighbours)
    lines = " ".join(evaluation.warnings)
    assert "WEAK REFERENCE" in lines and "by chance 20%" in lines and "COPIES" in lines


def test_parts_that_do_not_fit_or_are_too_few_are_refused(few, means):
    training, test = few
    wide = Dataset.from_arrays(np.repeat(test.images, 2, 2), test.labels, test.class_names)
    renamed = Dataset.from_arrays(test.images, test.labels, list("abcdefghij"))
    for other, message in (
        (wide, r"other images, \[8, 16, 1\]"),
        (renamed, "other classes"),
        (subset(test, slice(0, 9)), "only 9 images can be compared"),
    ):
        with pytest.raises(DataError, match=message):
            Evaluator(training, other, FAST, reference=means)


def test_quick_measures_weigh_classes_with_few_images_as_fakes_do():
    labels = np.array([0, 0, 0, 0, 1])
    assert evenly(labels, 8, 2).tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert evenly(labels, 2, 3).tolist() == [0, 4]
