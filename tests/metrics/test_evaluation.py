"""The protocol as a whole: which images each measure is given, on generators that are known."""

import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from cgan_jax.data import Dataset
from cgan_jax.metrics import evaluation as protocol_module
from cgan_jax.metrics.evaluation import FULL, MEASURES, Protocol, balanced, evaluate, prepare, work
from cgan_jax.metrics.quick import PixelMeasures, QuickMeasures, quick_measures
from cgan_jax.metrics.reference import SHA256

SMALL = Protocol(
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
    """A generator that shows images, for each class its own ones, each seed from another place."""

    images: np.ndarray
    labels: np.ndarray
    step: int = 7

    def generate(self, labels, *, seed):
        shown = np.empty((len(labels), *self.images.shape[1:]), np.uint8)
        for label in range(10):
            its = self.images[self.labels == label]
            wanted = np.flatnonzero(labels == label)
            shown[wanted] = its[(np.arange(len(wanted)) + 17 * seed) % len(its)]
        return shown


@pytest.fixture(scope="module")
def training(fashion_mnist):
    """A part of it, so that searches are short."""
    return subset(fashion_mnist, slice(0, 4000))


@pytest.fixture(scope="module")
def unseen(fashion_mnist):
    """Real images that are in neither: what an ideal generator would show."""
    return subset(fashion_mnist, slice(20_000, 26_000))


def subset(data, rows):
    return Dataset.from_arrays(data.images[rows], data.labels[rows], data.class_names)


@pytest.fixture(scope="module")
def real(training, fashion_mnist_test):
    return prepare(training, fashion_mnist_test, SMALL)


@pytest.fixture(scope="module")
def ideal(real, unseen):
    return evaluate(FromImages(unseen.images, unseen.labels), real)


def test_real_images_as_fakes_are_as_good_as_real(ideal):
    found = ideal.measures
    assert found["gan_test"]["mean"] > 0.9
    assert found["fcd"]["mean"] < 2 * found["fcd"]["real"]
    assert found["kcd"]["mean"] < 0.05
    for name in ("precision", "recall", "coverage"):
        assert found[name]["mean"] == pytest.approx(found[name]["real"], abs=0.12)
    assert found["nearest_training"]["mean"] == pytest.approx(
        found["nearest_training"]["real"], rel=0.25
    )
    assert ideal.warnings == ()


def test_each_measure_has_its_place_a_value_a_seed_and_its_real_figure(ideal):
    found = ideal.measures
    assert list(found) == [name for name in MEASURES if name not in ("cas", "fid")]
    for name, each in found.items():
        values = each["values"]
        assert len(values) == (1 if name == "fcd_50k" else 2)
        assert each["mean"] == pytest.approx(np.mean(values))
        if len(values) > 1:
            assert each["sd"] == pytest.approx(np.std(values, ddof=1))
            assert each["real"] is not None
    assert ideal.confusion["fakes"].counts.sum() == 400
    assert (ideal.confusion["fakes"].counts.sum(1) == 40).all()  # as many of each class


def test_the_stamp_says_what_the_figures_depend_on(ideal):
    saved = json.loads(json.dumps(ideal.to_dict()))
    stamp = saved["stamp"]
    assert stamp["reference_sha256"] == SHA256
    assert stamp["step"] == 7
    assert stamp["protocol"]["seeds"] == [0, 1]
    assert stamp["protocol"]["n_images"] == 200
    assert {"cgan_jax", "jax", "numpy"} <= stamp["environment"].keys()


def test_test_images_are_compared_with_training_images_and_not_with_themselves(real, training):
    """Train and test exchanged would bring the distance to 0, or the floor."""
    assert real.look.measures["nearest_training"] > 10
    assert real.look.measures["fcd"] > 0.1
    assert len(real.seen_test.labels) == 200
    assert (np.bincount(real.seen_test.labels) == 20).all()


def test_copied_training_images_are_said(real, training):
    copies = evaluate(FromImages(training.images, training.labels), real)
    assert copies.measures["nearest_training"]["mean"] == 0
    assert any(line.startswith("COPIES") for line in copies.warnings)
    fakes, nearest = copies.neighbours
    assert fakes.shape == (3, 10, 28, 28, 1)
    np.testing.assert_array_equal(fakes, nearest)


def test_shuffled_labels_are_said(ideal, real, unseen):
    """The whole is as it was; each class is another."""
    shuffled = FromImages(unseen.images, (unseen.labels + 1) % 10)
    found = evaluate(shuffled, real)
    assert found.measures["gan_test"]["mean"] < 0.1
    assert found.measures["fcd"]["mean"] == pytest.approx(ideal.measures["fcd"]["mean"], rel=0.5)
    assert found.measures["intra_fcd"]["mean"] > 5 * ideal.measures["intra_fcd"]["mean"]


def test_a_collapsed_class_is_said_by_name(ideal, real, unseen):
    """One picture of a bag."""
    kept = (unseen.labels != 8) | (np.arange(len(unseen)) == np.argmax(unseen.labels == 8))
    found = evaluate(FromImages(unseen.images[kept], unseen.labels[kept]), real)
    (line,) = found.warnings
    assert line.startswith("COLLAPSE: pictures of Bag differ by 0.0 grey levels")
    assert found.per_class["diversity"]["fakes"][8] == 0
    assert found.measures["coverage"]["mean"] < ideal.measures["coverage"]["mean"]


def test_uint8_does_not_wrap_around(real, unseen):
    """Images one grey level brighter are all but the same; wrapped, white becomes black."""
    brighter = np.minimum(unseen.images.astype(int) + 1, 255).astype(np.uint8)
    wrapped = unseen.images + np.uint8(1) * 60
    figures = [
        evaluate(FromImages(images, unseen.labels), real).measures["fcd"]
        for images in (brighter, wrapped)
    ]
    assert figures[0]["mean"] < 2 * figures[0]["real"] < figures[1]["mean"]


def test_as_many_images_are_told_of_as_there_are(real, training, unseen, fashion_mnist_test):
    told = []
    tell = lambda what, n: told.append(n)  # noqa: E731
    prepare(training, fashion_mnist_test, SMALL, told=tell)
    evaluate(FromImages(unseen.images, unseen.labels), real, told=tell)
    assert sum(told) == work(SMALL, 1, len(training))
    assert work(FULL, 2) - work(FULL, 1) > 60_000


def test_the_score_is_of_fakes_and_its_real_figure_is_known(
    training, unseen, fashion_mnist_test, monkeypatch
):
    """Of one seed, of the fakes and the classes asked for, on the whole test split."""
    given = []

    def score(images, labels, test_images, test_labels, n_classes, *, on_step):
        given.append((len(images), len(labels), np.bincount(labels).tolist(), len(test_images)))
        return protocol_module.confusion_matrix(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0]), 10)

    monkeypatch.setattr(protocol_module.cas, "classification_accuracy_score", score)
    monkeypatch.setattr(protocol_module.cas, "N_IMAGES", 500)
    with_cas = replace(SMALL, seeds=(0,), cas=True)
    real = prepare(training, fashion_mnist_test, with_cas)
    generator = FromImages(unseen.images, unseen.labels)
    found = evaluate(generator, real).measures["cas"]
    assert found["mean"] == 0.75
    assert found["real"] == protocol_module.cas.REAL_ACCURACY
    assert given == [(500, 500, [50] * 10, 10_000)]


