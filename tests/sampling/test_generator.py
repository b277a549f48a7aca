"""Latent points, labels by name, and images that depend on nothing but seed, index and label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from cgan_jax.errors import RunError
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import (
    TrainedGenerator,
    generate_latent_points,
    label_ids,
    load_generator,
)
from cgan_jax.sampling.latent_space import CHUNK
from cgan_jax.training.gan import GAN

NAMES = ("T-shirt/top", "Trouser", "Ankle boot")


@pytest.fixture(scope="module")
def trained(tiny_config):
    gan = GAN.from_config(tiny_config)
    state = jax.jit(gan.init)(random.key(0))
    return TrainedGenerator(gan.generator, state.gen.variables, NAMES, step=0)


def test_latent_points_are_normal_and_labels_uniform():
    latent, labels = generate_latent_points(20, 2000, 10, seed=1)
    assert latent.shape == (2000, 20)
    assert latent.dtype == np.float32
    assert abs(latent.mean()) < 0.02
    assert abs(latent.std() - 1) < 0.02
    assert labels.shape == (2000,)
    assert labels.dtype == np.int32
    assert np.bincount(labels, minlength=10).min() > 140
    assert np.bincount(labels).size == 10


def test_a_latent_point_depends_on_seed_and_index_alone():
    few, few_labels = generate_latent_points(5, 3, 10, seed=1)
    many, many_labels = generate_latent_points(5, 50, 10, seed=1)
    np.testing.assert_array_equal(few, many[:3])
    np.testing.assert_array_equal(few_labels, many_labels[:3])
    other, _ = generate_latent_points(5, 3, 10, seed=2)
    assert not np.array_equal(few, other)
    assert len(np.unique(np.asarray(many), axis=0)) == 50
    assert generate_latent_points(5, 0, 10)[0].shape == (0, 5)


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        (2, [2]),
        ("ankle boot", [2]),
        (" Trouser ", [1]),
        ("1", [1]),
        (["T-shirt/top", 1, "2", np.int64(0)], [0, 1, 2, 0]),
        (np.array([2, 0], np.uint8), [2, 0]),
        (("Trouser",), [1]),
        ([], []),
        (range(3), [0, 1, 2]),
        (jnp.array([2, 0]), [2, 0]),
        ([jnp.int32(1), np.array(2)], [1, 2]),
        (np.array(["Trouser", "2"]), [1, 2]),
    ],
)
def test_labels_by_id_and_by_name(labels, ids):
    found = label_ids(labels, NAMES)
    assert found.dtype == np.int32
    assert found.tolist() == ids


def test_images_are_uint8_of_the_networks_shape(trained):
    images = trained.generate(["Trouser", 0, 2])
    assert (images.shape, images.dtype) == ((3, 4, 4, 1), np.uint8)
    assert trained.generate([]).shape == (0, 4, 4, 1)


def test_an_image_depends_on_seed_index_and_label_alone(trained):
    """Bitwise, whatever else is asked for, and in however many chunks."""
    n = 2 * CHUNK + 7
    labels = np.arange(n) % 3
    images = trained.generate(labels, seed=5)
    np.testing.assert_array_equal(trained.generate(labels[:1], seed=5), images[:1])
    np.testing.assert_array_equal(
        trained.generate(labels[: CHUNK + 1], seed=5), images[: CHUNK + 1]
    )
    others = labels.copy()
    others[::2] = 0
    np.testing.assert_array_equal(
        trained.generate(others, seed=5)[labels == others], images[labels == others]
    )
    assert not np.array_equal(trained.generate(labels, seed=6), images)
    assert len(np.unique(images.reshape(n, -1), axis=0)) > 0.9 * n


def test_a_generated_image_is_what_the_network_makes_in_evaluation_mode(trained):
    latent, _ = generate_latent_points(5, 3, 3, seed=9)
    plain = trained.module.apply(trained.variables, latent, np.array([0, 1, 2]), train=False)
    expected = (np.asarray(plain) + 1) * 127.5
    assert np.abs(trained.generate([0, 1, 2], seed=9) - expected).max() <= 0.51


def test_load_generator_gives_the_run_folders_newest(tiny_config, tmp_path):
    gan = GAN.from_config(tiny_config)
    run = RunFolder.start(tmp_path / "run", tiny_config, NAMES)
    states = [jax.jit(gan.init)(random.key(seed)) for seed in (0, 1)]
    with Checkpoints(run.checkpoints) as checkpoints:
        for step, state in enumerate(states):
            checkpoints.save(step, state.replace(step=np.int32(step)))
    loaded = load_generator(tmp_path / "run")
    assert (loaded.step, loaded.class_names) == (1, NAMES)
    variables = states[1].gen.variables
    expected = TrainedGenerator(gan.generator, variables, NAMES, 1).generate(["Trouser", 2], seed=3)
    np.testing.assert_array_equal(loaded.generate(["Trouser", 2], seed=3), expected)


def test_load_generator_says_what_is_missing(tiny_config, tmp_path):
    with pytest.raises(RunError, match=r"no config\.json"):
        load_generator(tmp_path)
    RunFolder.start(tmp_path / "run", tiny_config, NAMES)
    with pytest.raises(RunError, match="no checkpoints"):
        load_generator(tmp_path / "run")
