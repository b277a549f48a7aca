"""Latent points of pictures: those of a generator's own images are found again."""

from dataclasses import fields, replace

import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.errors import ConfigError, DataError, RunError
from cgan_jax.sampling.generator import load_generator
from cgan_jax.sampling.inversion import Inverted, distance, invert, load_inverted
from tests.golden.make_run_folder import FOLDER


@pytest.fixture(scope="module")
def generator():
    return load_generator(FOLDER)


def test_images_of_the_generator_are_found_again(generator):
    """With their class, of all classes; and points stay where the generator was trained."""
    noise = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1), np.uint8)
    own = generator.generate(["left", "right", "round trip"], seed=11)
    found = invert(generator, np.concatenate([own, noise]), starts=4, steps=200)
    assert found.labels[:3, 0].tolist() == [0, 1, 2]
    assert found.distance[:3, 0].max() < 0.01
    assert found.pixel_error[:3, 0].max() <= 0.5
    assert found.distance[3, 0] > 0.3
    assert (np.diff(found.distance, axis=1) >= 0).all()
    assert sorted(found.labels[0]) == [0] * 4 + [1] * 4 + [2] * 4
    one_hot = np.eye(3)[found.labels]
    np.testing.assert_array_equal(found.weights, one_hot)
    for rank in (0, 11):  # images, points, labels and distances belong together
        made = generator.generate(found.labels[:, rank], latent=found.latent[:, rank])
        assert np.abs(made.astype(int) - found.images[:, rank]).max() <= 1
        there, here = (x.astype(np.float32) / 127.5 - 1 for x in (made, found.targets))
        np.testing.assert_allclose(distance(there, here), found.distance[:, rank], atol=0.02)
    lengths = np.linalg.norm(found.latent, axis=-1)
    assert 4 < lengths.max() < np.sqrt(5) + 2.19


def test_a_mixture_of_embeddings_is_found_again(generator):
    """The middle of a morph is the image of no label; a morph from the result begins there."""
    middle = generator.morph("left", "round trip", seed=5, frames=3)[1]
    found = invert(generator, middle, ["left"], starts=2, steps=200, embedding=True)
    assert (found.weights.shape, found.labels.tolist()) == ((1, 2, 3), [[0, 0]])
    assert found.distance[0, 0] < 0.01
    assert np.abs(found.weights[0, 0] - [1, 0, 0]).max() > 0.01
    path = generator.morph(found.weights[:, 0], "right", latent=found.latent[:, 0], frames=2)
    assert np.abs(path[0].astype(int) - middle).max() <= 1
    right = generator.generate("right", latent=found.latent[:, 0])
    assert np.abs(path[1].astype(int) - right).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 3), (1, 2)])
def test_distance_of_pixels_and_of_bands(height, width):
    flat = jnp.zeros((2, height, width, 3))
    np.testing.assert_allclose(distance(flat, flat), 0, atol=1e-5)
    # Equal differences are in the pixels and in the coarsest band alone.
    np.testing.assert_allclose(distance(flat + 0.25, flat), 0.5, rtol=1e-5)
    if height % 2 == width % 2 == 0 and height > 2:  # a checkerboard is in the finest band alone
        board = (-1.0) ** np.add.outer(np.arange(height), np.arange(width))[None, ..., None]
        np.testing.assert_allclose(distance(flat + board, flat), 2, rtol=1e-5)


IMAGE = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": IMAGE[0]}, r"images are uint8 \[4, 4, 1\]\nexpected uint8 \[n, 4, 4, 1\]"),
        ({"images": IMAGE / 255}, r"float64 \[2, 4, 4, 1\]"),
        ({"images": IMAGE[:, :3]}, r"uint8 \[2, 3, 4, 1\]"),
        ({"images": IMAGE[:0]}, r"uint8 \[0, 4"),
        ({"images": "coat.png"}, "images are 'coat.png'"),
        ({"labels": ["left"] * 3}, "there are 3 labels for 2 images"),
        ({"labels": "lefft"}, "did you mean 'left'"),
        ({"starts": 0}, "starts must be"),
        ({"steps": 0.5}, "steps must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_what_cannot_be_inverted_is_refused(generator, arguments, words):
    with pytest.raises(ConfigError, match=words) as caught:
        invert(generator, **{"images": IMAGE, **arguments})
    assert len(str(caught.value).splitlines()) <= 3


def inverted():
    """What `invert` may find for two pictures, with three candidates each."""
    rng = np.random.default_rng(0)
    labels = np.array([[1, 1, 1], [0, 0, 0]], np.int32)
    return Inverted(
        rng.normal(size=(2, 3, 5)).astype(np.float32),
        labels,
        np.eye(3, dtype=np.float32)[labels],
        np.sort(rng.random((2, 3), np.float32)),
        rng.integers(0, 256, (2, 3, 4, 4, 1), np.uint8),
        IMAGE,
        ("left", "right", "round trip"),
    )


def test_a_saved_result_is_read_again(tmp_path):
    before, file = inverted(), tmp_path / "new" / "x.npz"
    before.save(file)
    after = load_inverted(file)
    for field in fields(Inverted):
        np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))
    assert after.class_names == before.class_names
    with pytest.raises(RunError, match="cannot be written"):
        before.save(file / "x.npz")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.unlink(), "No such file"),
        (lambda file: file.write_bytes(b"text"), "cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:-30]), "not a zip file"),
        (lambda file: np.savez(file, images=IMAGE), "latent is not a file"),
        (
            lambda file: replace(inverted(), latent=np.zeros((2, 5))).save(file),
            r"latent is float64",
        ),
        (lambda file: replace(inverted(), labels=np.zeros((1, 3), int)).save(file), "lengths"),
        (lambda file: replace(inverted(), class_names=()).save(file), "class_names is"),
    ],
)
def test_other_files_are_refused(tmp_path, damage, words):
    file = tmp_path / "x.npz"
    inverted().save(file)
    damage(file)
    with pytest.raises(DataError, match=words) as caught:
        load_inverted(file)
    assert len(str(caught.value).splitlines()) == 3
