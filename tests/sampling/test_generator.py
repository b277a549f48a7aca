"""Latent points, labels by name, and images that depend on nothing but seed, index and label."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from cgan_jax.errors import ConfigError, DataError, RunError
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
        ("ankle  boot", [2]),
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


def test_spaces_in_a_class_name_do_not_matter():
    names = ("Ankle  boot", "Bag")
    assert label_ids(["Ankle  boot", "ankle boot"], names).tolist() == [0, 0]


def test_images_are_uint8_with_the_networks_shape(trained):
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


def test_n_images_of_each_label_are_the_labels_n_times_over(trained):
    images = trained.generate("Trouser", n=5, seed=2)
    np.testing.assert_array_equal(images, trained.generate(["Trouser"] * 5, seed=2))
    images = trained.generate(["Trouser", 0], n=2, seed=2)
    np.testing.assert_array_equal(images, trained.generate([1, 0, 1, 0], seed=2))
    path = trained.morph(["Trouser", 0], 2, n=2, frames=2, seed=2)
    np.testing.assert_array_equal(path[0], images)
    np.testing.assert_array_equal(path[1], trained.generate([2] * 4, seed=2))


def test_latent_points_may_be_your_own(trained):
    """A grey level may differ, as the points come from another compiled program."""
    n = CHUNK + 3
    latent, _ = generate_latent_points(5, n, 3, seed=4)
    labels = np.arange(n) % 3
    images = trained.generate(labels, latent=latent).astype(int)
    np.testing.assert_allclose(images, trained.generate(labels, seed=4).astype(int), atol=1)
    one_label = trained.generate("Trouser", latent=latent[:4])
    np.testing.assert_array_equal(one_label, trained.generate([1] * 4, latent=latent[:4]))
    one_point = trained.generate(range(3), latent=[[1, 2, 3, 4, 5]])
    repeated = np.tile(np.arange(1, 6), (3, 1))
    np.testing.assert_array_equal(one_point, trained.generate(range(3), latent=repeated))
    assert trained.generate([], latent=latent[:1]).shape == (0, 4, 4, 1)
    bfloat16 = trained.generate(range(3), latent=jnp.asarray(repeated, jnp.bfloat16))
    np.testing.assert_array_equal(one_point, bfloat16)


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (np.zeros((2, 4)), r"expected finite numbers \[n, 5\]"),
        (np.zeros(5), "expected finite"),
        (np.full((3, 5), np.nan), "expected finite"),
        ([["0"] * 5], "expected finite"),
        ([[0] * 5, [0]], "expected finite"),
        (np.zeros((1, 5), complex), "expected finite"),
        (3, "expected finite"),
        (np.zeros((2, 5)), "there are 2 latent points for 3 labels"),
    ],
)
def test_other_latent_points_are_refused(trained, latent, words):
    with pytest.raises(ConfigError, match=words) as caught:
        trained.generate([0, 1, 2], latent=latent)
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(ConfigError, match="truncation does not go with latent"):
        trained.generate(0, latent=np.zeros((1, 5)), truncation=1)


def test_progress_is_reported_after_each_chunk(trained):
    calls = []
    images = trained.generate(
        0, n=2 * CHUNK + 7, on_progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(done, len(images)) for done in (CHUNK, 2 * CHUNK, 2 * CHUNK + 7)]
    trained.generate([], on_progress=lambda done, total: calls.append("nothing"))
    assert "nothing" not in calls


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda g: g.generate(0, n=10**11), "n must be an integer in 1.."),
        (lambda g: g.generate(0, n=0), "n must be an integer in 1.."),
        (lambda g: g.generate([0, 1], n=2**31 - 1), "4,294,967,294 images are 68.7 GB"),
        (lambda g: g.morph(0, n=2**20, frames=2**20), "1,099,511,627,776 images are"),
        (lambda g: generate_latent_points(2**31 - 1, 2**31 - 1), "latent points are"),
    ],
)
def test_more_than_fits_in_memory_is_refused(trained, ask, words):
    with pytest.raises(ConfigError, match=words):
        ask(trained)


def test_the_limit_is_this_machines_memory(trained, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 10)  # pages, and bytes in each of them
    assert trained.generate(0, n=6).nbytes == 96
    with pytest.raises(ConfigError, match=r"7 images are .*\nexpected at most .* in 0\.0 GB"):
        trained.generate(0, n=7)


def test_repr_is_short_and_equality_is_identity(trained):
    assert repr(trained) == "<TrainedGenerator: Generator, 3 classes, step 0>"
    other = TrainedGenerator(trained.module, trained.variables, NAMES, step=0)
    assert trained == trained and trained != other
    assert len({trained, other}) == 2


def test_a_saved_generator_is_loaded_again(trained, tmp_path):
    path = tmp_path / "new" / "generator.safetensors"
    trained.save(path)
    loaded = load_generator(path)
    assert (loaded.module, loaded.class_names, loaded.step) == (trained.module, NAMES, 0)
    np.testing.assert_array_equal(loaded.generate(NAMES, seed=3), trained.generate(NAMES, seed=3))
    for choice in ({"step": 0}, {"best": True}):
        with pytest.raises(ConfigError, match="is a file\nexpected a run folder"):
            load_generator(path, **choice)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="cannot be read"):
        load_generator(path)
    with pytest.raises(RunError, match="cannot be written"):
        trained.save(path / "generator.safetensors")


class Plain(nn.Module):
    """A network of one's own."""

    n_classes: int = 3
    latent_dim: int = 2
    img_size: int = 4
    channels: int = 1
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, latent, labels, *, train):
        image = nn.Dense(16, param_dtype=self.dtype)(latent) + labels[:, None]
        return jnp.tanh(image).reshape(-1, 4, 4, 1)


def plain(dtype=jnp.float32):
    module = Plain(dtype=dtype)
    variables = module.init(random.key(0), jnp.zeros((1, 2)), jnp.zeros(1, int), train=False)
    return TrainedGenerator(module, variables, NAMES, 7)


def test_a_saved_custom_network_is_loaded_with_its_module(tmp_path):
    own, path = plain(), tmp_path / "own.safetensors"
    own.save(path)
    loaded = load_generator(path, generator=Plain())
    np.testing.assert_array_equal(loaded.generate(NAMES), own.generate(NAMES))
    with pytest.raises(ConfigError, match="not one of cgan_jax\n.*\nPass it: load_generator"):
        load_generator(path)
    with pytest.raises(ConfigError, match="has no n_classes"):
        load_generator(path, generator=nn.Dense(3))
    with pytest.raises(DataError, match="missing, left over or of another shape"):
        load_generator(path, generator=Plain(latent_dim=3))


def test_unsupported_dtypes_are_not_saved(tmp_path):
    with pytest.raises(ConfigError, match="params/Dense_0/bias is an array of bfloat16"):
        plain(jnp.bfloat16).save(tmp_path / "own.safetensors")
    assert not list(tmp_path.iterdir())


def test_home_is_expanded_in_paths(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    trained.save("~/generator.safetensors")
    assert load_generator("~/generator.safetensors").class_names == NAMES
    with pytest.raises(DataError, match="not a usable path"):
        load_generator(None)


def test_load_generator_reads_the_newest_checkpoint(tiny_config, tmp_path):
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


def test_load_generator_names_what_is_missing(tiny_config, tmp_path):
    with pytest.raises(RunError, match=r"no config\.json"):
        load_generator(tmp_path)
    RunFolder.start(tmp_path / "run", tiny_config, NAMES)
    with pytest.raises(RunError, match="no checkpoints"):
        load_generator(tmp_path / "run")