def test_balanced_takes_the_first_of_each_class():
    labels = np.array([1, 0, 0, 1, 1, 0])
    assert balanced(labels, 4, 2).tolist() == [1, 2, 0, 3]


def test_quick_measures_look_at_the_training_split_alone(fashion_mnist, unseen):
    measure = QuickMeasures(fashion_mnist)
    labels = np.arange(1000, dtype=np.int32) % 10
    good = measure(FromImages(unseen.images, unseen.labels).generate(labels, seed=0), labels)
    noise = measure(np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), np.uint8), labels)
    assert list(good) == ["gan_test", "fcd", "coverage", "pixel_fd"]
    assert good["gan_test"] > 0.9 and noise["gan_test"] < 0.3
    assert good["coverage"] > 0.7 > noise["coverage"]
    assert 10 * good["fcd"] < noise["fcd"]
    assert 10 * good["pixel_fd"] < noise["pixel_fd"]


def test_quick_measures_of_other_data_are_of_their_pixels(tiny_dataset, fashion_mnist):
    """Data that are in the order of their classes, too; and few of them."""
    rows = np.argsort(fashion_mnist.labels, kind="stable")[::20]
    images = np.repeat(fashion_mnist.images[rows], 3, axis=-1)
    data = Dataset.from_arrays(images, fashion_mnist.labels[rows], fashion_mnist.class_names)
    measure, labels = quick_measures(data), np.arange(2000)
    again = measure(images[::-1], labels)
    noise = measure(np.random.default_rng(0).integers(0, 256, (2000, 28, 28, 3), "u1"), labels)
    assert again.keys() == {"pixel_fd"}
    assert 100 * again["pixel_fd"] < noise["pixel_fd"]
    few = PixelMeasures(tiny_dataset)
    assert few(tiny_dataset.images, labels)["pixel_fd"] < 1
