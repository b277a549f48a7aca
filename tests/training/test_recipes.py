"""Each preset's parts together, at a tiny size: they train, resume, share and are kept."""

import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax import Checkpoints, RunFolder, load_generator
from cgan_jax.config import from_dict, leaves, to_dict
from cgan_jax.data import Dataset
from cgan_jax.errors import ConfigError
from cgan_jax.model_config import MODEL_KINDS
from cgan_jax.presets import PRESETS
from cgan_jax.sampling.generator import TrainedGenerator
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.sweep import Member, train_members
from experiments.proofs import tiny
from tests.helpers import ROOT, StopAfter, with_schedules

# The report has tests of its own; of the others, the fast tests take two.
each_recipe = pytest.mark.parametrize(
    "name",
    ["relativistic_mlp", "residual"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("projection", "residual_wide")],
)


def recipe(name):
    """A preset for the tiny data: two epochs of three batches, networks of a few channels.

    `residual` with schedules, so that the fast tests have some.
    """
    return tiny.shrink(replace(with_schedules(name), epochs=2))


def trained(config, folder=None, stop_after=10**9, **options):
    """The state after training, in a run folder or without one."""
    gan, stop = GAN.from_config(config), StopAfter(stop_after)
    if folder is None:
        return train(gan, config, tiny.dataset(), **options)
    run = RunFolder.start(folder, config, tiny.CLASS_NAMES)
    with Checkpoints(run.checkpoints) as checkpoints:
        return train(
            gan,
            config,
            tiny.dataset(),
            callbacks=[stop],
            checkpoints=checkpoints,
            should_stop=stop,
            **options,
        )


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """The folder and the last state of a recipe's run, trained once."""
    runs = {}

    def run(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp(name) / "run"
            runs[name] = folder, trained(recipe(name), folder)
        return runs[name]

    return run


def assert_trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_every_kind_of_model_has_a_tiny_size():
    assert tiny.SIZES.keys() == set(MODEL_KINDS.values())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = PRESETS[name].with_schedule_steps(60_000)
    assert from_dict(to_dict(config)) == config
    assert len(dict(leaves(config))) == len(list(leaves(config)))


@each_recipe
def test_a_run_stopped_twice_ends_with_the_same_bits(name, run_of, tmp_path):
    _, state = run_of(name)
    for stop_after in (2, 3):
        trained(recipe(name), tmp_path / "run", stop_after)
    assert_trees_equal(trained(recipe(name), tmp_path / "run"), state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@each_recipe
def test_what_is_sampled_is_the_average(name, run_of):
    folder, state = run_of(name)
    average, raw = load_generator(folder), load_generator(folder, raw=True)
    assert_trees_equal(average.variables, jax.device_get(state.average))
    assert_trees_equal(raw.variables, jax.device_get(state.gen.variables))
    assert (average.generate([0, 1, 2]) != raw.generate([0, 1, 2])).any()


@each_recipe
def test_a_generators_file_describes_its_network(name, run_of, tmp_path):
    generator = load_generator(run_of(name)[0])
    generator.save(tmp_path / "generator.safetensors")
    read = load_generator(tmp_path / "generator.safetensors")
    assert read.module == generator.module
    np.testing.assert_array_equal(read.generate([0, 1, 2]), generator.generate([0, 1, 2]))


def test_a_subclass_is_not_described_as_its_base(tmp_path):
    module = GAN.from_config(recipe("residual")).generator

    class Mine(type(module)):
        pass

    mine = Mine(module.config)
    variables = mine.init(jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros(1, int), train=False)
    TrainedGenerator(mine, variables, tiny.CLASS_NAMES, 0).save(tmp_path / "file.safetensors")
    with pytest.raises(ConfigError, match="not one of cgan_jax"):
        load_generator(tmp_path / "file.safetensors")


@each_recipe
def test_labels_can_be_mixed(name, run_of):
    generator = load_generator(run_of(name)[0])
    frames = generator.morph([0], [1], frames=3)
    assert frames.shape == (3, 1, 4, 4, 1)
    assert (frames[0] != frames[-1]).any()


@pytest.mark.parametrize("vmap", [False, True])
@pytest.mark.parametrize(
    "name", ["relativistic_mlp", pytest.param("residual", marks=pytest.mark.slow)]
)
def test_a_sweeps_member_trains_as_it_does_alone(name, vmap):
    base = recipe(name)
    faster = replace(base, optimizer=replace(base.optimizer, lr=2 * base.optimizer.lr))
    configs = [base, replace(faster, seed=1)]
    members = [Member(str(i), config) for i, config in enumerate(configs)]
    states = train_members(members, tiny.dataset(), vmap=vmap)
    for config, state in zip(configs, states, strict=True):
        alone = trained(config)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4),
            (state.gen, state.average),
            (alone.gen, alone.average),
        )


SHARDED = """
from dataclasses import replace
import jax, numpy as np, optax
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.sharding import data_mesh
from tests.training.test_recipes import recipe, tiny

# Batches of 8, 8 and 6. Plain gradient descent, as Adam would amplify rounding.
config = replace(recipe("{name}"), batch_size=8, epochs=1, augment="color,translation,cutout")
gan = replace(GAN.from_config(config), gen_optimizer=optax.sgd(0.1), disc_optimizer=optax.sgd(0.1))
one, two = (train(gan, config, tiny.dataset(), mesh=mesh) for mesh in (None, data_mesh(2)))
assert len(two.gen.params["{leaf}"]["kernel"].sharding.device_set) == 2
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, two)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "leaf"),
    [("relativistic_mlp", "hidden_0"), ("residual", "first"), ("projection", "first")],
)
def test_two_devices_compute_what_one_does(name, leaf):
    """Losses, penalties, augmentation, BatchNorm, spectral norm and the average."""
    done = subprocess.run(
        [sys.executable, "-c", SHARDED.format(name=name, leaf=leaf)],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_schedules_need_their_length():
    config = replace(PRESETS["residual_wide"], schedule_steps=None)
    with pytest.raises(ConfigError, match=r"Call config.for_data\(dataset\)"):
        GAN.from_config(config)


def test_equal_recipes_share_one_gan():
    """Two seeds, or two lengths without schedules, compile once."""
    mlp = recipe("relativistic_mlp")
    assert GAN.from_config(mlp) is GAN.from_config(replace(mlp, seed=5, epochs=9))
    assert GAN.from_config(mlp) is not GAN.from_config(replace(mlp, batch_size=6))  # the average
    residual = recipe("residual")
    assert GAN.from_config(residual) is not GAN.from_config(replace(residual, schedule_steps=99))


@pytest.mark.parametrize("channels", [1, 3])
def test_own_data_of_a_size_that_does_not_halve_are_refused(channels):
    images = np.zeros((6, 10, 10, channels), np.uint8)
    data = Dataset.from_arrays(images, np.arange(6) % 2, ["a", "b"], name="odd")
    with pytest.raises(ConfigError, match="img_size"):
        PRESETS["residual"].for_data(data)
