"""Each preset's parts together, at a tiny size: they train, resume, share and are kept."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

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
from experiments.proofs import tiny
from tests.helpers import ROOT, StopAfter, first_fast, with_schedules
from tests.training.test_devices import finish, free_address

# The report has tests of its own; of the others, the fast tests take the smallest.
each_recipe = pytest.mark.parametrize(
    "name", first_fast("relativistic_mlp", "residual", "projection", "residual_wide")
)


def recipe(name):
    """A preset for the tiny data: two epochs of three batches, networks of a few channels.

    `residual` with all schedules, so that these tests have some from the first step.
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
    init = jax.jit(partial(mine.init, train=False))
    variables = init(jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros(1, int))
    TrainedGenerator(mine, variables, tiny.CLASS_NAMES, 0).save(tmp_path / "file.safetensors")
    with pytest.raises(ConfigError, match="not one of cgan_jax"):
        load_generator(tmp_path / "file.safetensors")


@pytest.mark.slow
@each_recipe
def test_labels_can_be_mixed(name, run_of):
    generator = load_generator(run_of(name)[0])
    frames = generator.morph([0], [1], frames=3)
    assert frames.shape == (3, 1, 4, 4, 1)
    assert (frames[0] != frames[-1]).any()


# Plain gradient descent, as Adam would amplify rounding. Batches of 8; the MLPs' last one is of 6.
SHARDED = """
import sys
from dataclasses import replace
import jax, numpy as np, optax
from cgan_jax.data import Dataset
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.sharding import data_mesh
from tests.training.test_recipes import recipe, tiny

folder, names, *process = sys.argv[1:]
if process:
    jax.distributed.initialize(process[0], 2, int(process[1]))
data, n_devices = tiny.dataset(), jax.device_count()
short = Dataset.from_arrays(data.images[:16], data.labels[:16], data.class_names, name=data.name)
for name in names.split(","):
    config = recipe(name)
    config = replace(config, batch_size=8, epochs=1, augment="color,translation,cutout")
    config = replace(config, penalty=replace(config.penalty, every=1))
    sgd = optax.sgd(0.1)
    gan = replace(GAN.from_config(config), gen_optimizer=sgd, disc_optimizer=sgd)
    mesh = data_mesh() if n_devices > 1 else None
    state = train(gan, config, data if name == "relativistic_mlp" else short, mesh=mesh)
    leaves = jax.tree.leaves(state)
    assert {len(leaf.sharding.device_set) for leaf in leaves} == {n_devices}
    if jax.process_index() == 0:
        np.savez(f"{folder}/{name}.npz", *leaves)
"""


@pytest.mark.slow
def test_devices_and_processes_compute_what_one_device_does(tmp_path):
    """Gradients, penalties, augmentation, BatchNorm, spectral norm and the average."""
    names, address = "relativistic_mlp,residual,projection", free_address()
    ways = {
        "one": (1, names),
        "eight": (8, names),
        "two": (1, "residual", address, "0"),  # of the processes; the others take long to compile
        "second": (1, "residual", address, "1"),
    }
    processes = []
    for way, (n_devices, *arguments) in ways.items():
        (tmp_path / way).mkdir()
        command = [sys.executable, "-c", SHARDED, str(tmp_path / way), *arguments]
        env = os.environ | {"JAX_NUM_CPU_DEVICES": str(n_devices)}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=env, **pipes))
    finish(*processes)
    for way, name in [("two", "residual"), *(("eight", name) for name in names.split(","))]:
        one, other = (dict(np.load(tmp_path / each / f"{name}.npz")) for each in ("one", way))
        assert any((one[leaf] != other[leaf]).any() for leaf in one)  # summed in another order
        for leaf in one:
            np.testing.assert_allclose(one[leaf], other[leaf], rtol=1e-4, atol=1e-5)


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
