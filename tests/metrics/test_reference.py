"""The package's reference classifier: its weights and its accuracy."""

import numpy as np
import pytest

from cgan_jax.errors import DataError
from cgan_jax.metrics import cas, reference
from cgan_jax.metrics.classification import confusion_matrix
from cgan_jax.metrics.reference import N_TRAINING, SHA256, WEIGHTS, load_reference


def test_it_recognises_test_images(fashion_mnist_test):
    """A thousand of them; a slow test has all."""
    images, labels = fashion_mnist_test.images[:1000], fashion_mnist_test.labels[:1000]
    features, predictions = load_reference()(images)
    assert (features.shape, features.dtype) == ((1000, 128), np.float32)
    assert (features >= 0).all() and (features.std(0) > 0).mean() > 0.9
    assert (predictions == labels).mean() > 0.9


@pytest.mark.slow
def test_its_accuracy_on_the_test_and_validation_images(fashion_mnist, fashion_mnist_test):
    _, predictions = load_reference()(fashion_mnist_test.images)
    assert confusion_matrix(fashion_mnist_test.labels, predictions, 10).accuracy >= 0.925
    _, predictions = load_reference()(fashion_mnist.images[N_TRAINING:])
    assert (predictions == fashion_mnist.labels[N_TRAINING:]).mean() >= 0.92


def test_features_of_an_image_do_not_depend_on_the_others(fashion_mnist_test):
    images = fashion_mnist_test.images[:30]
    whole, _ = load_reference()(images)
    alone, _ = load_reference()(images[7:8])
    np.testing.assert_array_equal(alone[0], whole[7])


def test_its_weights_are_small_and_damage_is_refused(tmp_path, monkeypatch):
    assert WEIGHTS.stat().st_size < 2_000_000
    damaged = bytearray(WEIGHTS.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "reference.safetensors").write_bytes(damaged)
    for file in ("reference.safetensors", "missing"):
        monkeypatch.setattr(reference, "WEIGHTS", tmp_path / file)
        load_reference.cache_clear()
        with pytest.raises(DataError, match=rf"{file} are .*\nexpected SHA-256 {SHA256}"):
            load_reference()
    monkeypatch.undo()
    load_reference.cache_clear()


def test_images_of_another_size_are_refused():
    with pytest.raises(DataError, match=r"cannot take images \[32, 32, 3\]"):
        load_reference()(np.zeros((2, 32, 32, 3), np.uint8))


@pytest.mark.slow
def test_cas_of_real_images_matches_the_known_figure(fashion_mnist, fashion_mnist_test):
    """Of 12,000 training images: what moves it also moves cas.REAL_ACCURACY, that of all 60,000.

    Within what another machine's arithmetic may change.
    """
    score = cas.classification_accuracy_score(
        fashion_mnist.images[:12_000],
        fashion_mnist.labels[:12_000],
        fashion_mnist_test.images,
        fashion_mnist_test.labels,
    )
    assert score.accuracy == pytest.approx(0.8812, abs=0.01)
